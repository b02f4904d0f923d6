"""The affine map of bytes, made fast: the numbers of `geometry.affine`, in half the time.

In one program XLA takes the result's numbers one by one. For each of a pixel's three it works out again where to look
and what is mirrored, then fetches four bytes, one after the other. Here it is three programs, each of plain loops:

1. prepare: `corners` packs the four bytes that a place can lie between into one 32-bit word, for every place and
   channel; `places` tells from the matrix which word a pixel of the result needs, and how far between its corners;
2. fetch: `look` takes the words, those of a pixel's channels in one piece. This is the one loop that cannot compute
   many numbers at once, so it should have nothing else to do;
3. finish: `mix` weighs the four bytes of each word.

A batch of 32, 240 x 320, mirrored edges, two cores: 44 ms in one program, 23 so. In one `jit` they would be joined into
one loop again, whatever stands between them, so `augment.compiled` compiles each by itself.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cnn.geometry import check_how, draw_matrix, on_image


class Places(NamedTuple):
    """Where the pixels of a result lie on the given image; all (height, width)."""

    word: jax.Array  # int32: the number of the first of the pixel's words
    down: jax.Array  # float32, 0 to 1: from the upper corners to the lower
    right: jax.Array  # float32, 0 to 1: from the left corners to the right
    inside: jax.Array | None  # bool: whether the place is on the image; None if what lies outside is mirrored


def corners(image: jax.Array) -> jax.Array:
    """(height, width, channels) uint8 -> (height - 1, width - 1, channels) uint32, and at least one row and column.

    Lowest byte first: the pixel, its right neighbour, the one below, and that one's right neighbour.

    >>> hex(corners(jnp.array([[[1], [2]], [[3], [4]]], jnp.uint8)).item())
    '0x4030201'
    """
    for axis in (0, 1):
        image = jnp.repeat(image, 2, axis) if image.shape[axis] == 1 else image
    image = image.astype(jnp.uint32)
    upper, lower = image[:-1], image[1:]
    return upper[:, :-1] | upper[:, 1:] << 8 | lower[:, :-1] << 16 | lower[:, 1:] << 24


def _folded(coordinate: jax.Array, size: int, fill: str) -> jax.Array:
    """Any coordinate in pixels -> the one on the image, 0 to size - 1, where its light is found."""
    if fill == "reflect":  # at the outer edges of the outermost pixels, half a pixel from their centres
        turn = coordinate + 0.5
        turn = turn - 2 * size * jnp.floor(turn / (2 * size))  # 0 to 2 * size: there and back
        coordinate = jnp.minimum(turn, 2 * size - turn) - 0.5
    return jnp.clip(coordinate, 0, size - 1)


def places(matrix: jax.Array, shape: tuple[int, int, int], fill: str) -> Places:
    """Through a (3, 3) matrix, for an image of the given shape; `fill`: see `affine`."""
    height, width, channels = shape
    y_out, x_out = jnp.arange(height)[:, None] - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2
    y = matrix[0, 0] * y_out + matrix[0, 1] * x_out + matrix[0, 2] + (height - 1) / 2
    x = matrix[1, 0] * y_out + matrix[1, 1] * x_out + matrix[1, 2] + (width - 1) / 2
    inside = on_image(y, x, shape) if fill == "constant" else None
    y, x = _folded(y, height, fill), _folded(x, width, fill)
    # The last row and column are the lower and right corners of those before them: at the edge, down or right is 1.
    top, left = (jnp.floor(jnp.minimum(c, max(n - 2, 0))) for c, n in ((y, height), (x, width)))
    word = (top.astype(jnp.int32) * max(width - 1, 1) + left.astype(jnp.int32)) * channels
    return Places(word, y - top, x - left, inside)


def look(words: jax.Array, first: jax.Array) -> jax.Array:
    """From all words, those that begin at the given numbers, (height, width): (height, width, channels) uint32."""
    numbers = lax.GatherDimensionNumbers(offset_dims=(2,), collapsed_slice_dims=(), start_index_map=(0,))
    return lax.gather(words.ravel(), first[..., None], numbers, words.shape[-1:], mode="promise_in_bounds")


def mix(words: jax.Array, where: Places, value: float) -> jax.Array:
    """Weighs the four bytes of each word, (height, width, channels): light, float32 from 0 to 1; outside, `value`."""
    one, its_right, below, belows_right = ((words >> 8 * i & 255).astype(jnp.float32) for i in range(4))
    down, right = where.down[..., None], where.right[..., None]
    upper = one * (1 - right) + its_right * right
    lower = below * (1 - right) + belows_right * right
    light = (upper * (1 - down) + lower * down) / 255
    return light if where.inside is None else jnp.where(where.inside[..., None], light, value)


def programs(
    *,
    max_degrees: float = 0.0,
    max_shift: float = 0.0,
    max_shear: float = 0.0,
    max_zoom: float = 1.0,
    fill: str = "constant",
    value: float = 0.0,
) -> list[Callable]:
    """`random_affine` of bytes, "bilinear", as functions (key, what the one before made) -> what the next one needs.

    Arguments and errors: see `geometry.random_affine`.
    """
    check_how("bilinear", fill)

    def prepare(key: jax.Array, image: jax.Array) -> tuple[jax.Array, Places]:
        matrix = draw_matrix(key, image.shape, max_degrees, max_shift, max_shear, max_zoom)
        return corners(image), places(matrix, image.shape, fill)

    def fetch(key: jax.Array, prepared: tuple[jax.Array, Places]) -> tuple[jax.Array, Places]:
        words, where = prepared
        return look(words, where.word), where

    def finish(key: jax.Array, fetched: tuple[jax.Array, Places]) -> jax.Array:
        return mix(*fetched, value)

    return [prepare, fetch, finish]
