"""Changing how an image looks, not where things are: Gaussian blur, brightness and contrast, and the stain itself.

The contract is that of `geometry.py`: `random_thing(key, image, *, options) -> image`, (height, width, channels),
float32 from 0 to 1.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn.stains import as_light, combine_stains, separate_stains

# ---------------------------------------------------------------------------------------------------------------- blur


def gaussian_weights(sigma: jax.Array | float, radius: int) -> jax.Array:
    """The (2 * radius + 1,) weights exp(-t^2 / (2 sigma^2)), divided by their sum; sigma in pixels, 0 for no blur."""
    offsets = jnp.arange(-radius, radius + 1)
    weights = jnp.exp(-(offsets**2) / (2 * jnp.maximum(sigma, 1e-3) ** 2))
    return weights / weights.sum()


def _mirrored(image: jax.Array, radius: int) -> jax.Array:
    """(height, width, channels) -> (height + 2 * radius, width + 2 * radius, channels): ..b a | a b c.."""
    rows, columns = (np.pad(np.arange(n), radius, mode="symmetric") for n in image.shape[:2])
    return image[rows[:, None], columns]  # one pass; with `jnp.pad`, which joins pieces, it takes twice as long


def _blurred(padded: jax.Array, weights: jax.Array, axis: int) -> jax.Array:
    """The weighted mean along an axis, which becomes shorter by what was padded: len(weights) - 1."""
    size = padded.shape[axis] - len(weights) + 1
    return sum(w * lax.slice_in_dim(padded, t, t + size, axis=axis) for t, w in enumerate(weights))


def gaussian_blur(image: jax.Array, sigma: jax.Array | float, *, radius: int) -> jax.Array:
    """Replaces each pixel by a Gaussian-weighted mean of its neighbours; the image is mirrored at its edges.

    A two-dimensional Gaussian is a product of two: blurring down and then across costs 2 * (2 * radius + 1) products
    a pixel, not (2 * radius + 1)^2. The mirror (..b a | a b c..) makes the blur conserve the sum of all pixels.

    Args:
        image: (height, width, channels), floating point.
        sigma: standard deviation in pixels, 0 or more; may be traced, so that each image has its own.
        radius: where the weights are cut off, in pixels; 3 sigma keeps 99.7 % of them.
    """
    weights = gaussian_weights(sigma, radius).astype(image.dtype)
    return _blurred(_blurred(_mirrored(image, radius), weights, axis=0), weights, axis=1)


def _radius(sigma: float) -> int:
    return max(1, round(3 * sigma))


def random_blur(key: jax.Array, image: jax.Array, *, max_sigma: float = 1.0) -> jax.Array:
    """Blurs with a sigma drawn evenly from 0 to `max_sigma` pixels."""
    sigma = jax.random.uniform(key, maxval=max_sigma)
    return gaussian_blur(image, sigma, radius=_radius(max_sigma))


def compiled_blur(*, max_sigma: float = 1.0) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """`random_blur` of a batch, as three programs, mirror, blur down, blur across: (a key for each, images) -> images.

    In one program XLA blurs down anew for every pixel that the blur across looks at, and asks for every one of those
    whether it lies beyond the edge. 32 images of 240 x 320: 117 ms as one program, 10 as three (two cores).
    """
    radius = _radius(max_sigma)

    def blur(key: jax.Array, padded: jax.Array, axis: int) -> jax.Array:
        weights = gaussian_weights(jax.random.uniform(key, maxval=max_sigma), radius)
        return _blurred(padded, weights.astype(padded.dtype), axis)

    mirror = jax.jit(lambda images: jax.vmap(partial(_mirrored, radius=radius))(as_light(images)))
    # both draw sigma from the same key, so that it is the same
    down, across = (jax.jit(jax.vmap(partial(blur, axis=axis))) for axis in (0, 1))
    return lambda keys, images: across(keys, down(keys, mirror(images)))


# ---------------------------------------------------------------------------------------------- brightness and contrast


def brightness_and_contrast(image: jax.Array, brightness: jax.Array | float, contrast: jax.Array | float) -> jax.Array:
    """(image - mean) * contrast + mean + brightness, cut to 0 .. 1; the mean is over (height, width, channels)."""
    mean = image.mean()
    return jnp.clip((image - mean) * contrast + mean + brightness, 0.0, 1.0)


def random_brightness_and_contrast(
    key: jax.Array, image: jax.Array, *, max_brightness: float = 0.1, max_contrast: float = 0.1
) -> jax.Array:
    """Adds up to +-max_brightness, and multiplies the contrast by 1 +- max_contrast, both drawn evenly."""
    brightness, contrast = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
    return brightness_and_contrast(image, brightness * max_brightness, 1 + contrast * max_contrast)


# --------------------------------------------------------------------------------------------------------------- stain


def random_stain(key: jax.Array, image: jax.Array, *, max_scale: float = 0.1, max_offset: float = 0.02) -> jax.Array:
    """Stains the slide a little differently: each amount a becomes a * (1 +- max_scale) +- max_offset, drawn evenly.

    One factor and one offset are drawn for each of the three stains, the same for all pixels of the image.
    After Tellez et al. ("Whole-slide mitosis detection in H&E breast histology", IEEE Trans Med Imaging 37, 2018).
    """
    scale, offset = jax.random.uniform(key, (2, 3), minval=-1.0, maxval=1.0, dtype=image.dtype)
    return combine_stains(separate_stains(image) * (1 + max_scale * scale) + max_offset * offset)
