"""Chapter 9, geometry: where each pixel of the result comes from, and which way an angle turns.

A map is a matrix that is asked backwards: for a pixel of the result, where in the image does it look? What it finds
between the pixels is the nearest one, or a mean of the four around. Next: test_appearance.py.
"""

import inspect
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
from cnn.geometry import affine, rotation, shear, shift, zoom
from tests.checkers import assert_equal_arrays, assert_gradient

#   1 2 3      an image of 2 x 3 pixels and one channel, with no symmetry
#   4 5 6
SMALL = np.array([[1, 2, 3], [4, 5, 6]], np.float32)[:, :, None]
SCIPY_MODE = {"constant": "constant", "edge": "nearest", "reflect": "reflect"}


def noise(height: int, width: int, seed: int = 0, dtype=np.float32) -> np.ndarray:
    """(height, width, 3), from 0 to 1."""
    return np.random.default_rng(seed).random((height, width, 3)).astype(dtype)


def plane(image) -> list:
    """The only channel of an image as rows of numbers."""
    return np.asarray(image)[:, :, 0].round(4).tolist()


# By hand


def test_a_shift_of_one_pixel_down_and_to_the_right():
    assert plane(affine(SMALL, shift(1, 0), value=9)) == [[9, 9, 9], [1, 2, 3]]
    assert plane(affine(SMALL, shift(0, 1), value=9)) == [[9, 1, 2], [9, 4, 5]]
    assert plane(affine(SMALL, shift(0, 1), fill="edge")) == [[1, 1, 2], [4, 4, 5]]
    assert plane(affine(SMALL, shift(0, 2), fill="reflect")) == [[2, 1, 1], [5, 4, 4]]


def test_a_shift_of_half_a_pixel_is_a_mean_or_the_nearest():
    assert plane(affine(SMALL, shift(0, 0.5), fill="edge")) == [[1, 1.5, 2.5], [4, 4.5, 5.5]]
    assert plane(affine(SMALL, shift(0, 0.4), fill="edge", sampling="nearest")) == [[1, 2, 3], [4, 5, 6]]
    assert plane(affine(SMALL, shift(0, 0.6), fill="edge", sampling="nearest")) == [[1, 1, 2], [4, 4, 5]]


def test_a_shift_of_a_quarter_pixel_weighs_three_to_one():
    # (0, 1) looks at (0, 0.75): 1 * 0.25 + 2 * 0.75
    assert plane(affine(SMALL, shift(0, 0.25), fill="edge"))[0][1] == 1 * 0.25 + 2 * 0.75
    assert plane(affine(SMALL, shift(0.25, 0), fill="edge"))[1][0] == 1 * 0.25 + 4 * 0.75


@pytest.mark.parametrize("sampling", ["nearest", "bilinear"])
@pytest.mark.parametrize("fill", ["constant", "edge", "reflect"])
def test_a_quarter_turn_is_counter_clockwise_and_loses_nothing(sampling, fill):
    #   1 2   turned by 90 degrees   2 4
    #   3 4                          1 3
    square = np.array([[1, 2], [3, 4]], np.float32)[:, :, None]
    assert plane(affine(square, rotation(90), sampling=sampling, fill=fill)) == [[2, 4], [1, 3]]
    image = noise(6, 6)
    assert_equal_arrays(affine(image, rotation(90), sampling=sampling, fill=fill), np.rot90(image), "a quarter turn")
    assert_equal_arrays(affine(image, rotation(-90), sampling=sampling, fill=fill), np.rot90(image, -1), "and back")


def test_half_a_turn_is_two_flips():
    assert_equal_arrays(affine(SMALL, rotation(180)), SMALL[::-1, ::-1], "half a turn")


def test_a_zoom_enlarges_about_the_centre():
    row = np.array([[0, 10, 20, 30, 40]], np.float32)[:, :, None]
    assert plane(affine(row, zoom(2.0))) == [[10, 15, 20, 25, 30]]  # the middle half, twice as large
    assert plane(affine(row, zoom(0.5), value=-1)) == [[-1, 0, 20, 40, -1]]


