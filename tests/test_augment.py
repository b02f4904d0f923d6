"""Augmentation: one after the other, over a batch, and settings that have a name. Next: test_files.py.

What every augmentation promises stands here once, and holds for each of them: the key first, the shape, type and range
kept, the same result from the same key. So does the proof that "seed" is what Keras drew in 2017.
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

from cnn import appearance, augment, geometry
from cnn.augment import AUGMENTATIONS, batched, compose, named
from cnn.errors import UserError
from cnn.resampling import affine, rotation, shear, shift
from tests.checkers import assert_equal_arrays

RANDOM = [
    function
    for module in (geometry, appearance)
    for name, function in vars(module).items()
    if name.startswith("random_")
]
SOME_OF_ALL = partial(geometry.random_affine, max_degrees=40.0, max_shift=0.1, max_shear=10.0, max_zoom=1.2)
KEEP_SHAPE = [f for f in RANDOM if f not in (geometry.random_transpose, geometry.random_crop)]  # test_crops.py
warp = jax.jit(affine, static_argnames=("sampling", "fill"))
compiled = {name: jax.jit(batched(augmentation)) for name, augmentation in AUGMENTATIONS.items()}


def noise(*shape: int) -> jax.Array:
    """Numbers from 0 to 1."""
    return jnp.asarray(np.random.default_rng(0).random(shape, np.float32))


BATCH = noise(4, 6, 7, 3)


def of_shape(name: str) -> tuple[int, ...]:
    """The shape that BATCH has after a named setting: a crop cuts the largest square, all else keeps the shape."""
    return (4, 6, 6, 3) if name == "crop" else BATCH.shape


# What every augmentation promises


@pytest.mark.parametrize("function", RANDOM, ids=lambda function: function.__name__)
def test_the_key_comes_first_then_the_image_then_options_by_name(function):
    parameters = inspect.signature(function).parameters
    assert list(parameters)[:2] == ["key", "image"]
    by_name = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD
    assert all(parameter.kind in by_name for parameter in list(parameters.values())[2:])


@pytest.mark.parametrize("function", KEEP_SHAPE, ids=lambda function: function.__name__)
def test_shape_type_and_range_are_kept_and_the_key_alone_decides(function):
    function = SOME_OF_ALL if function is geometry.random_affine else function
    image, draw = noise(10, 14, 3), jax.jit(function)
    results = [np.asarray(draw(jax.random.key(seed), image)) for seed in range(8)]
    assert np.array_equal(results[0], draw(jax.random.key(0), image)), "the same key, another result"
    flips = geometry.random_flip_horizontal, geometry.random_flip_vertical
    assert len({result.tobytes() for result in results}) == (2 if function in flips else 8)
    for result in results:
        assert (result.shape, result.dtype) == ((10, 14, 3), np.float32)
        assert 0 <= result.min() <= result.max() <= 1 + 1e-6


@pytest.mark.parametrize("name", ["rotation", "shift", "shear", "zoom", "affine"])
def test_a_random_map_hands_on_how_to_sample_and_fill(monkeypatch, name):
    monkeypatch.setattr(geometry, "affine", lambda image, matrix, **how: how)
    how = {"sampling": "nearest", "fill": "constant", "value": 0.5}
    assert getattr(geometry, f"random_{name}")(jax.random.key(0), noise(2, 3, 3), **how) == how


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_no_key_is_used_twice(name):
    # JAX itself counts: two draws from one key would be the same numbers, so rotation and shift would go together.
    with jax.debug_key_reuse(True):
        result = jax.jit(batched(named(name)))(jax.random.key(0), BATCH)  # raises KeyReuseError if one is
    assert result.shape == of_shape(name)


# One after the other


def test_the_first_is_applied_first():
    # add, then double: (1 + 3) * 2; the other way round it would be 1 * 2 + 3
    composed = compose(lambda key, image: image + 3, lambda key, image: image * 2)
    assert float(composed(jax.random.key(0), jnp.array(1.0))) == (1 + 3) * 2


def test_number_i_gets_the_key_folded_with_i():
    seen = []

    def remember(key, image):
        seen.append(jax.random.key_data(key).tolist())
        return image

    compose(remember, remember, remember)(jax.random.key(7), noise(2, 2, 3))
    assert seen == [jax.random.key_data(jax.random.fold_in(jax.random.key(7), i)).tolist() for i in range(3)]


def test_to_compose_nothing_is_to_change_nothing():
    assert np.array_equal(compose()(jax.random.key(0), noise(2, 3, 3)), noise(2, 3, 3))
    assert np.array_equal(compiled["none"](jax.random.key(0), BATCH), BATCH)


def test_a_flip_of_a_flip_is_none():
    flip = partial(geometry.random_flip_horizontal, probability=1.0)
    assert np.array_equal(compose(flip, flip)(jax.random.key(0), noise(3, 4, 3)), noise(3, 4, 3))


# Over a batch


def test_every_image_of_a_batch_gets_a_variant_of_its_own():
    variants = np.asarray(compiled["default"](jax.random.key(0), jnp.tile(BATCH[:1], (4, 1, 1, 1))))
    assert len({variant.tobytes() for variant in variants}) == 4


def test_one_image_does_not_influence_another():
    changed = BATCH.at[2].set(0.5)
    one, other = (np.asarray(compiled["default"](jax.random.key(0), batch)) for batch in (BATCH, changed))
    assert_equal_arrays(one[[0, 1, 3]], other[[0, 1, 3]], "the neighbours of a changed image")
    assert np.abs(one[2] - other[2]).max() > 0.1


def test_a_batch_is_what_its_images_are_one_by_one():
    keys, alone = jax.random.split(jax.random.key(5), 4), jax.jit(named("default"))
    one_by_one = [alone(key, image) for key, image in zip(keys, BATCH)]
    got = compiled["default"](jax.random.key(5), BATCH)
    assert_equal_arrays(got, np.stack(one_by_one), "one by one", atol=1e-5)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_as_programs_of_their_own_the_parts_give_what_they_give_in_one(name):
    got = augment.compiled(named(name))(jax.random.key(5), BATCH)
    assert_equal_arrays(got, compiled[name](jax.random.key(5), BATCH), name, atol=1e-5)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_bytes_give_what_their_light_gives(name):
    rows = np.random.default_rng(1).integers(0, 256, (4, 6, 7, 3), np.uint8)
    draw = augment.compiled(named(name))
    got, want = draw(jax.random.key(5), rows), draw(jax.random.key(5), rows / np.float32(255))
    assert got.dtype == np.float32
    assert_equal_arrays(got, want, name, atol=1e-5)


# Settings that have a name


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_named_setting_keeps_shape_type_and_range_inside_a_compiled_step(name):
    results = [np.asarray(compiled[name](jax.random.key(seed), BATCH)) for seed in (0, 0, 1)]
    assert (results[0].shape, results[0].dtype) == (of_shape(name), np.float32)
    assert 0 <= results[0].min() <= results[0].max() <= 1 + 1e-6
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2]) == (name == "none")


def test_an_unknown_setting_is_named_with_those_there_are():
    with pytest.raises(UserError, match=r'^augmentation: got "more", wants one of none, seed, default, crop$'):
        named("more")


def drawn_by(monkeypatch, name: str) -> tuple[dict[str, np.ndarray], dict[str, dict], list[list[float]]]:
    """What a named setting draws, 200 times: the arguments and the options of all that has no randomness, and flips."""
    drawn, options, before = {}, {}, []

    def note(function):
        def instead(image, *arguments, **how):
            drawn[function], options[function] = arguments, how
            return image

        return instead

    def separate(image):  # amounts of 1 and 2 of each stain
        before.append(image)
        return jnp.ones((2, 3)) * jnp.array([[1.0], [2.0]])

    def combine(amounts):
        drawn["stains"] = amounts
        return before.pop()

    monkeypatch.setattr(geometry, "affine", note("affine"))
    for function in ("gaussian_blur", "brightness_and_contrast"):
        monkeypatch.setattr(appearance, function, note(function))
    monkeypatch.setattr(appearance, "separate_stains", separate)
    monkeypatch.setattr(appearance, "combine_stains", combine)

    def one(key):
        image = named(name)(key, jnp.arange(200.0).reshape(10, 20, 1))
        return image[0, 0, 0], drawn

    corners, numbers = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 200))
    return jax.tree.map(np.asarray, numbers), options, np.asarray(corners).tolist()


def parts_of(matrices: np.ndarray) -> list[np.ndarray]:
    """Shift down and right, angle, slant and the zoom's logarithm; see the random affine map in test_geometry.py."""
    angle, zoom = np.arctan2(-matrices[:, 1, 0], matrices[:, 0, 0]), 1 / np.hypot(matrices[:, 0, 0], matrices[:, 1, 0])
    back = np.stack([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]).transpose(2, 0, 1)
    rest = back @ matrices[:, :2]
    slant = np.arctan2(-rest[:, 0, 1], rest[:, 1, 1])
    return [-rest[:, 0, 2], -rest[:, 1, 2], np.degrees(angle), np.degrees(slant), np.log(zoom)]


