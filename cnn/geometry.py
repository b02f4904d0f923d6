"""Moving an image: flips, crops, and everything that an affine map can do (rotation, shift, shear, zoom).

The contract of every augmentation: `random_thing(key, image, *, options) -> image`, where an image is (height, width,
channels), light as float32 from 0 to 1, and the result has the same shape (but for `random_crop`) and range. Those of
this file, which move pixels, take bytes too, uint8 from 0 to 255, a quarter of the memory; a resampling makes them
light. "How much" is drawn from the key; "what" is done by a function that has no randomness: `random_rotation` draws
an angle, `affine` with `rotation(angle)` turns the image. Each handles one image; `augment.batched` makes it one for
batches.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from cnn.errors import ShapeError
from cnn.resampling import (
    Sources,
    affine,
    chained,
    compiled_for_fetching,
    look,
    mirror,
    rotation,
    shear,
    shift,
    sources,
    zoom,
)


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

    The one augmentation that changes a shape: (height, width, channels) -> (side, side, channels), side the smallest
    of size, height and width.
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
    key: jax.Array,
    shape: tuple[int, ...],
    *,
    max_degrees: float = 0.0,
    max_shift: float = 0.0,
    max_shear: float = 0.0,
    max_zoom: float = 1.0,
) -> jax.Array:
    """The (3, 3) map of `random_affine`, whose arguments these are, for an image of the shape (height, width, ...)."""
    keys = jax.random.split(key, 4)
    down, right = jax.random.uniform(keys[1], (2,), minval=-max_shift, maxval=max_shift)
    return chained(
        rotation(_between(keys[0], max_degrees)),
        shift(down * shape[0], right * shape[1]),
        shear(_between(keys[2], max_shear)),
        zoom(jnp.exp(_between(keys[3], math.log(max_zoom)))),
    )


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
    """Turns, moves, slants and zooms, in this order, but resamples only once: each resampling would blur a little.

    A map leads from the result back to the image, so what is done first stands leftmost: rotation @ shift @ shear @
    zoom, the order of Keras' `ImageDataGenerator`.

    Args:
        key, image: see the file's docstring.
        max_degrees: of the rotation, to both sides.
        max_shift: fraction of the height and of the width.
        max_shear: degrees, to both sides.
        max_zoom: largest factor; its inverse is the smallest.
        how: see `affine`.
    """
    limits = {"max_degrees": max_degrees, "max_shift": max_shift, "max_shear": max_shear, "max_zoom": max_zoom}
    return affine(image, draw_matrix(key, image.shape, **limits), **how)


# What is a matrix, so that several are one, and one resampling: see `compiled_map`.
MAPS = (random_flip_horizontal, random_flip_vertical, random_affine)


def taken_apart(part: Callable) -> tuple[Callable, dict]:
    """The function and the options of `partial(function, **options)`; of a plain function itself and none."""
    return (part.func, part.keywords) if isinstance(part, partial) else (part, {})


def _map_of(part: Callable, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The (3, 3) map of one of MAPS, with the numbers that it would itself draw from the key."""
    function, options = taken_apart(part)
    if function is random_affine:
        limits = {name: limit for name, limit in options.items() if name.startswith("max_")}
        return draw_matrix(key, shape, **limits)
    flipped = jax.random.bernoulli(key, options.get("probability", 0.5))
    return mirror(flipped & (function is random_flip_vertical), flipped & (function is random_flip_horizontal))


def compiled_map(*parts: Callable) -> Callable[..., jax.Array]:
    """Several of MAPS, one of them `random_affine`, as one resampling: (images, keys of each part) -> images.

    It is two programs, where and what. In one XLA works out where to look anew for each of a pixel's channels: 32
    images of 240 x 320 pixels, in bytes, mirrored at the edges: 25 ms as one program, 16 as two (two cores). A flip
    by itself is 2 ms more, in the map nothing.
    """
    (options,) = (options for function, options in map(taken_apart, parts) if function is random_affine)
    how = {name: option for name, option in options.items() if not name.startswith("max_")}
    value = how.pop("value", 0.0)

    @partial(jax.jit, static_argnums=0)
    def draw(shape: tuple[int, ...], *keys: jax.Array) -> Sources:
        def one(*keys: jax.Array) -> Sources:
            maps = [_map_of(part, key, shape) for part, key in zip(parts, keys, strict=True)]
            return sources(chained(*maps), shape, **how)

        return jax.vmap(one)(*keys)

    resample = compiled_for_fetching(partial(look, value=value))
    return lambda images, *keys: resample(images, draw(images.shape[1:], *keys))