def test_a_shear_moves_rows_by_their_distance_from_the_middle_and_narrows():
    # result (y, x) looks at (y - x sin a, x cos a); with sin a = 1/2 the column x = 2 looks one pixel up
    matrix = shear(30.0)
    assert_equal_arrays(matrix, [[1, -0.5, 0], [0, math.cos(math.pi / 6), 0], [0, 0, 1]], "shear by 30 degrees")


def test_the_identity_changes_nothing():
    image = noise(5, 7)
    for fill in ("constant", "edge", "reflect"):
        assert_equal_arrays(affine(image, jnp.eye(3), fill=fill), image, f"the identity, {fill}")


# Several ways


@pytest.mark.parametrize("fill", list(SCIPY_MODE))
@pytest.mark.parametrize(("sampling", "order"), [("nearest", 0), ("bilinear", 1)])
def test_a_map_is_what_scipy_makes_of_it(float64, sampling, order, fill):
    image = noise(9, 12, dtype=np.float64)
    matrix = np.asarray(rotation(33.0) @ shift(1.3, -0.7) @ shear(9.0) @ zoom(1.2))
    centre = np.array([(9 - 1) / 2, (12 - 1) / 2])
    offset = matrix[:2, 2] + centre - matrix[:2, :2] @ centre
    expected = [
        ndimage.affine_transform(image[..., c], matrix[:2, :2], offset, order=order, mode=SCIPY_MODE[fill], cval=0.3)
        for c in range(3)
    ]
    got = affine(jnp.asarray(image), jnp.asarray(matrix), sampling=sampling, fill=fill, value=0.3)
    assert_equal_arrays(got, np.stack(expected, axis=-1), f"{sampling}, {fill}", rtol=1e-9, atol=1e-9)


def keras_transform(image: np.ndarray, theta: float, tx: float, ty: float, shear: float, fill: str) -> np.ndarray:
    """What Keras' `ImageDataGenerator` computes (theta and shear in radians, tx and ty in pixels): its matrices are
    multiplied, moved to the image's centre, and each channel goes through scipy with order 0."""
    turn = np.array([[np.cos(theta), -np.sin(theta), 0], [np.sin(theta), np.cos(theta), 0], [0, 0, 1]])
    move = np.array([[1, 0, tx], [0, 1, ty], [0, 0, 1]])
    slant = np.array([[1, -np.sin(shear), 0], [0, np.cos(shear), 0], [0, 0, 1]])
    oy, ox = image.shape[0] / 2 - 0.5, image.shape[1] / 2 - 0.5
    there, back = np.array([[1, 0, oy], [0, 1, ox], [0, 0, 1]]), np.array([[1, 0, -oy], [0, 1, -ox], [0, 0, 1]])
    matrix = there @ turn @ move @ slant @ back
    channels = [
        ndimage.affine_transform(image[..., c], matrix[:2, :2], matrix[:2, 2], order=0, mode=fill, cval=0.0)
        for c in range(3)
    ]
    return np.stack(channels, axis=-1)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    st.floats(-50, 50), st.floats(-2, 2), st.floats(-2, 2), st.floats(-11, 11), st.sampled_from(["constant", "edge"])
)
def test_nearest_neighbour_augmentation_is_what_keras_computes(degrees, down, right, slant, fill):
    with jax.enable_x64(True):
        image = noise(13, 17, dtype=np.float64)
        matrix = np.asarray(rotation(degrees) @ shift(down, right) @ shear(slant))
        got = np.asarray(affine(jnp.asarray(image), jnp.asarray(matrix), sampling="nearest", fill=fill))
    # Keras' angle turns clockwise and its shift looks down and right: the signs are exchanged, the pictures are not
    radians = math.radians(degrees), -down, -right, math.radians(slant)
    expected = keras_transform(image, -radians[0], *radians[1:], SCIPY_MODE[fill])
    same = np.isclose(got, expected).all(axis=-1)
    # Left out: what lies outside the image by less than our slack of a thousandth of a pixel, and ties between pixels.
    y_out, x_out = np.mgrid[:13, :17] - np.array([6, 8])[:, None, None]
    y = matrix[0, 0] * y_out + matrix[0, 1] * x_out + matrix[0, 2] + 6
    x = matrix[1, 0] * y_out + matrix[1, 1] * x_out + matrix[1, 2] + 8
    outside = np.maximum(np.maximum(-y, y - 12), np.maximum(-x, x - 16))
    tie = (np.abs(y % 1 - 0.5) < 1e-9) | (np.abs(x % 1 - 0.5) < 1e-9)
    unclear = ((outside > 0) & (outside <= 1.001e-3)) | tie
    assert (same | unclear).all(), f"{(~same & ~unclear).sum()} pixels differ"
    assert unclear.mean() < 0.3  # at most the outermost pixels


