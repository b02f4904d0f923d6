"""The affine map of bytes in programs: each by hand, and together the numbers of `geometry.affine`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn import fast_affine, geometry
from cnn.errors import UserError
from cnn.geometry import affine, rotation, shift
from tests.checkers import assert_equal_arrays

FILLS = ["constant", "edge", "reflect"]


def pixels(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


@partial(jax.jit, static_argnames="fill")
def in_pieces(image: jax.Array, matrix: jax.Array, fill: str) -> jax.Array:
    where = fast_affine.places(matrix, image.shape, fill)
    return fast_affine.mix(fast_affine.look(fast_affine.corners(image), where.word), where, 0.4)


in_one = jax.jit(partial(affine, value=0.4), static_argnames="fill")


def test_a_word_holds_a_pixel_its_right_neighbour_the_one_below_and_that_ones_right_neighbour():
    image = np.arange(12, dtype=np.uint8).reshape(2, 3, 2)  # rows of (0 1) (2 3) (4 5) and (6 7) (8 9) (10 11)
    words = np.asarray(fast_affine.corners(jnp.asarray(image)))
    assert words.shape == (1, 2, 2)
    assert [f"{word:08x}" for word in words.ravel()] == ["08060200", "09070301", "0a080402", "0b090503"]


def test_a_row_or_column_that_is_alone_is_its_own_neighbour():
    assert hex(fast_affine.corners(jnp.array([[[7], [9]]], jnp.uint8)).item()) == "0x9070907"
    assert hex(fast_affine.corners(jnp.array([[[7]], [[9]]], jnp.uint8)).item()) == "0x9090707"


def test_places_by_hand():
    # 3 x 4 pixels of 2 channels, moved up by half a pixel and left by a quarter: each looks that much down and right.
    where = fast_affine.places(shift(-0.5, -0.25), (3, 4, 2), "edge")
    # words: 2 rows of 3, each with 2; the last row and column look between the last two, at the far end
    assert where.word.tolist() == [[0, 2, 4, 4], [6, 8, 10, 10], [6, 8, 10, 10]]
    assert where.down.tolist() == [[0.5] * 4, [0.5] * 4, [1.0] * 4]
    assert where.right.tolist() == [[0.25, 0.25, 0.25, 1.0]] * 3
    assert where.inside is None
    inside = fast_affine.places(shift(-0.5, -0.25), (3, 4, 2), "constant").inside
    assert inside.tolist() == [[True, True, True, False]] * 2 + [[False] * 4]


def test_a_mirror_leads_back_and_forth():
    # ..b a | a b c | c b.. of three pixels, at their centres and between them
    outside = jnp.array([-3.0, -2.0, -1.0, -0.75, 0.0, 1.5, 2.25, 3.0, 4.0, 5.0, 6.0])
    found = fast_affine._folded(outside, 3, "reflect").tolist()
    assert found == [2.0, 1.0, 0.0, 0.0, 0.0, 1.5, 2.0, 2.0, 1.0, 0.0, 0.0]
    assert fast_affine._folded(outside, 3, "edge").tolist() == [0, 0, 0, 0, 0, 1.5, 2, 2, 2, 2, 2]


def test_a_mix_by_hand():
    # bytes 255 0 / 102 51 are light 1 0 / 0.4 0.2; a quarter to the right: 0.75 / 0.35; half way down: 0.55
    word = jnp.array([[[0x336600FF]]], jnp.uint32)
    where = fast_affine.Places(jnp.array([[0]]), jnp.array([[0.5]]), jnp.array([[0.25]]), jnp.array([[True]]))
    assert_equal_arrays(fast_affine.mix(word, where, 0.0), [[[0.55]]], "a quarter right, half way down")
    outside = where._replace(inside=jnp.array([[False]]))
    assert_equal_arrays(fast_affine.mix(word, outside, 0.3), [[[0.3]]], "outside")


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.sampled_from([(6, 7, 3), (1, 5, 3), (4, 1, 1), (1, 1, 3)]),
    st.floats(-180, 180),
    st.tuples(st.floats(-20, 20), st.floats(-20, 20)),
    st.sampled_from(FILLS),
)
def test_in_programs_an_affine_map_gives_what_it_gives_in_one(shape, degrees, move, fill):
    image, matrix = pixels(*shape), rotation(degrees) @ shift(*move)
    got, want = in_pieces(image, matrix, fill), in_one(image, matrix, fill=fill)
    assert got.dtype == jnp.float32
    # Places are told to some 1e-6 of a pixel, and from one pixel to the next the light may change by 1.
    assert_equal_arrays(got, want, f"{fill}, {degrees} degrees, moved by {move}", atol=3e-5)


@pytest.mark.parametrize("fill", FILLS)
def test_the_programs_draw_what_the_random_affine_map_draws(fill):
    options = {"max_degrees": 90.0, "max_shift": 0.2, "max_shear": 15.0, "max_zoom": 1.3, "fill": fill, "value": 0.2}
    for key in jax.random.split(jax.random.key(3), 5):
        made = jnp.asarray(pixels(11, 14))
        for program in fast_affine.programs(**options):
            made = program(key, made)
        want = geometry.random_affine(key, pixels(11, 14), **options)
        assert_equal_arrays(made, want, fill, atol=3e-5)


def test_a_way_to_fill_that_does_not_exist_is_named_with_those_there_are():
    with pytest.raises(UserError, match=r'^fill: got "wrap", wants "constant", "edge" or "reflect"$'):
        fast_affine.programs(fill="wrap")
