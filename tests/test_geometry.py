"""Geometry: where each pixel of the result comes from, and which way an angle turns.

A map is a matrix that is asked backwards: for a pixel of the result, where in the image does it look? What it finds
between the pixels is the nearest one, or a mean of the four around. Next: test_crops.py.
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

from cnn import geometry
from cnn.errors import UserError
from cnn.resampling import affine, rotation, shear, shift, zoom
from tests.checkers import assert_equal_arrays, assert_gradient

#   1 2 3      an image of 2 x 3 pixels and one channel, with no symmetry
#   4 5 6
SMALL = np.array([[1, 2, 3], [4, 5, 6]], np.float32)[:, :, None]
SCIPY_MODE = {"constant": "constant", "edge": "nearest", "reflect": "reflect"}
warp = jax.jit(affine, static_argnames=("sampling", "fill"))


def noise(height: int, width: int, seed: int = 0, dtype=np.float32) -> np.ndarray:
    """(height, width, 3), from 0 to 1."""
    return np.random.default_rng(seed).random((height, width, 3)).astype(dtype)


def plane(image) -> list:
    """The only channel of an image as rows of numbers."""
    return np.asarray(image)[:, :, 0].round(4).tolist()


# By hand


def test_a_shift_of_one_pixel_goes_down_and_to_the_right():
    assert plane(affine(SMALL, shift(1, 0), value=9)) == [[9, 9, 9], [1, 2, 3]]
    assert plane(affine(SMALL, shift(0, 1), value=9)) == [[9, 1, 2], [9, 4, 5]]
    assert plane(affine(SMALL, shift(0, 1), fill="edge")) == [[1, 1, 2], [4, 4, 5]]
    assert plane(affine(SMALL, shift(0, 2), fill="reflect")) == [[2, 1, 1], [5, 4, 4]]


def test_what_lies_outside_is_black_unless_said_otherwise():
    assert plane(affine(SMALL, shift(0, 1))) == [[0, 1, 2], [0, 4, 5]]


def test_a_shift_of_half_a_pixel_is_a_mean_or_the_nearest():
    assert plane(affine(SMALL, shift(0, 0.5), fill="edge")) == [[1, 1.5, 2.5], [4, 4.5, 5.5]]
    assert plane(affine(SMALL, shift(0, 0.4), fill="edge", sampling="nearest")) == [[1, 2, 3], [4, 5, 6]]
    assert plane(affine(SMALL, shift(0, 0.6), fill="edge", sampling="nearest")) == [[1, 1, 2], [4, 4, 5]]


def test_a_shift_of_a_quarter_pixel_weighs_three_to_one():
    # (0, 1) looks at (0, 0.75): 1 * 0.25 + 2 * 0.75
    assert plane(affine(SMALL, shift(0, 0.25), fill="edge"))[0][1] == 1 * 0.25 + 2 * 0.75
    assert plane(affine(SMALL, shift(0.25, 0), fill="edge"))[1][0] == 1 * 0.25 + 4 * 0.75
    # both: (1, 1) looks at (0.75, 0.5), in the middle between the columns of 1 4 and 2 5, three quarters down
    assert plane(affine(SMALL, shift(0.25, 0.5), fill="edge"))[1][1] == (1 + 2) / 2 * 0.25 + (4 + 5) / 2 * 0.75


def test_a_place_counts_as_outside_a_thousandth_of_a_pixel_beyond_the_outermost_centre():
    for axis, matrix in enumerate((lambda by: shift(by, 0), lambda by: shift(0, by))):
        for by in (-1, 1):
            barely = plane(affine(SMALL, matrix(by * 0.0005), value=9))
            assert_equal_arrays(barely, SMALL[:, :, 0], f"{by * 0.0005} along axis {axis} is rounding", atol=0.01)
            beyond = np.array(plane(affine(SMALL, matrix(by * 0.002), value=9)))
            first = np.take(beyond, 0 if by > 0 else -1, axis)
            assert (first == 9).all(), f"{by * 0.002} along axis {axis} is outside"
            assert (beyond == 9).sum() == first.size


@pytest.mark.parametrize("sampling", ["nearest", "bilinear"])
@pytest.mark.parametrize("fill", list(SCIPY_MODE))
def test_a_quarter_turn_is_counter_clockwise_and_loses_nothing(sampling, fill):
    #   1 2   turned by 90 degrees   2 4
    #   3 4                          1 3
    square = np.array([[1, 2], [3, 4]], np.float32)[:, :, None]
    assert plane(warp(square, rotation(90), sampling=sampling, fill=fill)) == [[2, 4], [1, 3]]
    for size in (6, 7):  # the centre lies between pixels, and on one
        image = noise(size, size)
        turned, back = (warp(image, rotation(a), sampling=sampling, fill=fill) for a in (90, -90))
        assert_equal_arrays(turned, np.rot90(image), f"a quarter turn of {size} x {size}")
        assert_equal_arrays(back, np.rot90(image, -1), f"a quarter turn clockwise of {size} x {size}")


def test_a_quarter_turn_of_a_wide_image_keeps_its_middle():
    #    1  2  3  4  5   turned by 90 degrees   -1  4  9 14 -1   the square in the middle is turned; what would be
    #    6  7  8  9 10                          -1  3  8 13 -1   left and right of it, was above and below the image
    #   11 12 13 14 15                          -1  2  7 12 -1
    wide = np.arange(1, 16, dtype=np.float32).reshape(3, 5, 1)
    assert plane(affine(wide, rotation(90), value=-1)) == [[-1, 4, 9, 14, -1], [-1, 3, 8, 13, -1], [-1, 2, 7, 12, -1]]


def test_half_a_turn_is_two_flips():
    assert_equal_arrays(affine(SMALL, rotation(180)), SMALL[::-1, ::-1], "half a turn")


def test_a_zoom_enlarges_about_the_centre():
    row = np.array([[0, 10, 20, 30, 40]], np.float32)[:, :, None]
    assert plane(affine(row, zoom(2.0))) == [[10, 15, 20, 25, 30]]  # the middle half, twice as large
    assert plane(affine(row, zoom(0.5), value=-1)) == [[-1, 0, 20, 40, -1]]
    column = row.swapaxes(0, 1)
    assert plane(affine(column, zoom(2.0))) == [[10], [15], [20], [25], [30]]


def test_a_shear_slants_columns_by_their_distance_from_the_middle_and_widens_the_image():
    # The result's (y, x) looks at (y - x sin a, x cos a). With sin a = 1/2 the columns x = -2 .. 2 look 1, 1/2, 0,
    # -1/2, -1 pixels further down, and at x = -1.73, -0.87, 0, 0.87, 1.73; the image says how far down: 0, 10, 20.
    assert_equal_arrays(shear(30.0), [[1, -0.5, 0], [0, math.sqrt(3) / 2, 0], [0, 0, 1]], "shear by 30 degrees")
    down = np.repeat(np.array([0, 10, 20], np.float32), 5).reshape(3, 5, 1)
    slanted = [[10, 5, 0, 0, 0], [20, 15, 10, 5, 0], [20, 20, 20, 15, 10]]
    assert plane(affine(down, shear(30.0), fill="edge")) == slanted
    right = np.tile(np.array([0, 10, 20, 30, 40], np.float32), 3).reshape(3, 5, 1)
    assert_equal_arrays(plane(affine(right, shear(30.0), fill="edge"))[1], [2.6795, 11.3397, 20, 28.6603, 37.3205], "x")


# Several ways


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.floats(-180, 180), st.floats(-7, 7), st.floats(-7, 7), st.floats(-20, 20), st.floats(0.5, 2), st.booleans())
@pytest.mark.parametrize("fill", list(SCIPY_MODE))
@pytest.mark.parametrize(("sampling", "order"), [("nearest", 0), ("bilinear", 1)])
def test_a_map_is_what_scipy_makes_of_it(sampling, order, fill, degrees, down, right, slant, factor, wide):
    height, width = (5, 9) if wide else (8, 4)
    with jax.enable_x64(True):
        matrix = rotation(degrees) @ shift(down, right) @ shear(slant) @ zoom(factor)
        image = noise(height, width, dtype=np.float64)
        got = np.asarray(warp(image, matrix, sampling=sampling, fill=fill, value=0.3))
    matrix, centre = np.asarray(matrix), np.array([(height - 1) / 2, (width - 1) / 2])
    offset = matrix[:2, 2] + centre - matrix[:2, :2] @ centre
    expected = [
        ndimage.affine_transform(image[..., c], matrix[:2, :2], offset, order=order, mode=SCIPY_MODE[fill], cval=0.3)
        for c in range(3)
    ]
    # Left out: the slack of a thousandth of a pixel around the image, and, for "nearest", places between two pixels.
    y_out, x_out = np.mgrid[:height, :width]
    y, x = (row @ np.stack([y_out, x_out], axis=1) + at for row, at in zip(matrix[:2, :2], offset))
    outside = np.maximum(np.maximum(-y, y - height + 1), np.maximum(-x, x - width + 1))
    unclear = (np.abs(outside) < 1.001e-3) & (fill == "constant")
    unclear |= (order == 0) & ((np.abs(y % 1 - 0.5) < 1e-9) | (np.abs(x % 1 - 0.5) < 1e-9))
    same = np.isclose(got, np.stack(expected, axis=-1), rtol=1e-9, atol=1e-9).all(axis=-1)
    assert (same | unclear).all(), f"{sampling}, {fill}: differs from scipy at {np.argwhere(~same & ~unclear).tolist()}"


def test_mirrors_go_on_for_ever_on_both_sides():
    #   1 2 3 | 3 2 1 | 1 2 3 | ...
    row = np.array([[1, 2, 3]], np.float32)[:, :, None]
    endless = np.pad(row, ((0, 0), (12, 12), (0, 0)), mode="symmetric")
    for by in range(-12, 13):
        assert plane(affine(row, shift(0, by), fill="reflect")) == plane(endless[:, 12 - by : 15 - by]), f"by {by}"


# Gradients


@pytest.mark.parametrize("fill", list(SCIPY_MODE))
@pytest.mark.parametrize("sampling", ["nearest", "bilinear"])
def test_the_gradient_of_a_map_goes_back_to_the_pixels_it_looked_at(float64, sampling, fill):
    # result = sum of weight * pixel, so d loss / d pixel = sum of weight * upstream over the results that looked at it
    image, upstream = noise(3, 4, dtype=np.float64), noise(3, 4, seed=1, dtype=np.float64)
    matrix = rotation(20.0) @ zoom(1.3)

    def total(image):
        return (warp(image, matrix, sampling=sampling, fill=fill) * upstream).sum()

    assert_gradient(jax.grad(total)(jnp.asarray(image)), total, image, f"affine, {sampling}, {fill}")


# Properties


@pytest.mark.parametrize("sampling", ["nearest", "bilinear"])
def test_the_weights_of_every_pixel_sum_to_one(sampling):
    plain = np.full((6, 9, 3), 0.7, np.float32)
    for fill in ("edge", "reflect"):
        got = warp(plain, rotation(31.0) @ shift(2.3, 1.1), sampling=sampling, fill=fill)
        assert_equal_arrays(got, plain, f"an image of one colour, {sampling}, {fill}")


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_identity_changes_neither_values_nor_type(dtype):
    image = noise(5, 7, dtype=dtype)
    for fill in SCIPY_MODE:
        got = warp(image, jnp.eye(3), fill=fill)
        assert got.dtype == dtype
        assert_equal_arrays(got, image, f"the identity, {fill}")


def test_there_and_back_is_nearly_where_one_was():
    y, x = np.mgrid[:40, :50] / 10
    smooth = (np.sin(y) * np.cos(x))[:, :, None].astype(np.float32)
    for there, back in ((rotation(25.0), rotation(-25.0)), (zoom(1.2), zoom(1 / 1.2)), (shift(3, 2), shift(-3, -2))):
        again = warp(warp(smooth, there, fill="reflect"), back, fill="reflect")
        assert_equal_arrays(again[12:28, 12:38], smooth[12:28, 12:38], "there and back", atol=0.02)


def test_maps_multiply_in_the_order_of_their_matrices():
    # the result is asked backwards: in rotation @ shift the shift's place is asked first, so the image is shifted last
    image = noise(8, 8)
    one_by_one = affine(affine(image, rotation(90)), shift(0, 1))
    assert_equal_arrays(affine(image, rotation(90) @ shift(0, 1)), one_by_one, "turned, then moved")


def test_a_flip_exchanges_sides_half_of_the_time_and_twice_is_none():
    always = partial(geometry.random_flip_horizontal, probability=1.0)
    assert plane(always(jax.random.key(0), SMALL)) == [[3, 2, 1], [6, 5, 4]]
    assert plane(geometry.random_flip_vertical(jax.random.key(0), SMALL, probability=1.0)) == [[4, 5, 6], [1, 2, 3]]
    assert plane(always(jax.random.key(1), always(jax.random.key(0), SMALL))) == plane(SMALL)
    for flip in (geometry.random_flip_horizontal, geometry.random_flip_vertical):
        keys = jax.random.split(jax.random.key(0), 400)
        flipped = jax.vmap(lambda key, flip=flip: flip(key, SMALL)[0, 0, 0] != 1)(keys)
        assert 160 < int(flipped.sum()) < 240  # 200 +- 4 standard deviations of 10
        often = jax.vmap(lambda key, flip=flip: flip(key, SMALL, probability=0.9)[0, 0, 0] != 1)(keys)
        assert 336 < int(often.sum()) < 384  # 360 +- 4 standard deviations of 6
        assert plane(flip(jax.random.key(0), SMALL, probability=0.0)) == plane(SMALL)


# Random ones. What is drawn is read off the matrices that they hand to `affine`.


def drawn(monkeypatch, function, draws: int = 300, shape=(10, 20, 1)) -> np.ndarray:
    """The matrices that a random function hands to `affine`, (draws, 3, 3)."""
    monkeypatch.setattr(geometry, "affine", lambda image, matrix: matrix)
    keys = jax.random.split(jax.random.key(0), draws)
    return np.asarray(jax.vmap(lambda key: function(key, jnp.zeros(shape)))(keys))


@pytest.mark.parametrize(("options", "limit"), [({}, 180.0), ({"max_degrees": 50.0}, 50.0)])
def test_angles_are_drawn_evenly_on_both_sides(monkeypatch, options, limit):
    matrices = drawn(monkeypatch, partial(geometry.random_rotation, **options))
    angles = np.degrees(np.arctan2(matrices[:, 0, 1], matrices[:, 0, 0]))
    assert -limit - 1e-4 <= angles.min() < -0.9 * limit < 0.9 * limit < angles.max() <= limit + 1e-4
    assert abs(angles.mean()) < 4 * limit / math.sqrt(3) / math.sqrt(300)  # 4 standard errors


@pytest.mark.parametrize(("options", "limit"), [({}, 0.1), ({"max_fraction": 0.3}, 0.3)])
def test_shifts_are_fractions_of_the_height_and_the_width_drawn_apart(monkeypatch, options, limit):
    matrices = drawn(monkeypatch, partial(geometry.random_shift, **options))  # 10 x 20 pixels
    down, right = -matrices[:, 0, 2] / 10, -matrices[:, 1, 2] / 20
    for fraction in (down, right):
        assert -limit <= fraction.min() < -0.9 * limit < 0.9 * limit < fraction.max() <= limit
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.25


by_four = partial(geometry.random_zoom, max_factor=4.0), partial(geometry.random_affine, max_zoom=4.0)


@pytest.mark.parametrize(("function", "limit"), [(geometry.random_zoom, 1.2), (by_four[0], 4.0), (by_four[1], 4.0)])
def test_zooms_enlarge_as_often_as_they_shrink(monkeypatch, function, limit):
    factors = 1 / drawn(monkeypatch, function)[:, 0, 0]
    assert 1 / limit - 1e-6 <= factors.min() < 1.04 / limit < limit / 1.04 < factors.max() <= limit + 1e-5
    assert 120 < (factors > 1).sum() < 180  # evenly between 1/4 and 4 it would be 3 / 3.75 of 300, so 240


@pytest.mark.parametrize(("options", "limit"), [({}, 11.5), ({"max_degrees": 30.0}, 30.0)])
def test_shears_stay_within_their_limit(monkeypatch, options, limit):
    degrees = np.degrees(np.arcsin(-drawn(monkeypatch, partial(geometry.random_shear, **options))[:, 0, 1]))
    assert -limit - 1e-4 <= degrees.min() < -0.9 * limit < 0.9 * limit < degrees.max() <= limit + 1e-4


def test_the_random_affine_map_is_rotation_times_shift_times_shear_times_zoom(monkeypatch):
    limits = {"max_degrees": 50.0, "max_shift": 0.1, "max_shear": 11.0, "max_zoom": 1.3}
    matrices = drawn(monkeypatch, partial(geometry.random_affine, **limits))  # 10 x 20 pixels
    # Read off the product: shear and zoom leave the direction of y, so the first column is (c, -s) / zoom; turned back
    # by that angle, the last column is the shift, and the second (-sin, cos) of the shear / zoom.
    angle, scale = np.arctan2(-matrices[:, 1, 0], matrices[:, 0, 0]), 1 / np.hypot(matrices[:, 0, 0], matrices[:, 1, 0])
    back = np.stack([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]).transpose(2, 0, 1)
    rest = back @ matrices[:, :2]
    slant = np.arctan2(-rest[:, 0, 1], rest[:, 1, 1])
    assert_equal_arrays(np.hypot(rest[:, 0, 1], rest[:, 1, 1]) * scale, np.ones(300), "sin^2 + cos^2 of the shear")
    quantities = (np.degrees(angle), -rest[:, 0, 2], -rest[:, 1, 2], np.degrees(slant), np.log(scale))
    for values, limit in zip(quantities, (50, 1, 2, 11, math.log(1.3))):  # a tenth of 10 pixels down, of 20 across
        assert -1.001 * limit <= values.min() < -0.95 * limit < 0.95 * limit < values.max() <= 1.001 * limit
    apart = np.corrcoef(quantities) - np.eye(5)
    assert np.abs(apart).max() < 0.25, "two of them are drawn from the same random number"


def test_without_limits_the_random_affine_map_changes_nothing(monkeypatch):
    assert_equal_arrays(drawn(monkeypatch, geometry.random_affine, 1)[0], np.eye(3), "no limits, no change")


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"sampling": "cubic"}, '^sampling: got "cubic", wants "nearest" or "bilinear"$'),
        ({"fill": "wrap"}, '^fill: got "wrap", wants "constant", "edge" or "reflect"$'),
    ],
)
def test_an_unknown_way_is_named_with_those_there_are(how, sentence):
    with pytest.raises(UserError, match=sentence):
        affine(SMALL, jnp.eye(3), **how)