# Gradients and properties


@pytest.mark.parametrize("fill", list(SCIPY_MODE))
def test_the_gradient_of_a_map_goes_back_to_the_pixels_it_looked_at(float64, fill):
    image, upstream = noise(3, 4, dtype=np.float64), noise(3, 4, seed=1, dtype=np.float64)
    matrix = rotation(20.0) @ zoom(1.3)

    def total(image):
        return (affine(jnp.asarray(image), matrix, fill=fill) * upstream).sum()

    assert_gradient(jax.grad(total)(jnp.asarray(image)), total, image, f"affine, {fill}")


def test_there_and_back_is_nearly_where_one_was():
    y, x = np.mgrid[:40, :50] / 10
    smooth = (np.sin(y) * np.cos(x))[:, :, None].astype(np.float32)
    for there, back in ((rotation(25.0), rotation(-25.0)), (zoom(1.2), zoom(1 / 1.2)), (shift(3, 2), shift(-3, -2))):
        again = affine(affine(smooth, there, fill="reflect"), back, fill="reflect")
        assert_equal_arrays(again[12:28, 12:38], smooth[12:28, 12:38], "there and back", atol=0.02)


def test_maps_multiply_in_the_order_of_their_matrices():
    # the result is asked backwards: in rotation @ shift the shift's place is asked first, so the image is shifted last
    image = noise(8, 8)
    one_by_one = affine(affine(image, rotation(90)), shift(0, 1))
    assert_equal_arrays(affine(image, rotation(90) @ shift(0, 1)), one_by_one, "turned, then moved")


RANDOM = {
    "flip horizontal": geometry.random_flip_horizontal,
    "flip vertical": geometry.random_flip_vertical,
    "rotation": geometry.random_rotation,
    "shift": geometry.random_shift,
    "shear": geometry.random_shear,
    "zoom": geometry.random_zoom,
    "affine": partial(geometry.random_affine, max_degrees=40.0, max_shift=0.1, max_shear=10.0, max_zoom=1.2),
}


@pytest.mark.parametrize("name", RANDOM)
def test_a_random_map_keeps_shape_type_and_range_and_depends_on_its_key_alone(name):
    image = jnp.asarray(noise(10, 14))
    function = jax.jit(RANDOM[name])
    results = [np.asarray(function(jax.random.key(seed), image)) for seed in range(8)]
    assert np.array_equal(results[0], function(jax.random.key(0), image)), "the same key, another result"
    assert len({result.tobytes() for result in results}) > 1, "every key gives the same result"
    for result in results:
        assert (result.shape, result.dtype) == ((10, 14, 3), np.float32)
        assert result.min() >= 0
        assert result.max() <= 1 + 1e-6


def test_a_flip_exchanges_sides_half_of_the_time_and_twice_is_none():
    always = partial(geometry.random_flip_horizontal, probability=1.0)
    assert plane(always(jax.random.key(0), SMALL)) == [[3, 2, 1], [6, 5, 4]]
    assert plane(geometry.random_flip_vertical(jax.random.key(0), SMALL, probability=1.0)) == [[4, 5, 6], [1, 2, 3]]
    assert plane(always(jax.random.key(1), always(jax.random.key(0), SMALL))) == plane(SMALL)
    for flip in (geometry.random_flip_horizontal, geometry.random_flip_vertical):
        flipped = jax.vmap(lambda key, flip=flip: flip(key, SMALL)[0, 0, 0] != 1)(
            jax.random.split(jax.random.key(0), 400)
        )
        assert 160 < int(flipped.sum()) < 240  # 200 +- 4 standard deviations of 10
        assert plane(flip(jax.random.key(0), SMALL, probability=0.0)) == plane(SMALL)


