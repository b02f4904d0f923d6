"""Chapter 11, augmentation: one after the other, over a batch, and settings that have a name. Next: test_images.py."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn import augment
from cnn.augment import AUGMENTATIONS, batched, compose, named
from cnn.errors import UserError
from cnn.geometry import random_flip_horizontal, random_shift
from tests.checkers import assert_equal_arrays


def noise(*shape: int) -> jax.Array:
    """Numbers from 0 to 1."""
    return jnp.asarray(np.random.default_rng(0).random(shape, np.float32))


def test_the_first_is_applied_first():
    # add, then double: (1 + 3) * 2; the other way round it would be 1 * 2 + 3
    composed = compose(lambda key, image: image + 3, lambda key, image: image * 2)
    assert float(composed(jax.random.key(0), jnp.array(1.0))) == (1 + 3) * 2


def test_each_gets_a_key_of_its_own():
    seen = []

    def remember(key, image):
        seen.append(tuple(jax.random.key_data(key).tolist()))
        return image

    compose(remember, remember, remember)(jax.random.key(0), noise(2, 2, 3))
    assert len(set(seen)) == 3


def test_to_compose_nothing_is_to_change_nothing():
    assert np.array_equal(compose()(jax.random.key(0), noise(2, 3, 3)), noise(2, 3, 3))
    assert np.array_equal(named("none")(jax.random.key(0), noise(2, 3, 3)), noise(2, 3, 3))


def test_every_image_of_a_batch_gets_a_variant_of_its_own():
    images = jnp.tile(noise(1, 6, 7, 3), (8, 1, 1, 1))
    variants = np.asarray(batched(partial(random_shift, max_fraction=0.5))(jax.random.key(0), images))
    assert len({variant.tobytes() for variant in variants}) == 8


def test_one_image_does_not_influence_another():
    images = noise(4, 6, 7, 3)
    changed = images.at[2].set(0.5)
    one, other = (np.asarray(batched(named("default"))(jax.random.key(0), batch)) for batch in (images, changed))
    assert_equal_arrays(one[[0, 1, 3]], other[[0, 1, 3]], "the neighbours of a changed image")
    assert np.abs(one[2] - other[2]).max() > 0.1


def test_a_batch_is_what_its_images_are_one_by_one():
    images, key = noise(3, 6, 7, 3), jax.random.key(5)
    one_by_one = [named("default")(k, image) for k, image in zip(jax.random.split(key, 3), images)]
    assert_equal_arrays(batched(named("default"))(key, images), np.stack(one_by_one), "one by one", atol=1e-5)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_named_setting_keeps_shape_type_and_range_inside_a_compiled_step(name):
    images = noise(5, 12, 16, 3)
    results = [np.asarray(jax.jit(batched(named(name)))(jax.random.key(seed), images)) for seed in (0, 0, 1)]
    assert (results[0].shape, results[0].dtype) == (images.shape, np.float32)
    assert results[0].min() >= 0
    assert results[0].max() <= 1 + 1e-6
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2]) == (name == "none")


def test_an_unknown_setting_is_named_with_those_there_are():
    with pytest.raises(UserError, match='augmentation: got "more", wants one of none, seed, default'):
        named("more")


def test_a_flip_of_a_flip_is_none():
    flip = partial(random_flip_horizontal, probability=1.0)
    assert np.array_equal(compose(flip, flip)(jax.random.key(0), noise(3, 4, 3)), noise(3, 4, 3))


def limits(name: str) -> dict:
    """The settings of every part of a named setting, by the part's name."""
    parts = AUGMENTATIONS[name].__closure__[0].cell_contents
    return {getattr(part, "func", part).__name__: getattr(part, "keywords", {}) for part in parts}


def test_the_setting_of_2017_is_that_of_its_notebook():
    parts = limits("seed")
    assert list(parts) == ["random_affine", "random_flip_horizontal", "random_flip_vertical"]
    got = parts["random_affine"]
    assert (got["max_degrees"], got["max_shift"]) == (50.0, 0.1)
    assert got["max_shear"] == pytest.approx(0.2 * 180 / math.pi)  # its 0.2 was in radians
    assert (got["sampling"], got["fill"]) == ("nearest", "constant")


def test_the_corners_of_a_turned_image_were_black_in_2017_and_are_not_by_default():
    white = jnp.ones((16, 40, 40, 3))
    old, new = (np.asarray(batched(named(name))(jax.random.key(0), white)) for name in ("seed", "default"))
    assert (old == 0).mean() > 0.02
    assert new.min() > 0.5


def test_the_default_turns_by_any_angle_and_changes_stain_and_focus():
    parts = limits("default")
    assert parts["random_affine"]["max_degrees"] == 180.0
    assert parts["random_affine"]["fill"] == "reflect"
    assert {"random_blur", "random_stain", "random_brightness_and_contrast"} <= set(parts)
    assert augment.AUGMENTATIONS.keys() == {"none", "seed", "default"}
