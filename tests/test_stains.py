"""Stains: light that passes a stained slide, and what it tells of the stain. Next: test_initialization.py.

A stain takes away light by a factor for each unit of it, so its logarithm is a sum, and a sum can be taken apart again.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn.dyes import STAINS
from cnn.errors import ShapeError
from cnn.stains import DARKEST, FAINT, WHITE, as_light, combine_stains, relative_stains, separate_stains
from tests.checkers import assert_equal_arrays, assert_gradient


def noise(height: int, width: int, seed: int = 0, dtype=np.float32) -> np.ndarray:
    """(height, width, 3), from 0.05 to 0.95."""
    return (0.05 + 0.9 * np.random.default_rng(seed).random((height, width, 3))).astype(dtype)


def test_the_light_behind_one_unit_of_haematoxylin_is_blue():
    # the density is the first row of STAINS: exp(-0.65 / n), exp(-0.70 / n), exp(-0.29 / n), n the row's length
    length = math.sqrt(0.65**2 + 0.70**2 + 0.29**2)
    expected = [math.exp(-density / length) for density in (0.65, 0.70, 0.29)]
    assert_equal_arrays(combine_stains(jnp.array([1.0, 0.0, 0.0])), expected, "one unit of haematoxylin")
    assert expected[2] > expected[0] > expected[1]  # blue is what is left of the light: a blue-violet nucleus


def test_the_light_behind_one_unit_of_eosin_is_pink():
    length = math.sqrt(0.07**2 + 0.99**2 + 0.11**2)
    expected = [math.exp(-density / length) for density in (0.07, 0.99, 0.11)]
    assert_equal_arrays(combine_stains(jnp.array([0.0, 1.0, 0.0])), expected, "one unit of eosin")
    assert expected[0] > expected[2] > expected[1]


def test_a_pixel_with_known_amounts_is_taken_apart_by_hand():
    # densities add up: 0.7 of haematoxylin and 0.4 of eosin, each a unit vector
    haematoxylin = np.array([0.65, 0.70, 0.29]) / math.sqrt(0.65**2 + 0.70**2 + 0.29**2)
    eosin = np.array([0.07, 0.99, 0.11]) / math.sqrt(0.07**2 + 0.99**2 + 0.11**2)
    light = np.exp(-(0.7 * haematoxylin + 0.4 * eosin)).astype(np.float32)
    assert_equal_arrays(separate_stains(light[None, None])[0, 0], [0.7, 0.4, 0.0], "amounts", atol=1e-5)
    # another way: three equations, densities = amounts @ STAINS, solved
    solved = np.linalg.solve(STAINS.T, -np.log(light))
    assert_equal_arrays(separate_stains(light[None, None])[0, 0], solved, "three equations", atol=1e-5)


def test_amounts_are_found_again_in_their_mixture():
    amounts = np.array([[[0.7, 0.4, 0.0], [0.1, 1.2, 0.05]]], np.float32)
    assert_equal_arrays(separate_stains(combine_stains(jnp.asarray(amounts))), amounts, "amounts", rtol=1e-4, atol=1e-5)


def test_light_is_found_again_in_its_stains_down_to_the_darkest():
    image = noise(4, 5)
    assert_equal_arrays(combine_stains(separate_stains(jnp.asarray(image))), image, "light", rtol=1e-4)
    black = combine_stains(separate_stains(jnp.zeros((1, 1, 3))))
    assert_equal_arrays(black, np.full((1, 1, 3), 1 / 255), "black is taken for one part in 255", rtol=1e-4)
    assert DARKEST == 1 / 255


def test_white_holds_no_stain_and_less_than_none_is_white():
    assert_equal_arrays(separate_stains(jnp.ones((1, 2, 3))), np.zeros((1, 2, 3)), "white")
    assert_equal_arrays(combine_stains(jnp.array([-0.5, -0.2, 0.0])), [1, 1, 1], "light is cut at 1")


def test_the_stains_are_unit_vectors_and_the_rest_stands_upright_on_both():
    assert_equal_arrays(np.linalg.norm(STAINS, axis=1), [1, 1, 1], "lengths")
    assert_equal_arrays(STAINS[2] @ STAINS[:2].T, [0, 0], "the rest is orthogonal to both")


def test_an_image_without_three_colours_has_no_stain():
    with pytest.raises(
        ShapeError, match=r"^separate stains: got an image of shape \(2, 2, 1\), wants 3 channels, red,"
    ):
        separate_stains(jnp.ones((2, 2, 1)))


def test_amounts_relative_to_those_of_the_tissue_by_hand():
    # two pixels of tissue, 0.6 and 0.8 of haematoxylin, and glass, which does not count: 0.6^2 + 0.8^2 is 1
    light = combine_stains(jnp.array([[0.6, 0.0, 0.0], [0.8, 0.0, 0.0], [0.0, 0.0, 0.0]])[None])
    length = math.sqrt(1 / (2 + 1) + FAINT**2)  # one pixel more, so that no tissue is no division by 0
    assert_equal_arrays(relative_stains(light)[0, :, 0], [0.6 / length, 0.8 / length, 0], "relative", atol=1e-5)


def test_a_slide_stained_twice_as_strongly_looks_the_same_but_for_the_faintest():
    amounts = np.zeros((20, 30, 3), np.float32)
    amounts[..., :2] = 0.6 + 0.4 * np.random.default_rng(0).random((20, 30, 2))
    once, twice = (relative_stains(combine_stains(jnp.asarray(times * amounts))) for times in (1, 2))
    assert_equal_arrays(twice[..., :2], once[..., :2], "stained twice as strongly", rtol=0.01)
    far_from = separate_stains(combine_stains(jnp.asarray(2 * amounts))) - separate_stains(combine_stains(amounts))
    assert np.abs(far_from).max() > 0.5, "as the amounts themselves do not"


def test_glass_beside_the_tissue_makes_no_difference_to_it():
    tissue = combine_stains(jnp.full((10, 10, 3), jnp.array([0.9, 0.5, 0.0])))
    beside_glass = jnp.concatenate([tissue, jnp.full((10, 300, 3), (WHITE + 1) / 255)], axis=1)
    assert_equal_arrays(relative_stains(beside_glass)[:, :10], relative_stains(tissue), "beside glass")


def test_of_glass_alone_nothing_is_blown_up():
    relative = relative_stains(jnp.full((4, 5, 3), (WHITE + 1) / 255))
    assert np.abs(relative).max() < -math.log((WHITE + 1) / 255) * 2 / FAINT
    gradient = jax.grad(lambda image: relative_stains(image).sum())(jnp.ones((4, 5, 3)))
    assert np.isfinite(gradient).all()


def test_each_image_of_a_batch_is_measured_by_itself():
    images = jnp.stack([jnp.asarray(noise(4, 5)), jnp.asarray(noise(4, 5, seed=1)) / 3])
    assert_equal_arrays(relative_stains(images)[1], relative_stains(images[1]), "alone", rtol=1e-5)


def test_the_gradient_of_colour_deconvolution(float64):
    image, upstream = noise(2, 3, dtype=np.float64), noise(2, 3, seed=1, dtype=np.float64)

    def total(image):
        return (separate_stains(jnp.asarray(image)) * upstream).sum()

    # d amounts / d light = -1 / light, spread over the stains
    by_hand = -(upstream @ np.linalg.inv(STAINS).T) / image
    assert_equal_arrays(jax.grad(total)(jnp.asarray(image)), by_hand, "by hand", rtol=1e-8)
    assert_gradient(by_hand, total, image, "colour deconvolution")


def test_the_gradient_of_the_light_by_the_amounts(float64):
    amounts, upstream = noise(2, 3, dtype=np.float64), noise(2, 3, seed=1, dtype=np.float64)

    def total(amounts):
        return (combine_stains(jnp.asarray(amounts)) * upstream).sum()

    # d light / d amounts = -light, through the stains; what is cut at 1 (the rest may brighten a colour) has none
    light = np.exp(-(amounts @ STAINS))
    by_hand = -(upstream * light * (light < 1)) @ STAINS.T
    assert_equal_arrays(jax.grad(total)(jnp.asarray(amounts)), by_hand, "by hand", rtol=1e-8)
    assert_gradient(by_hand, total, amounts, "light by amounts")


@pytest.mark.parametrize(("value", "tissue"), [(WHITE, 1), (WHITE + 1, 0)])
def test_a_pixel_of_200_is_tissue_and_one_of_201_is_glass_in_bytes_and_in_light(value, tissue):
    for image in (jnp.full((1, 1, 3), value / 255), as_light(jnp.full((1, 1, 3), value, jnp.uint8))):
        amounts = separate_stains(image)
        want = amounts / jnp.sqrt(tissue * amounts**2 / (tissue + 1) + 0.05**2)
        assert_equal_arrays(relative_stains(image), want, f"{value}", rtol=1e-4)


def test_each_stain_is_measured_against_itself_alone():
    light = combine_stains(jnp.array([[[0.6, 0.3, 0.0], [0.8, 0.4, 0.0]]]))
    got = relative_stains(light)[0]
    assert_equal_arrays(got[:, 0], np.array([0.6, 0.8]) / math.sqrt(1 / 3 + 0.05**2), "haematoxylin", atol=1e-5)
    assert_equal_arrays(got[:, 1], np.array([0.3, 0.4]) / math.sqrt(0.25 / 3 + 0.05**2), "eosin", atol=1e-5)


def test_a_pixel_that_is_dark_in_one_colour_alone_is_tissue():
    # of 250 150 240 only green is at most 200 (their mean is 213): one pixel of tissue
    image = jnp.array([[[250.0, 150.0, 240.0]]]) / 255
    amounts = separate_stains(image)
    assert_equal_arrays(relative_stains(image), amounts / jnp.sqrt(amounts**2 / (1 + 1) + FAINT**2), "pink", rtol=1e-4)
