"""Moving an image: flips, and everything that an affine map can do (rotation, shift, shear, zoom) in one resampling.

The contract of every augmentation: `random_thing(key, image, *, options) -> image`, where an image is (height, width,
channels), light as float32 from 0 to 1, and the result has the same shape and range. Those of this file, which move
pixels, take bytes too, uint8 from 0 to 255, a quarter of the memory; a resampling makes them light. "How much" is drawn
from the key; "what" is done by a function beside it that has no randomness: `random_rotation` draws an angle, `affine`
with `rotation(angle)` turns the image. Each handles one image; `augment.batched` makes it one for batches.

An affine map says, for each pixel of the result, where in the given image to look: (y, x) in = matrix @ (y, x, 1) out,
both measured in pixels from the image's centre, y downwards. Looking from the result backwards leaves no holes.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from cnn.errors import ShapeError, UserError
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


def zoom(factor: jax.Array | float) -> jax.Array:
    """The (3, 3) map that enlarges the image by a factor; below 1 it shrinks it."""
    return jnp.array([[1.0 / factor, 0.0, 0.0], [0.0, 1.0 / factor, 0.0], [0.0, 0.0, 1.0]])


# ------------------------------------------------------------------------------------------------------------ sampling


def check_how(sampling: str, fill: str) -> None:
    """UserError unless `affine` knows them."""
    if sampling not in ("nearest", "bilinear"):
        raise UserError(f'sampling: got "{sampling}", wants "nearest" or "bilinear"')
    if fill not in ("constant", "edge", "reflect"):
        raise UserError(f'fill: got "{fill}", wants "constant", "edge" or "reflect"')


def on_image(y: jax.Array, x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Whether places, in pixels, lie between the outermost pixel centres of an image of (height, width, ...)."""
    slack = 1e-3  # pixels: a quarter turn must not lose its edge to the rounding of a cosine
    return (y >= -slack) & (y <= shape[0] - 1 + slack) & (x >= -slack) & (x <= shape[1] - 1 + slack)


def _reflected(index: jax.Array, size: int) -> jax.Array:
    """Folds any index into 0 .. size - 1 by mirrors at the edges: -1 -> 0, -2 -> 1, size -> size - 1."""
    index = jnp.mod(index, 2 * size)
    return jnp.minimum(index, 2 * size - 1 - index)


