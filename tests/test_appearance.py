"""Appearance: blur, brightness and contrast, slides stained a little differently. Next: test_augment.py.

A blur is a weighted mean of neighbours, so it can neither brighten nor darken.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cnn import appearance
from cnn.appearance import brightness_and_contrast, gaussian_blur, gaussian_weights
from cnn.stains import combine_stains, separate_stains
from tests.checkers import assert_equal_arrays, assert_gradient

blur = jax.jit(gaussian_blur, static_argnames="radius")


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


def test_a_bright_pixel_at_the_edge_is_mirrored_there():
    #   1 0 0   mirrored: 1 | 1 0 0 | 0   the first is (1 + side) / (1 + 2 side), the second side / (1 + 2 side)
    side = math.exp(-0.5)
    blurred = gaussian_blur(np.array([[[1], [0], [0]]], np.float32), 1.0, radius=1).ravel()
    assert_equal_arrays(blurred, np.array([1 + side, side, 0]) / (1 + 2 * side), "a bright pixel at the edge")


def test_a_blur_of_sigma_0_changes_nothing():
    assert_equal_arrays(blur(noise(5, 6), 0.0, radius=3), noise(5, 6), "no blur")


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.floats(0.05, 4.0), st.sampled_from([(8, 11, 3), (6, 5, 4), (9, 6, 0)]))
def test_a_blur_is_what_scipy_computes(sigma, shape):
    height, width, radius = shape
    image = noise(height, width, dtype=np.float64)
    expected = [ndimage.gaussian_filter(image[..., c], sigma, radius=radius, mode="reflect") for c in range(3)]
    with jax.enable_x64(True):
        got = np.asarray(blur(image, sigma, radius=radius))
    assert_equal_arrays(got, np.stack(expected, axis=-1), f"blur of sigma {sigma}", rtol=1e-12, atol=1e-12)


def test_a_blur_conserves_the_sum_of_all_pixels_and_commutes_with_flips():
    image = noise(9, 6)
    blurred = blur(image, 1.3, radius=4)
    assert_equal_arrays(blurred.sum((0, 1)), image.sum((0, 1)), "the light of the image", rtol=1e-5)
    assert_equal_arrays(blur(image[::-1], 1.3, radius=4), blurred[::-1], "upside down, then blurred")
    assert_equal_arrays(blur(image[:, ::-1], 1.3, radius=4), blurred[:, ::-1], "mirrored, then blurred")


def test_every_image_of_a_batch_can_have_a_blur_of_its_own():
    images, sigmas = np.stack([noise(6, 7), noise(6, 7, seed=1)]), jnp.array([0.4, 2.0])
    both = jax.vmap(partial(gaussian_blur, radius=4))(images, sigmas)
    one_by_one = [blur(image, sigma, radius=4) for image, sigma in zip(images, sigmas)]
    assert_equal_arrays(both, np.stack(one_by_one), "two images with two sigmas")


def test_a_blur_keeps_the_type_of_the_image():
    assert blur(noise(5, 6, dtype=np.float16), 1.0, radius=2).dtype == np.float16


def test_the_gradient_of_a_blur_is_a_blur(float64):
    image, upstream = noise(4, 5, dtype=np.float64), noise(4, 5, seed=1, dtype=np.float64)

    def total(image):
        return (blur(image, 0.8, radius=2) * upstream).sum()

    gradient = jax.grad(total)(jnp.asarray(image))
    assert_gradient(gradient, total, image, "a blur")
    assert_equal_arrays(gradient, blur(upstream, 0.8, radius=2), "it is its own transpose", rtol=1e-12)


# Brightness and contrast


def test_brightness_and_contrast_by_hand():
    # mean 0.5; contrast 2 doubles the distance from it, brightness 0.1 is added; then cut to 0 .. 1
    image = jnp.array([[[0.2], [0.5], [0.8]]])
    got = brightness_and_contrast(image, 0.1, 2.0).ravel()
    assert_equal_arrays(got, [-0.3 * 2 + 0.5 + 0.1, 0.0 * 2 + 0.5 + 0.1, 1.0], "0.3 * 2 + 0.5 + 0.1 = 1.2, cut to 1")
    assert_equal_arrays(brightness_and_contrast(image, -0.2, 1.5).ravel(), [0.0, 0.3, 0.75], "-0.15 is cut to 0")
    assert_equal_arrays(brightness_and_contrast(image, 0.0, 0.5).ravel(), [0.35, 0.5, 0.65], "half the contrast")
    assert_equal_arrays(brightness_and_contrast(image, 0.0, 1.0), image, "nothing")


def test_the_mean_that_contrast_leaves_alone_is_that_of_all_colours():
    # mean of 0.2 and 0.6: 0.4; half the contrast: a red image stays red, only paler
    got = brightness_and_contrast(jnp.array([[[0.2, 0.6], [0.2, 0.6]]]), 0.0, 0.5)
    assert_equal_arrays(got, [[[0.3, 0.5], [0.3, 0.5]]], "0.4 - 0.2 / 2 and 0.4 + 0.2 / 2")


def test_the_gradient_of_contrast_goes_through_the_mean_too(float64):
    # d result_i / d pixel_j = contrast * [i = j] + (1 - contrast) / number of values
    image, upstream = noise(2, 3, dtype=np.float64) * 0.5 + 0.2, noise(2, 3, seed=1, dtype=np.float64)

    def total(image):
        return (brightness_and_contrast(jnp.asarray(image), 0.05, 1.2) * upstream).sum()

    by_hand = 1.2 * upstream + (1 - 1.2) * upstream.sum() / 18
    assert_equal_arrays(jax.grad(total)(jnp.asarray(image)), by_hand, "by hand", rtol=1e-10)
    assert_gradient(by_hand, total, image, "brightness and contrast")


# Random ones

KEYS = jax.random.split(jax.random.key(0), 300)


@pytest.mark.parametrize(("options", "limit", "radius"), [({}, 1.0, 3), ({"max_sigma": 1.5}, 1.5, 4)])
def test_blurs_are_drawn_from_none_to_the_largest_and_reach_three_sigma(monkeypatch, options, limit, radius):
    monkeypatch.setattr(appearance, "gaussian_blur", lambda image, sigma, radius: jnp.array([sigma, radius]))
    random = np.asarray(jax.vmap(lambda key: appearance.random_blur(key, jnp.zeros((2, 2, 3)), **options))(KEYS))
    assert 0 <= random[:, 0].min() < 0.05 * limit < 0.95 * limit < random[:, 0].max() <= limit
    assert abs(random[:, 0].mean() - limit / 2) < 4 * limit / math.sqrt(12 * 300)  # evenly: 4 standard errors
    assert set(random[:, 1]) == {radius}


def test_even_the_smallest_blur_reaches_its_neighbours(monkeypatch):
    monkeypatch.setattr(appearance, "gaussian_blur", lambda image, sigma, radius: radius)
    assert appearance.random_blur(jax.random.key(0), jnp.zeros((2, 2, 3)), max_sigma=0.1) == 1


@pytest.mark.parametrize(
    ("options", "most", "least"), [({}, 0.1, 0.1), ({"max_brightness": 0.2, "max_contrast": 0.5}, 0.2, 0.5)]
)
def test_brightness_and_contrast_are_drawn_apart_within_their_limits(monkeypatch, options, most, least):
    monkeypatch.setattr(appearance, "brightness_and_contrast", lambda image, b, c: jnp.array([b, c]))
    image = jnp.zeros((2, 2, 3))
    random = jax.vmap(lambda key: appearance.random_brightness_and_contrast(key, image, **options))(KEYS)
    brightness, contrast = np.asarray(random).T
    for values, limit in ((brightness, most), (contrast - 1, least)):
        assert -1.001 * limit <= values.min() < -0.95 * limit < 0.95 * limit < values.max() <= 1.001 * limit
    assert abs(np.corrcoef(brightness, contrast)[0, 1]) < 0.25


@pytest.mark.parametrize(
    ("options", "most", "least"), [({}, 0.1, 0.02), ({"max_scale": 0.2, "max_offset": 0.1}, 0.2, 0.1)]
)
def test_each_stain_is_scaled_and_moved_by_itself_within_its_limits(options, most, least):
    # Two pixels with amounts a and b of every stain, a - b known, become a * scale + offset and b * scale + offset.
    one, other = np.array([0.5, 0.7, 0.1]), np.array([1.0, 1.6, 0.3])
    image = combine_stains(jnp.array([[one, other]]))
    random = jax.vmap(lambda key: separate_stains(appearance.random_stain(key, image, **options))[0])(KEYS)
    after_one, after_other = np.asarray(random).transpose(1, 0, 2)
    scale = (after_other - after_one) / (other - one)
    offset = after_one - one * scale
    for values, limit in ((scale - 1, most), (offset, least)):
        assert np.abs(values).max() <= limit + 1e-3
        assert (values.max(axis=0) > 0.9 * limit).all()
        assert (values.min(axis=0) < -0.9 * limit).all()
    apart = np.corrcoef(np.concatenate([scale, offset], axis=1).T) - np.eye(6)
    assert np.abs(apart).max() < 0.25, "two of the six are drawn from the same random number"


@pytest.mark.parametrize("max_sigma", [0.4, 1.5, 2.0], ids=["3 weights", "9 weights", "13 weights, in more programs"])
@pytest.mark.parametrize("width", [3, 11], ids=["narrower than the mirror", "wide"])
def test_down_then_wider_then_across_is_the_whole_blur(max_sigma, width):
    keys, images = jax.random.split(jax.random.key(4), 2), np.stack([noise(9, width), noise(9, width, seed=1)])
    blur = appearance.compiled_blur(max_sigma=max_sigma)
    one_by_one = [appearance.random_blur(key, image, max_sigma=max_sigma) for key, image in zip(keys, images)]
    assert_equal_arrays(blur(images, keys), np.stack(one_by_one), "in several programs", atol=1e-6)
    assert_equal_arrays(jax.jit(blur)(images, keys), np.stack(one_by_one), "in a larger program", atol=1e-6)
