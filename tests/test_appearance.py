"""Chapter 10, appearance: blur, brightness and contrast, and the stain of a slide. Next: test_augment.py.

A blur is a weighted mean of neighbours, so it can neither brighten nor darken. A stain takes away light by a factor for
each unit of it, so its logarithm is a sum, and a sum can be taken apart again.
"""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from cnn import appearance
from cnn.appearance import (
    STAINS,
    brightness_and_contrast,
    combine_stains,
    gaussian_blur,
    gaussian_weights,
    separate_stains,
)
from cnn.errors import ShapeError
from tests.checkers import assert_equal_arrays, assert_gradient


def noise(height: int, width: int, seed: int = 0, dtype=np.float32) -> np.ndarray:
    """(height, width, 3), from 0.05 to 0.95."""
    return (0.05 + 0.9 * np.random.default_rng(seed).random((height, width, 3))).astype(dtype)


# Blur


def test_gaussian_weights_by_hand():
    # sigma 1, radius 1: exp(-1/2), 1, exp(-1/2) over their sum
    side = math.exp(-0.5)
    assert_equal_arrays(gaussian_weights(1.0, 1), np.array([side, 1, side]) / (1 + 2 * side), "weights of sigma 1")
    # sigma 2, radius 2: exp(-4/8), exp(-1/8), 1, ...
    raw = np.exp([-4 / 8, -1 / 8, 0, -1 / 8, -4 / 8])
    assert_equal_arrays(gaussian_weights(2.0, 2), raw / raw.sum(), "weights of sigma 2")


@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.0, 5.0])
def test_the_weights_sum_to_one(sigma):
    assert float(gaussian_weights(sigma, 3).sum()) == pytest.approx(1, abs=1e-6)


def test_one_bright_pixel_becomes_a_product_of_two_gaussians():
    image = np.zeros((5, 7, 1), np.float32)
    image[2, 3] = 1.0
    side = math.exp(-0.5)
    weights = np.array([side, 1, side]) / (1 + 2 * side)
    expected = np.zeros((5, 7))
    expected[1:4, 2:5] = np.outer(weights, weights)
    assert_equal_arrays(gaussian_blur(image, 1.0, radius=1)[:, :, 0], expected, "a bright pixel, blurred")


def test_a_blur_of_sigma_0_changes_nothing():
    assert_equal_arrays(gaussian_blur(noise(5, 6), 0.0, radius=3), noise(5, 6), "no blur")


@pytest.mark.parametrize(("sigma", "radius"), [(0.7, 2), (1.5, 5), (3.0, 9)])
def test_a_blur_is_what_scipy_computes(float64, sigma, radius):
    image = noise(8, 11, dtype=np.float64)
    expected = [ndimage.gaussian_filter(image[..., c], sigma, radius=radius, mode="reflect") for c in range(3)]
    got = gaussian_blur(jnp.asarray(image), sigma, radius=radius)
    assert_equal_arrays(got, np.stack(expected, axis=-1), f"blur of sigma {sigma}", rtol=1e-12, atol=1e-12)


def test_a_blur_conserves_the_sum_of_all_pixels_and_commutes_with_flips():
    image = noise(9, 6)
    blurred = gaussian_blur(image, 1.3, radius=4)
    assert_equal_arrays(blurred.sum((0, 1)), image.sum((0, 1)), "the light of the image", rtol=1e-5)
    assert_equal_arrays(gaussian_blur(image[::-1], 1.3, radius=4), blurred[::-1], "flipped, then blurred")
    assert_equal_arrays(gaussian_blur(image[:, ::-1], 1.3, radius=4), blurred[:, ::-1], "flipped, then blurred")


def test_the_gradient_of_a_blur_is_a_blur(float64):
    image, upstream = noise(4, 5, dtype=np.float64), noise(4, 5, seed=1, dtype=np.float64)

    def total(image):
        return (gaussian_blur(jnp.asarray(image), 0.8, radius=2) * upstream).sum()

    gradient = jax.grad(total)(jnp.asarray(image))
    assert_gradient(gradient, total, image, "a blur")
    assert_equal_arrays(gradient, gaussian_blur(jnp.asarray(upstream), 0.8, radius=2), "it is its own transpose")


# Brightness and contrast


def test_brightness_and_contrast_by_hand():
    # mean 0.5; contrast 2 doubles the distance from it, brightness 0.1 is added; then cut to 0 .. 1
    image = jnp.array([[[0.2], [0.5], [0.8]]])
    assert_equal_arrays(brightness_and_contrast(image, 0.1, 2.0).ravel(), [0.0, 0.6, 1.0], "0.2 -> -0.1 + 0.1 = 0")
    assert_equal_arrays(brightness_and_contrast(image, 0.0, 0.5).ravel(), [0.35, 0.5, 0.65], "half the contrast")
    assert_equal_arrays(brightness_and_contrast(image, 0.0, 1.0), image, "nothing")


# Stain


def test_the_light_behind_one_unit_of_haematoxylin():
    # the density is the first row of STAINS: exp(-0.65 / n), exp(-0.70 / n), exp(-0.29 / n), n the row's length
    length = math.sqrt(0.65**2 + 0.70**2 + 0.29**2)
    expected = [math.exp(-density / length) for density in (0.65, 0.70, 0.29)]
    assert_equal_arrays(combine_stains(jnp.array([1.0, 0.0, 0.0])), expected, "one unit of haematoxylin")
    assert expected[2] > expected[0] > expected[1]  # blue is what is left of the light: a blue-violet nucleus


def test_the_light_behind_eosin_is_pink():
    red, green, blue = np.asarray(combine_stains(jnp.array([0.0, 1.0, 0.0])))
    assert red > blue > green


