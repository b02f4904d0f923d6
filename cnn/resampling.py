"""An affine map, and one resampling of an image through it: it turns, moves, slants, mirrors and zooms at once.

An affine map says, for each pixel of the result, where in the given image to look: (y, x) in = matrix @ (y, x, 1) out,
both measured in pixels from the image's centre, y downwards. Looking from the result backwards leaves no holes. Several
maps are one: first `a`, then `b`, is `a @ b`, in this order, since it is `b`'s pixels that are looked for first.
"""

import functools
import os
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cnn.errors import UserError
from cnn.stains import as_light

# ------------------------------------------------------------------------------------------------------------ matrices


def rotation(degrees: jax.Array | float) -> jax.Array:
    """The (3, 3) map that turns the image by an angle in degrees; positive is counter-clockwise as one sees it."""
    angle = jnp.deg2rad(degrees)
    c, s = jnp.cos(angle), jnp.sin(angle)
    return jnp.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])


def shift(down: jax.Array | float, right: jax.Array | float) -> jax.Array:
    """The (3, 3) map that moves the image by so many pixels: the result looks up and left of itself."""
    return jnp.array([[1.0, 0.0, -down], [0.0, 1.0, -right], [0.0, 0.0, 1.0]])


def shear(degrees: jax.Array | float) -> jax.Array:
    """The (3, 3) map that slants the image by an angle in degrees, as in Keras: (y, x) looks at (y - x sin, x cos)."""
    angle = jnp.deg2rad(degrees)
    return jnp.array([[1.0, -jnp.sin(angle), 0.0], [0.0, jnp.cos(angle), 0.0], [0.0, 0.0, 1.0]])


def mirror(down: jax.Array | bool, right: jax.Array | bool) -> jax.Array:
    """The (3, 3) map that exchanges top and bottom, left and right, each if it is said to."""
    return jnp.diag(jnp.stack([jnp.where(down, -1.0, 1.0), jnp.where(right, -1.0, 1.0), jnp.float32(1)]))


def zoom(factor: jax.Array | float) -> jax.Array:
    """The (3, 3) map that enlarges the image by a factor; below 1 it shrinks it."""
    return jnp.array([[1.0 / factor, 0.0, 0.0], [0.0, 1.0 / factor, 0.0], [0.0, 0.0, 1.0]])


def chained(*maps: jax.Array) -> jax.Array:
    """Several (3, 3) maps as one, the first done first; multiplied exactly, however a GPU multiplies for the layers."""
    # Written out, since XLA makes a product of matrices a program of its own, even one of 3 x 3.
    return functools.reduce(lambda a, b: (a[:, :, None] * b[None, :, :]).sum(axis=1), maps)


# ------------------------------------------------------------------------------------------------------------ sampling

# How XLA is to compile what fetches pixels one by one, where `__init__.py` has chosen the older of its ways for the
# rest: 32 images of 240 x 320 take 11 ms so, and 74 the older way.
FETCHING = None
if "xla_cpu_disable_new_fusion_emitters" in os.environ.get("XLA_FLAGS", ""):
    FETCHING = {"xla_backend_extra_options": ""}  # none of them


