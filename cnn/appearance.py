"""Changing how an image looks, not where things are: Gaussian blur, brightness and contrast, and the stain itself.

The contract is that of `geometry.py`: `random_thing(key, image, *, options) -> image`, (height, width, channels),
float32 from 0 to 1.
"""

import jax
import jax.numpy as jnp
from jax import lax

from cnn.stains import combine_stains, separate_stains

# ---------------------------------------------------------------------------------------------------------------- blur


def gaussian_weights(sigma: jax.Array | float, radius: int) -> jax.Array:
    """The (2 * radius + 1,) weights exp(-t^2 / (2 sigma^2)), divided by their sum; sigma in pixels, 0 for no blur."""
    offsets = jnp.arange(-radius, radius + 1)
    weights = jnp.exp(-(offsets**2) / (2 * jnp.maximum(sigma, 1e-3) ** 2))
    return weights / weights.sum()


def gaussian_blur(image: jax.Array, sigma: jax.Array | float, *, radius: int, axes=(0, 1)) -> jax.Array:
    """Replaces each pixel by a Gaussian-weighted mean of its neighbours; the image is mirrored at its edges.

    A two-dimensional Gaussian is a product of two: blurring down and then across costs 2 * (2 * radius + 1) products
    a pixel, not (2 * radius + 1)^2. The mirror (..b a | a b c..) makes the blur conserve the sum of all pixels.

    Args:
        image: (height, width, channels), floating point.
        sigma: standard deviation in pixels, 0 or more; may be traced, so that each image has its own.
        radius: where the weights are cut off, in pixels; 3 sigma keeps 99.7 % of them.
        axes: along which to blur, down (0) and across (1).
    """
    weights = gaussian_weights(sigma, radius).astype(image.dtype)

    def along(image: jax.Array, axis: int) -> jax.Array:
        edges = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
        padded = jnp.pad(image, edges, mode="symmetric")
        size = image.shape[axis]
        return sum(w * lax.slice_in_dim(padded, t, t + size, axis=axis) for t, w in enumerate(weights))

    for axis in axes:
        image = along(image, axis)
    return image


def random_blur(key: jax.Array, image: jax.Array, *, max_sigma: float = 1.0, axes=(0, 1)) -> jax.Array:
    """Blurs with a sigma drawn evenly from 0 to `max_sigma` pixels; `axes`: see `gaussian_blur`."""
    sigma = jax.random.uniform(key, maxval=max_sigma)
    return gaussian_blur(image, sigma, radius=max(1, round(3 * max_sigma)), axes=axes)


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

    After Tellez et al. ("Whole-slide mitosis detection in H&E breast histology", IEEE Trans Med Imaging 37, 2018).
    """
    scale, offset = jax.random.uniform(key, (2, 3), minval=-1.0, maxval=1.0, dtype=image.dtype)
    return combine_stains(separate_stains(image) * (1 + max_scale * scale) + max_offset * offset)