def assert_drawn_up_to(values: np.ndarray, limit: float, what: str) -> None:
    """Fails unless values lie within +-limit and come near it on both sides; a limit of 0 allows rounding alone."""
    slack = 0.001 * limit + 1e-4
    assert np.abs(values).max() <= limit + slack, f"{what}: {np.abs(values).max()} is beyond {limit}"
    assert values.max() >= 0.9 * limit - slack, f"{what}: never near {limit}, at most {values.max()}"
    assert values.min() <= slack - 0.9 * limit, f"{what}: never near {-limit}, at least {values.min()}"


def test_the_setting_of_2017_is_that_of_its_notebook(monkeypatch):
    # rotation_range=50, width_shift_range=height_shift_range=0.1, shear_range=0.2 in radians, fill_mode="constant"
    drawn, options, corners = drawn_by(monkeypatch, "seed")
    limits = {"down": 0.1 * 10, "right": 0.1 * 20, "angle": 50, "shear": math.degrees(0.2), "zoom": 0}
    for values, (what, limit) in zip(parts_of(drawn["affine"][0]), limits.items()):
        assert_drawn_up_to(values, limit, what)
    assert options == {"affine": {"sampling": "nearest", "fill": "constant"}}, (
        "it did not blur, as the post said it did"
    )
    # horizontal_flip=True, vertical_flip=True: each corner comes to the upper left a quarter of the time, 50 +- 6
    assert {corner: 25 < corners.count(corner) < 75 for corner in corners} == dict.fromkeys((0, 19, 180, 199), True)


