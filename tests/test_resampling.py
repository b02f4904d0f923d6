"""Resampling in two steps: where a map makes each pixel look, and what is there. Next: test_geometry.py.

Apart, each is a loop that a processor does many at a time; `augment.compiled` makes them programs of their own.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn import augment
from cnn.appearance import random_blur
from cnn.augment import batched, compiled, compose, named
from cnn.geometry import compiled_map, random_affine, random_flip_horizontal, random_flip_vertical
from cnn.resampling import Sources, chained, look, mirror, shift, sources
from tests.checkers import assert_equal_arrays

BYTES = np.random.default_rng(1).integers(0, 256, (4, 6, 7, 3), np.uint8)


def test_places_by_hand():
    # 3 x 4 pixels, moved up by half a pixel and left by a quarter: each looks that much down and right.
    where = sources(shift(-0.5, -0.25), (3, 4), fill="edge")
    # the last row and column look between the last two, at the far end
    assert where.first.tolist() == [[0, 1, 2, 2], [4, 5, 6, 6], [4, 5, 6, 6]]
    assert where.down.tolist() == [[0.5] * 4, [0.5] * 4, [1.0] * 4]
    assert where.right.tolist() == [[0.25, 0.25, 0.25, 1.0]] * 3
    assert where.inside is None
    inside = sources(shift(-0.5, -0.25), (3, 4), fill="constant").inside
    assert inside.tolist() == [[True, True, True, False]] * 2 + [[False] * 4]
    nearest = sources(shift(-0.75, -0.25), (3, 4), sampling="nearest", fill="edge")
    assert nearest.first.tolist() == [[4, 5, 6, 7], [8, 9, 10, 11], [8, 9, 10, 11]]
    assert (nearest.down, nearest.right) == (None, None)


def test_maps_are_chained_exactly_however_the_layers_multiply():
    turned = chained(shift(1.0, 2.0), mirror(True, False), shift(0.5, 0.0))
    # (y, x) -> (y - 0.5, x) -> (0.5 - y, x) -> (-0.5 - y, x - 2): what is done first is looked through last
    assert turned.tolist() == [[-1.0, 0.0, -0.5], [0.0, 1.0, -2.0], [0.0, 0.0, 1.0]]
    with jax.default_matmul_precision("tensorfloat32"):  # 11 bits: a coordinate of 320 would be off by a tenth
        products = jax.make_jaxpr(chained)(turned, turned)
    assert "dot_general" not in str(products), "what a GPU would round is not asked of it"


def test_a_look_by_hand():
    # light 1 0 / 0.4 0.2; a quarter to the right: 0.75 / 0.35; half way down: 0.55. The second image is dark.
    images = jnp.array([[[255, 0], [102, 51]], [[0, 0], [0, 0]]], jnp.uint8)[..., None]
    first, down, right = (jnp.full((2, 1, 1), value) for value in (0, 0.5, 0.25))
    inside = jnp.array([True, True]).reshape(2, 1, 1)
    where = Sources(first, down, right, inside)
    assert_equal_arrays(look(images, where).ravel(), [0.55, 0.0], "a quarter right, half way down")
    outside = where._replace(inside=~inside)
    assert_equal_arrays(look(images, outside, value=0.3).ravel(), [0.3, 0.3], "outside")
    right_one = Sources(first + 1, None, None, None)
    assert_equal_arrays(look(images, right_one).ravel(), [0.0, 0.0], "the pixel to the right, as it is")


@pytest.mark.parametrize("fill", ["constant", "edge", "reflect"])
@pytest.mark.parametrize("sampling", ["nearest", "bilinear"])
def test_a_batch_in_two_programs_is_what_its_images_are_in_one(sampling, fill):
    options = {"max_degrees": 90.0, "max_shift": 0.2, "max_shear": 15.0, "max_zoom": 1.3, "value": 0.2}
    options |= {"sampling": sampling, "fill": fill}
    keys, rows = jax.random.split(jax.random.key(3), 3), np.random.default_rng(0)
    draw, alone = compiled_map(partial(random_affine, **options)), jax.jit(partial(random_affine, **options))
    for shape, light in (((11, 14, 3), False), ((11, 14, 3), True), ((1, 5, 1), False), ((4, 1, 3), True)):
        batch = rows.integers(0, 256, (3, *shape), np.uint8)
        batch = batch / np.float32(255) if light else batch
        one_by_one = np.stack([alone(key, image) for key, image in zip(keys, batch)])
        assert_equal_arrays(draw(batch, keys), one_by_one, f"{shape}, {batch.dtype}", atol=3e-5)


FLIPS = random_flip_horizontal, partial(random_flip_vertical, probability=0.7)
TURN = partial(random_affine, max_degrees=50.0, max_shift=0.1, max_zoom=1.2)
TOGETHER = {  # parts -> how many of them, by turns, one program does
    "flips, then a turn": ((*FLIPS, TURN), [3]),
    "a turn, then flips": ((TURN, *FLIPS), [3]),
    "a flip between two turns belongs to the first": ((TURN, FLIPS[0], TURN), [2, 1]),
    "flips alone": (FLIPS, [1, 1]),
    "a blur between": ((FLIPS[0], random_blur, FLIPS[1], TURN), [1, 1, 2]),
    "mirrored edges": ((FLIPS[0], partial(TURN, fill="reflect"), FLIPS[1]), [3]),
    "the nearest pixel": ((partial(TURN, sampling="nearest", value=0.3), *FLIPS), [3]),
}


@pytest.mark.parametrize(("parts", "groups"), TOGETHER.values(), ids=TOGETHER)
def test_flips_beside_an_affine_map_are_one_map_with_it_and_the_result_is_the_same(parts, groups):
    assert [len(group) for group in augment._together(parts)] == groups
    assert sum(augment._together(parts), ()) == parts, "none is lost, none changes its place"
    some, key = compose(*parts), jax.random.key(4)
    one_by_one = jax.jit(batched(some))(key, BYTES.repeat(2, 0) / np.float32(255))
    assert_equal_arrays(compiled(some)(key, BYTES.repeat(2, 0)), one_by_one, str(groups), atol=1e-4)


SOME = ({}, {"max_degrees": 30.0}, {"max_shift": 0.2}, {"max_shear": 10.0}, {"max_zoom": 1.3})
PARTS = {str(options): partial(random_affine, **options) for options in SOME} | {"blur": random_blur}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_with_few_options_and_on_bytes_the_programs_give_what_they_give_in_one(part):
    want = jax.jit(batched(part))(jax.random.key(0), BYTES / np.float32(255))
    assert_equal_arrays(compiled(part)(jax.random.key(0), BYTES), want, str(part), atol=3e-5)


def test_on_a_gpu_the_parts_are_one_program_with_the_same_result(monkeypatch):
    here = compiled(named("default"))(jax.random.key(5), BYTES)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    there = compiled.__wrapped__(named("default"))(jax.random.key(5), BYTES)  # not those that are kept
    assert_equal_arrays(there, here, "one program", atol=3e-5)