def test_amounts_are_found_again_in_their_mixture():
    amounts = np.array([[[0.7, 0.4, 0.0], [0.1, 1.2, 0.05]]], np.float32)
    assert_equal_arrays(separate_stains(combine_stains(jnp.asarray(amounts))), amounts, "amounts of stain", rtol=1e-4)


def test_light_is_found_again_in_its_stains_down_to_the_darkest():
    image = noise(4, 5)
    assert_equal_arrays(combine_stains(separate_stains(jnp.asarray(image))), image, "light", rtol=1e-4)
    black = combine_stains(separate_stains(jnp.zeros((1, 1, 3))))
    assert_equal_arrays(black, np.full((1, 1, 3), 1 / 255), "black is taken for one part in 255", rtol=1e-4)


def test_white_holds_no_stain():
    assert_equal_arrays(separate_stains(jnp.ones((1, 2, 3))), np.zeros((1, 2, 3)), "white")


def test_the_stains_are_unit_vectors_and_the_rest_stands_upright_on_both():
    assert_equal_arrays(np.linalg.norm(STAINS, axis=1), [1, 1, 1], "lengths")
    assert_equal_arrays(STAINS[2] @ STAINS[:2].T, [0, 0], "the rest is orthogonal to both")


def test_an_image_without_three_colours_has_no_stain():
    with pytest.raises(ShapeError, match=r"separate stains: got an image of shape \(2, 2, 1\), wants 3 channels"):
        separate_stains(jnp.ones((2, 2, 1)))


def test_the_gradient_of_colour_deconvolution(float64):
    image, upstream = noise(2, 3, dtype=np.float64), noise(2, 3, seed=1, dtype=np.float64)

    def total(image):
        return (separate_stains(jnp.asarray(image)) * upstream).sum()

    # d amounts / d light = -1 / light, spread over the stains
    by_hand = -(upstream @ np.linalg.inv(STAINS).T) / image
    assert_equal_arrays(jax.grad(total)(jnp.asarray(image)), by_hand, "by hand", rtol=1e-8)
    assert_gradient(by_hand, total, image, "colour deconvolution")


# Random ones

RANDOM = [appearance.random_blur, appearance.random_brightness_and_contrast, appearance.random_stain]


@pytest.mark.parametrize("function", RANDOM, ids=lambda function: function.__name__)
def test_a_random_look_keeps_shape_type_and_range_and_depends_on_its_key_alone(function):
    image = jnp.asarray(noise(8, 9))
    compiled = jax.jit(function)
    results = [np.asarray(compiled(jax.random.key(seed), image)) for seed in range(6)]
    assert np.array_equal(results[0], compiled(jax.random.key(0), image)), "the same key, another result"
    assert len({result.tobytes() for result in results}) == 6, "different keys give the same result"
    for result in results:
        assert (result.shape, result.dtype) == ((8, 9, 3), np.float32)
        assert result.min() >= 0
        assert result.max() <= 1 + 1e-6


def test_blurs_are_drawn_from_none_to_the_largest(monkeypatch):
    monkeypatch.setattr(appearance, "gaussian_blur", lambda image, sigma, radius: jnp.array([sigma, radius]))
    keys = jax.random.split(jax.random.key(0), 200)
    drawn = np.asarray(jax.vmap(lambda key: appearance.random_blur(key, jnp.zeros((2, 2, 3)), max_sigma=1.5))(keys))
    assert 0 <= drawn[:, 0].min() < 0.1
    assert 1.4 < drawn[:, 0].max() <= 1.5
    assert set(drawn[:, 1]) == {round(3 * 1.5)}  # three sigma of the largest


def test_brightness_and_contrast_are_drawn_apart_within_their_limits(monkeypatch):
    monkeypatch.setattr(appearance, "brightness_and_contrast", lambda image, b, c: jnp.array([b, c]))
    keys = jax.random.split(jax.random.key(0), 200)

    def draw(key):
        image = jnp.zeros((2, 2, 3))
        return appearance.random_brightness_and_contrast(key, image, max_brightness=0.2, max_contrast=0.5)

    brightness, contrast = np.asarray(jax.vmap(draw)(keys)).T
    assert -0.2 <= brightness.min() < -0.18 < 0.18 < brightness.max() <= 0.2
    assert 0.5 <= contrast.min() < 0.55 < 1.45 < contrast.max() <= 1.5
    assert abs(np.corrcoef(brightness, contrast)[0, 1]) < 0.3


def test_each_stain_is_scaled_and_moved_by_itself_within_its_limits():
    amounts = jnp.tile(jnp.array([0.6, 0.8, 0.3]), (1, 1, 1))
    image = combine_stains(amounts)
    keys = jax.random.split(jax.random.key(0), 300)

    def amounts_after(key, **limits):
        return separate_stains(appearance.random_stain(key, image, **limits))[0, 0]

    scaled = np.asarray(jax.vmap(lambda key: amounts_after(key, max_scale=0.2, max_offset=0.0))(keys)) / amounts[0, 0]
    moved = np.asarray(jax.vmap(lambda key: amounts_after(key, max_scale=0.0, max_offset=0.1))(keys)) - amounts[0, 0]
    for values, centre, limit in ((scaled, 1.0, 0.2), (moved, 0.0, 0.1)):
        assert np.abs(values - centre).max() <= limit + 1e-3
        assert (np.abs(values - centre).max(axis=0) > 0.9 * limit).all()
        assert abs(np.corrcoef(values.T)[0, 1]) < 0.3


def test_the_key_comes_first_and_options_by_name():
    for function in RANDOM:
        parameters = inspect.signature(function).parameters
        assert list(parameters)[:2] == ["key", "image"]
        assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in list(parameters.values())[2:])