def test_the_default_moves_by_a_little_turns_by_any_angle_and_changes_focus_stain_and_light(monkeypatch):
    drawn, options, corners = drawn_by(monkeypatch, "default")
    limits = {"down": 0.05 * 10, "right": 0.05 * 20, "angle": 180, "shear": 0, "zoom": math.log(1.1)}
    for values, (what, limit) in zip(parts_of(drawn["affine"][0]), limits.items()):
        assert_drawn_up_to(values, limit, what)
    assert options["affine"] == {"sampling": "bilinear", "fill": "reflect"}
    assert {corner: 70 < corners.count(corner) < 130 for corner in corners} == dict.fromkeys((0, 19), True)
    assert_drawn_up_to(drawn["gaussian_blur"][0] - 0.3, 0.3, "sigma, from 0 to 0.6")
    scale = drawn["stains"][:, 1] - drawn["stains"][:, 0]
    assert_drawn_up_to(scale - 1, 0.15, "scale of a stain")
    assert_drawn_up_to(drawn["stains"][:, 0] - scale, 0.02, "offset of a stain")
    assert_drawn_up_to(drawn["brightness_and_contrast"][0], 0.05, "brightness")
    assert_drawn_up_to(drawn["brightness_and_contrast"][1] - 1, 0.1, "contrast")


def test_the_corners_of_a_turned_image_were_black_in_2017_and_are_not_by_default():
    white = jnp.ones((4, 6, 7, 3))
    old, new = (np.asarray(compiled[name](jax.random.key(0), white)) for name in ("seed", "default"))
    assert (old == 0).mean() > 0.02
    assert new.min() > 0.5


# Keras


def keras_transform(image, theta, tx, ty, shear, fill: str, beyond_half: float = -0.5) -> np.ndarray:
    """What Keras' `ImageDataGenerator` computes: theta and shear in radians, tx and ty in pixels.

    Its matrices are multiplied and moved to the image's centre, and each channel goes through scipy with order 0. The
    centre is at size / 2 - 1/2 (`beyond_half`); until 2019 it was at size / 2 + 1/2.
    """
    turn = np.array([[np.cos(theta), -np.sin(theta), 0], [np.sin(theta), np.cos(theta), 0], [0, 0, 1]])
    move = np.array([[1, 0, tx], [0, 1, ty], [0, 0, 1]])
    slant = np.array([[1, -np.sin(shear), 0], [0, np.cos(shear), 0], [0, 0, 1]])
    oy, ox = image.shape[0] / 2 + beyond_half, image.shape[1] / 2 + beyond_half
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
        image = np.random.default_rng(0).random((13, 17, 3))
        places = np.stack([*(np.mgrid[:13, :17] - np.array([6, 8])[:, None, None]), np.ones((13, 17))])  # y, x, 1
        ours = rotation(degrees) @ shift(down, right) @ shear(slant)
        # the Keras of 2017 turned about a point one pixel further down and right: move that to the centre, and back
        ours_of_2017 = shift(-1, -1) @ ours @ shift(1, 1)
        # Keras' angle turns clockwise and its shift looks down and right: the signs are exchanged, the pictures are not
        theirs = -math.radians(degrees), -down, -right, math.radians(slant), "nearest" if fill == "edge" else fill
        for matrix, beyond_half in ((ours, -0.5), (ours_of_2017, 0.5)):
            got = np.asarray(warp(image, matrix, sampling="nearest", fill=fill))
            same = np.isclose(got, keras_transform(image, *theirs, beyond_half)).all(axis=-1)
            # Left out: what is outside by less than our slack of a thousandth of a pixel, and ties between two pixels.
            y, x = np.tensordot(np.asarray(matrix)[:2], places, 1) + np.array([6, 8])[:, None, None]
            outside = np.maximum(np.maximum(-y, y - 12), np.maximum(-x, x - 16))
            unclear = (np.abs(outside) <= 1.001e-3) | (np.abs(y % 1 - 0.5) < 1e-9) | (np.abs(x % 1 - 0.5) < 1e-9)
            assert (same | unclear).all(), f"{(~same & ~unclear).sum()} pixels differ"