def affine(
    image: jax.Array, matrix: jax.Array, *, sampling: str = "bilinear", fill: str = "constant", value: float = 0.0
) -> jax.Array:
    """Resamples an image through an affine map; several maps are one: multiply their matrices first.

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
    check_how(sampling, fill)
    height, width, channels = image.shape
    centre_y, centre_x = (height - 1) / 2, (width - 1) / 2
    y_out, x_out = jnp.meshgrid(jnp.arange(height) - centre_y, jnp.arange(width) - centre_x, indexing="ij")
    y = matrix[0, 0] * y_out + matrix[0, 1] * x_out + matrix[0, 2] + centre_y  # (height, width), pixels of the image
    x = matrix[1, 0] * y_out + matrix[1, 1] * x_out + matrix[1, 2] + centre_x
    rows = jnp.asarray(image).reshape(height * width, channels)

    def at(row: jax.Array, column: jax.Array) -> jax.Array:  # the pixels at integer places, wherever those are
        row, column = row.astype(jnp.int32), column.astype(jnp.int32)
        if fill == "reflect":
            row, column = _reflected(row, height), _reflected(column, width)
        else:
            row, column = jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)
        # One gather of whole pixels. All places lie on the image: nothing has to be checked again.
        return rows.at[row * width + column].get(mode="promise_in_bounds")

    if sampling == "nearest":
        result = at(jnp.floor(y + 0.5), jnp.floor(x + 0.5))
    else:
        top, left = jnp.floor(y), jnp.floor(x)
        kind = jnp.float32 if image.dtype == jnp.uint8 else image.dtype
        below, right = (y - top)[..., None].astype(kind), (x - left)[..., None].astype(kind)
        upper = at(top, left) * (1 - right) + at(top, left + 1) * right
        lower = at(top + 1, left) * (1 - right) + at(top + 1, left + 1) * right
        result = upper * (1 - below) + lower * below
        result = result / 255 if image.dtype == jnp.uint8 else result
    result = as_light(result)
    if fill == "constant":
        result = jnp.where(on_image(y, x, image.shape)[..., None], result, jnp.asarray(value, result.dtype))
    return result


# -------------------------------------------------------------------------------------------------------------- random


def _between(key: jax.Array, limit: float) -> jax.Array:
    return jax.random.uniform(key, minval=-limit, maxval=limit)


def random_flip_horizontal(key: jax.Array, image: jax.Array, *, probability: float = 0.5) -> jax.Array:
    """Exchanges left and right with the given probability."""
    return jnp.where(jax.random.bernoulli(key, probability), image[:, ::-1], image)


def random_flip_vertical(key: jax.Array, image: jax.Array, *, probability: float = 0.5) -> jax.Array:
    """Exchanges top and bottom with the given probability."""
    return jnp.where(jax.random.bernoulli(key, probability), image[::-1], image)


def random_transpose(key: jax.Array, image: jax.Array, *, probability: float = 0.5) -> jax.Array:
    """Exchanges rows and columns of a square image with the given probability.

    With the two flips it makes the eight ways to lay a square on itself, all alike likely, and no pixel is resampled.

    Raises:
        ShapeError: if the image is not square.
    """
    if image.shape[0] != image.shape[1]:
        raise ShapeError("transpose", f"an image of shape {image.shape}", "a square, since the shape must not change")
    return jnp.where(jax.random.bernoulli(key, probability), image.swapaxes(0, 1), image)


def random_crop(key: jax.Array, image: jax.Array, *, size: int) -> jax.Array:
    """Cuts out a square of `size` pixels, or of the image's shorter side if that is less, at a place drawn evenly.

    The one augmentation that changes a shape: (height, width, channels) -> (size, size, channels).
    """
    height, width, channels = image.shape
    side = min(size, height, width)
    top, left = jax.random.randint(key, (2,), 0, jnp.array([height - side + 1, width - side + 1]))
    return lax.dynamic_slice(image, (top, left, 0), (side, side, channels))


def random_rotation(key: jax.Array, image: jax.Array, *, max_degrees: float = 180.0, **how) -> jax.Array:
    """Turns by an angle drawn evenly from -max_degrees to max_degrees; `how`: see `affine`."""
    return affine(image, rotation(_between(key, max_degrees)), **how)


def random_shift(key: jax.Array, image: jax.Array, *, max_fraction: float = 0.1, **how) -> jax.Array:
    """Moves by up to `max_fraction` of the height and, independently, of the width; `how`: see `affine`."""
    down, right = jax.random.uniform(key, (2,), minval=-max_fraction, maxval=max_fraction)
    return affine(image, shift(down * image.shape[0], right * image.shape[1]), **how)


def random_shear(key: jax.Array, image: jax.Array, *, max_degrees: float = 11.5, **how) -> jax.Array:
    """Slants by an angle drawn evenly from -max_degrees to max_degrees; `how`: see `affine`."""
    return affine(image, shear(_between(key, max_degrees)), **how)


def random_zoom(key: jax.Array, image: jax.Array, *, max_factor: float = 1.2, **how) -> jax.Array:
    """Enlarges by a factor from 1 / max_factor to max_factor, evenly on the logarithm's scale; `how`: see `affine`."""
    return affine(image, zoom(jnp.exp(_between(key, math.log(max_factor)))), **how)


def draw_matrix(
    key: jax.Array, shape: tuple[int, ...], max_degrees: float, max_shift: float, max_shear: float, max_zoom: float
) -> jax.Array:
    """The (3, 3) map of `random_affine`, whose arguments these are, for an image of the shape (height, width, ...)."""
    keys = jax.random.split(key, 4)
    down, right = jax.random.uniform(keys[1], (2,), minval=-max_shift, maxval=max_shift)
    matrix = rotation(_between(keys[0], max_degrees))
    matrix = matrix @ shift(down * shape[0], right * shape[1])
    return matrix @ shear(_between(keys[2], max_shear)) @ zoom(jnp.exp(_between(keys[3], math.log(max_zoom))))


def random_affine(
    key: jax.Array,
    image: jax.Array,
    *,
    max_degrees: float = 0.0,
    max_shift: float = 0.0,
    max_shear: float = 0.0,
    max_zoom: float = 1.0,
    **how,
) -> jax.Array:
    """Zooms, slants, moves and turns, in this order, but resamples only once: each resampling would blur a little.

    The matrices are multiplied in the order of Keras' `ImageDataGenerator`: rotation @ shift @ shear @ zoom.

    Args:
        key, image: see the file's docstring.
        max_degrees: of the rotation, to both sides.
        max_shift: fraction of the height and of the width.
        max_shear: degrees, to both sides.
        max_zoom: largest factor; its inverse is the smallest.
        how: see `affine`.
    """
    return affine(image, draw_matrix(key, image.shape, max_degrees, max_shift, max_shear, max_zoom), **how)
