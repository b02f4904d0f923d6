"""Changing how an image looks, not where things are: Gaussian blur, brightness and contrast, and the stain itself.

The contract is that of `geometry.py`: `random_thing(key, image, *, options) -> image`, (height, width, channels),
float32 from 0 to 1.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn.errors import ShapeError

# ---------------------------------------------------------------------------------------------------------------- blur


def gaussian_weights(sigma: jax.Array | float, radius: int) -> jax.Array:
    """The (2 * radius + 1,) weights exp(-t^2 / (2 sigma^2)), divided by their sum; sigma in pixels, 0 for no blur."""
    offsets = jnp.arange(-radius, radius + 1)
    weights = jnp.exp(-(offsets**2) / (2 * jnp.maximum(sigma, 1e-3) ** 2))
    return weights / weights.sum()


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

    def along(image: jax.Array, axis: int) -> jax.Array:
        edges = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
        padded = jnp.pad(image, edges, mode="symmetric")
        size = image.shape[axis]
        return sum(w * lax.slice_in_dim(padded, t, t + size, axis=axis) for t, w in enumerate(weights))

    # Without the barrier XLA fuses both passes into one, and computes the first again for each term of the second.
    return along(lax.optimization_barrier(along(image, 0)), 1)


def random_blur(key: jax.Array, image: jax.Array, *, max_sigma: float = 1.0) -> jax.Array:
    """Blurs with a sigma drawn evenly from 0 to `max_sigma` pixels."""
    sigma = jax.random.uniform(key, maxval=max_sigma)
    return gaussian_blur(image, sigma, radius=max(1, round(3 * max_sigma)))


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
# Light that passes a stain is weakened by a factor for each unit of it (Beer and Lambert), so the optical density
# -log(light) is a sum: amounts @ STAINS. Haematoxylin dyes nuclei blue, eosin the rest pink. Rows are unit vectors of
# the density of red, green and blue, as measured by Ruifrok and Johnston ("Quantification of histochemical staining by
# color deconvolution", Anal Quant Cytol Histol 23, 2001); the third is orthogonal to both and takes what is left over.

_HAEMATOXYLIN, _EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])
STAINS = np.stack([_HAEMATOXYLIN, _EOSIN, np.cross(_HAEMATOXYLIN, _EOSIN)])
STAINS = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)
DARKEST = 1 / 255  # the least light that an 8-bit image can tell from none: the density stays finite


def separate_stains(image: jax.Array) -> jax.Array:
    """Colour deconvolution: RGB light, (height, width, 3) from 0 to 1, to amounts of haematoxylin, eosin and the rest.

    amounts = -log(max(light, 1 / 255)) @ inverse(STAINS), natural logarithm; 0 is no stain.

    Raises:
        ShapeError: if there are not 3 channels.
    """
    if image.shape[-1] != 3:
        raise ShapeError("separate stains", f"an image of shape {image.shape}", "3 channels, red, green and blue")
    density = -jnp.log(jnp.maximum(image, DARKEST))
    return density @ jnp.asarray(np.linalg.inv(STAINS), image.dtype)


def combine_stains(amounts: jax.Array) -> jax.Array:
    """The inverse of `separate_stains`, (height, width, 3): light = exp(-amounts @ STAINS), cut to 0 .. 1."""
    return jnp.clip(jnp.exp(-(amounts @ jnp.asarray(STAINS, amounts.dtype))), 0.0, 1.0)


def random_stain(key: jax.Array, image: jax.Array, *, max_scale: float = 0.1, max_offset: float = 0.02) -> jax.Array:
    """Stains the slide a little differently: each amount a becomes a * (1 +- max_scale) +- max_offset, drawn evenly.

    After Tellez et al. ("Whole-slide mitosis detection in H&E breast histology", IEEE Trans Med Imaging 37, 2018).
    """
    scale, offset = jax.random.uniform(key, (2, 3), minval=-1.0, maxval=1.0, dtype=image.dtype)
    return combine_stains(separate_stains(image) * (1 + max_scale * scale) + max_offset * offset)
