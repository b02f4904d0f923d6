"""Squares cut out of an image, and the eight ways to lay them. Next: test_appearance.py.

A place is drawn evenly: of an image of 5 x 7 pixels a square of 3 can be cut at 3 x 5 places.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn import appearance
from cnn.augment import AUGMENTATIONS, batched, compose
from cnn.errors import ShapeError
from cnn.geometry import random_crop, random_flip_horizontal, random_flip_vertical, random_transpose

COUNTED = jnp.arange(35.0).reshape(5, 7, 1)  # each pixel says where it is: 7 * row + column


def keys(number: int) -> jax.Array:
    return jax.random.split(jax.random.key(0), number)


def test_a_crop_is_a_square_of_the_image():
    for key in keys(20):
        square = np.asarray(random_crop(key, COUNTED, size=3))[..., 0]
        top, left = divmod(int(square[0, 0]), 7)
        assert np.array_equal(square, np.asarray(COUNTED)[top : top + 3, left : left + 3, 0])


def test_every_place_is_as_likely():
    corners = jax.vmap(lambda key: random_crop(key, COUNTED, size=3)[0, 0, 0])(keys(1500))
    places, counts = np.unique(np.asarray(corners), return_counts=True)
    assert places.tolist() == [7 * row + column for row in range(3) for column in range(5)]
    assert 60 < counts.min() < counts.max() < 140  # 100 +- 4 standard deviations of 9.7


def test_an_image_smaller_than_the_square_gives_the_largest_that_it_holds():
    assert random_crop(jax.random.key(0), COUNTED, size=128).shape == (5, 5, 1)
    assert random_crop(jax.random.key(0), COUNTED[:3, :3], size=3).shape == (3, 3, 1)


def test_flips_and_a_transpose_lay_a_square_in_eight_ways_alike_often():
    square = jnp.arange(4.0).reshape(2, 2, 1)
    lay = compose(random_flip_horizontal, random_flip_vertical, random_transpose)
    laid = np.asarray(jax.vmap(lambda key: lay(key, square).ravel())(keys(1600))).astype(int)
    ways, counts = np.unique(laid, axis=0, return_counts=True)
    # clockwise from the top left the four corners read 0 1 3 2, from any corner, either way round
    rounds = {tuple(np.roll([0, 1, 3, 2], i)) for i in range(4)} | {tuple(np.roll([0, 2, 3, 1], i)) for i in range(4)}
    assert {(a, b, d, c) for a, b, c, d in ways.tolist()} == {tuple(map(int, way)) for way in rounds}
    assert 147 < counts.min() < counts.max() < 253  # 200 +- 4 standard deviations of 13.2


def test_a_transpose_by_hand():
    always = partial(random_transpose, probability=1.0)
    assert always(jax.random.key(0), jnp.arange(4.0).reshape(2, 2, 1))[..., 0].tolist() == [[0, 2], [1, 3]]
    with pytest.raises(ShapeError, match=r"^transpose: got an image of shape \(5, 7, 1\), wants a square"):
        random_transpose(jax.random.key(0), COUNTED)


def test_the_named_augmentation_cuts_squares_of_128_and_changes_the_stain():
    grey = jnp.full((2, 150, 200, 3), 0.5)
    squares = batched(AUGMENTATIONS["crop"])(jax.random.key(0), grey)
    assert squares.shape == (2, 128, 128, 3)
    assert (jnp.ptp(squares, axis=(1, 2)) < 1e-6).all(), "one stain for all of an image"
    assert jnp.abs(squares[0, 0, 0] - squares[1, 0, 0]).max() > 1e-3, "each image its own"
    assert (jnp.abs(squares[:, 0, 0] - 0.5).max(axis=1) > 1e-3).all()


def test_squares_are_laid_in_eight_ways_and_stained_by_up_to_half_more_or_less(monkeypatch):
    squares, stains, two = [], [], jnp.array([[1.0] * 3, [2.0] * 3])  # amounts of 1 and 2 of each stain
    monkeypatch.setattr(appearance, "separate_stains", lambda image: squares.append(image) or two)
    monkeypatch.setattr(appearance, "combine_stains", lambda amounts: stains.append(amounts) or squares.pop())

    def one(key):
        return AUGMENTATIONS["crop"](key, jnp.arange(4.0).reshape(2, 2, 1)).ravel(), stains.pop()

    laid, amounts = map(np.asarray, jax.jit(jax.vmap(one))(keys(400)))
    ways, counts = np.unique(laid, axis=0, return_counts=True)
    assert len(ways) == 8
    assert 24 < counts.min() < counts.max() < 76  # 50, and 4 standard deviations of 6.6
    scale = amounts[:, 1] - amounts[:, 0]
    for values, limit in ((scale - 1, 0.5), (amounts[:, 0] - scale, 0.05)):
        assert 0.9 * limit < values.max() < 1.001 * limit
        assert -1.001 * limit < values.min() < -0.9 * limit