def compiled_for_fetching(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`function(images, ...)`, compiled as FETCHING says; within a larger program, that one decides."""
    alone = jax.jit(function, compiler_options=FETCHING)
    return lambda images, *others: (function if isinstance(images, jax.core.Tracer) else alone)(images, *others)


class Sources(NamedTuple):
    """Where the pixels of a result lie on the given image; all (height, width)."""

    first: jax.Array  # int32: number of the pixel there, or of the upper left one of the four around
    down: jax.Array | None  # float32, 0 to 1: from the upper two to the lower two; None to take only the first
    right: jax.Array | None  # float32, 0 to 1: from the left two to the right two
    inside: jax.Array | None  # bool: whether the place is on the image; None if what lies outside is taken from it


def _folded(coordinate: jax.Array, size: int, fill: str) -> jax.Array:
    """Any coordinate in pixels -> the one on the image, 0 to size - 1, where its light is found."""
    if fill == "reflect":  # at the outer edges of the outermost pixels, half a pixel from their centres
        turn = coordinate + 0.5
        turn = turn - 2 * size * jnp.floor(turn / (2 * size))  # 0 to 2 * size: there and back
        coordinate = jnp.minimum(turn, 2 * size - turn) - 0.5
    return jnp.clip(coordinate, 0, size - 1)


def sources(
    matrix: jax.Array, shape: tuple[int, ...], *, sampling: str = "bilinear", fill: str = "constant"
) -> Sources:
    """Where a (3, 3) map makes the pixels of the result look, for an image of the shape (height, width, ...).

    Options and errors: see `affine`.
    """
    if sampling not in ("nearest", "bilinear"):
        raise UserError(f'sampling: got "{sampling}", wants "nearest" or "bilinear"')
    if fill not in ("constant", "edge", "reflect"):
        raise UserError(f'fill: got "{fill}", wants "constant", "edge" or "reflect"')
    height, width = shape[:2]
    y_out, x_out = jnp.arange(height)[:, None] - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2
    y = matrix[0, 0] * y_out + matrix[0, 1] * x_out + matrix[0, 2] + (height - 1) / 2  # (height, width), pixels
    x = matrix[1, 0] * y_out + matrix[1, 1] * x_out + matrix[1, 2] + (width - 1) / 2
    inside = None
    if fill == "constant":
        slack = 1e-3  # pixels: a quarter turn must not lose its edge to the rounding of a cosine
        inside = (y >= -slack) & (y <= height - 1 + slack) & (x >= -slack) & (x <= width - 1 + slack)
    if sampling == "nearest":
        top, left = _folded(jnp.floor(y + 0.5), height, fill), _folded(jnp.floor(x + 0.5), width, fill)
        return Sources(top.astype(jnp.int32) * width + left.astype(jnp.int32), None, None, inside)
    y, x = _folded(y, height, fill), _folded(x, width, fill)
    # The last row and column are the lower and right ones of those before them: there, down or right is 1.
    top, left = jnp.floor(jnp.minimum(y, max(height - 2, 0))), jnp.floor(jnp.minimum(x, max(width - 2, 0)))
    return Sources(top.astype(jnp.int32) * width + left.astype(jnp.int32), y - top, x - left, inside)


def look(images: jax.Array, where: Sources, *, value: float = 0.0) -> jax.Array:
    """What a batch, (batch, height, width, channels), shows at its places, each (batch, height, width)."""
    batch, height, width, channels = images.shape
    kind = jnp.float32 if images.dtype == jnp.uint8 else images.dtype
    values = images.ravel()
    begins = (where.first + height * width * jnp.arange(batch)[:, None, None]) * channels  # its number among all values
    # From each of `begins` take so many numbers in a row, and lay them along axis 3. Beginning with values[far:], all
    # four corners share the same places; that these are on the image, `sources` has seen to.
    a_pixel = lax.GatherDimensionNumbers(offset_dims=(3,), collapsed_slice_dims=(), start_index_map=(0,))

    def at(down: int, right: int) -> jax.Array:  # the pixels so far from the first, (batch, height, width, channels)
        far = (min(down, height - 1) * width + min(right, width - 1)) * channels
        return lax.gather(values[far:], begins[..., None], a_pixel, (channels,), mode="promise_in_bounds")

    result = at(0, 0)
    if where.down is not None:
        down, right = where.down[..., None].astype(kind), where.right[..., None].astype(kind)
        upper = result.astype(kind) * (1 - right) + at(0, 1).astype(kind) * right
        lower = at(1, 0).astype(kind) * (1 - right) + at(1, 1).astype(kind) * right
        result = upper * (1 - down) + lower * down
        result = result / 255 if images.dtype == jnp.uint8 else result
    result = as_light(result)
    if where.inside is None:
        return result
    inside = where.inside[..., None].astype(result.dtype)  # a factor: `jnp.where` costs 4 ms where this costs none
    return result * inside + value * (1 - inside)


def affine(
    image: jax.Array, matrix: jax.Array, *, sampling: str = "bilinear", fill: str = "constant", value: float = 0.0
) -> jax.Array:
    """Resamples an image through an affine map; several maps are one: first `a`, then `b`, is `a @ b`.

    Args:
        image: (height, width, channels), floating point or uint8.
        matrix: (3, 3), from pixels of the result to pixels of the image, about the centre (see the file's docstring).
        sampling: "nearest" takes the pixel that is nearest; "bilinear" weighs the four around by their distance.
        fill: what lies outside the outermost pixel centres: "constant" (`value`), "edge" (the outermost pixel), or
            "reflect" (mirrored: ..b a | a b c..).
        value: for "constant".
    Returns:
        (height, width, channels), of the image's dtype; of bytes, light as float32.
    Raises:
        UserError: for an unknown `sampling` or `fill`.
    """
    where = sources(matrix, image.shape, sampling=sampling, fill=fill)
    return look(jnp.asarray(image)[None], jax.tree.map(lambda a: a[None], where), value=value)[0]