def drawn_matrices(monkeypatch, function, draws: int = 300, shape=(10, 20, 1)) -> np.ndarray:
    """The matrices that a random function hands to `affine`, (draws, 3, 3)."""
    monkeypatch.setattr(geometry, "affine", lambda image, matrix, **how: matrix)
    keys = jax.random.split(jax.random.key(0), draws)
    return np.asarray(jax.vmap(lambda key: function(key, jnp.zeros(shape)))(keys))


def test_angles_are_drawn_evenly_on_both_sides(monkeypatch):
    matrices = drawn_matrices(monkeypatch, partial(geometry.random_rotation, max_degrees=50.0))
    angles = np.degrees(np.arctan2(matrices[:, 0, 1], matrices[:, 0, 0]))
    assert -50 <= angles.min() < -45 < 45 < angles.max() <= 50
    assert abs(angles.mean()) < 4 * 50 / math.sqrt(3) / math.sqrt(300)


def test_shifts_are_fractions_of_the_height_and_the_width_drawn_apart(monkeypatch):
    matrices = drawn_matrices(monkeypatch, partial(geometry.random_shift, max_fraction=0.1))  # 10 x 20 pixels
    down, right = -matrices[:, 0, 2], -matrices[:, 1, 2]
    assert 0.9 < np.abs(down).max() <= 1.0
    assert 1.8 < np.abs(right).max() <= 2.0
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.25


def test_zooms_enlarge_as_often_as_they_shrink(monkeypatch):
    factors = 1 / drawn_matrices(monkeypatch, partial(geometry.random_zoom, max_factor=1.5))[:, 0, 0]
    assert 1 / 1.5 - 1e-6 <= factors.min() < 0.7
    assert 1.43 < factors.max() <= 1.5 + 1e-6
    assert 120 < (factors > 1).sum() < 180


def test_shears_stay_within_their_limit(monkeypatch):
    sines = -drawn_matrices(monkeypatch, partial(geometry.random_shear, max_degrees=30.0))[:, 0, 1]
    assert -0.5 <= sines.min() < -0.45 < 0.45 < sines.max() <= 0.5


def test_the_random_affine_map_is_a_product_in_the_order_of_keras(monkeypatch):
    limits = {"max_degrees": 50.0, "max_shift": 0.1, "max_shear": 11.0, "max_zoom": 1.3}
    matrices = drawn_matrices(monkeypatch, partial(geometry.random_affine, **limits))
    for matrix in matrices[:20]:
        # rotation @ shift @ shear @ zoom: its determinant is cos(shear) / zoom^2, and its first column turned back is
        # (1 / zoom, 0), because shear and zoom leave the direction of y
        angle = math.atan2(-matrix[1, 0], matrix[0, 0])
        scale = 1 / math.hypot(matrix[0, 0], matrix[1, 0])
        moved = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) @ matrix[:2, 2]
        slant = math.acos(min(1.0, np.linalg.det(matrix) * scale**2))
        assert abs(math.degrees(angle)) <= 50
        assert 1 / 1.3 - 1e-5 <= scale <= 1.3 + 1e-5
        assert abs(moved[0]) <= 1.0 + 1e-4  # a tenth of 10 pixels
        assert abs(moved[1]) <= 2.0 + 1e-4  # and of 20
        assert math.degrees(slant) <= 11.05
    assert_equal_arrays(drawn_matrices(monkeypatch, geometry.random_affine, 1)[0], np.eye(3), "no limits, no change")


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"sampling": "cubic"}, 'sampling: got "cubic", wants "nearest" or "bilinear"'),
        ({"fill": "wrap"}, 'fill: got "wrap", wants "constant", "edge" or "reflect"'),
    ],
)
def test_an_unknown_way_is_named_with_those_there_are(how, sentence):
    with pytest.raises(UserError, match=sentence):
        affine(SMALL, jnp.eye(3), **how)


def test_the_key_comes_first_and_options_by_name():
    for name, function in vars(geometry).items():
        if name.startswith("random_"):
            kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
            assert list(inspect.signature(function).parameters)[:2] == ["key", "image"], name
            assert all(kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD) for kind in kinds[2:]), (
                name
            )
