"""Haematoxylin and eosin: what a stain does to light, and how to tell from the light how much of each there is.

Light that passes a stain is weakened by a factor for each unit of it (Beer and Lambert), so the optical density
-log(light) is a sum: amounts @ STAINS (see `dyes.py`).
"""

import jax
import jax.numpy as jnp
import numpy as np

from cnn.dyes import STAINS
from cnn.errors import ShapeError

DARKEST = 1 / 255  # the least light that an 8-bit image can tell from none: the density stays finite
WHITE = 200  # of 255: a pixel above this in red, green and blue shows the lamp, not tissue
FAINT = 0.05  # a stain weaker than this is noise, and must not be blown up to look like one


def as_light(images: jax.Array) -> jax.Array:
    """uint8 from 0 to 255 -> float32 from 0 to 1, which is what networks work on; what is light already stays as it is.

    >>> as_light(jnp.array([0, 255], jnp.uint8)).tolist()
    [0.0, 1.0]
    """
    return images if jnp.issubdtype(images.dtype, jnp.floating) else images.astype(jnp.float32) / 255


def separate_stains(image: jax.Array) -> jax.Array:
    """Colour deconvolution: RGB light, (..., height, width, 3) from 0 to 1, to amounts of the stains and the rest.

    amounts = -log(max(light, 1 / 255)) @ inverse(STAINS), natural logarithm; 0 is no stain.

    Raises:
        ShapeError: if there are not 3 channels.
    """
    if image.shape[-1] != 3:
        raise ShapeError("separate stains", f"an image of shape {image.shape}", "3 channels, red, green and blue")
    density = -jnp.log(jnp.maximum(image, DARKEST))
    return _mix(density, np.linalg.inv(STAINS))


def _mix(pixels: jax.Array, matrix: np.ndarray) -> jax.Array:
    """pixels @ matrix, (..., 3) by (3, 3), as a sum over channels: XLA multiplies such small matrices slowly.

    `appearance.random_stain`, 32 images of 240 x 320: 26 ms with two products, 11 so (two cores).
    """
    matrix = jnp.asarray(matrix, pixels.dtype)
    return sum(pixels[..., i : i + 1] * matrix[i] for i in range(3))


def relative_stains(image: jax.Array) -> jax.Array:
    """Amounts of the stains, (..., height, width, 3), each divided by its root mean square in the image's tissue.

    A slide that lay in the bath for twice as long holds twice as much of a stain everywhere; here it looks nearly the
    same. What tells tissues apart is where in a slide there is more of a stain, and where less.

        amounts / sqrt(sum over tissue of amounts^2 / (pixels of tissue + 1) + 0.05^2)

    (The 1 is there so that an image without tissue is no division by 0.) Tissue is where red, green or blue is at most
    200 of 255. Glass does not count, else a slide with little tissue would look like a pale one. A square that is cut
    out of a slide is measured by itself. Errors: `separate_stains`.
    """
    amounts = separate_stains(image)
    # Between 200 and 201: XLA divides bytes by 255 with an error in the last bit.
    tissue = (image.min(-1, keepdims=True) <= (WHITE + 0.5) / 255).astype(image.dtype)
    squares = (tissue * amounts**2).sum((-3, -2), keepdims=True) / (tissue.sum((-3, -2), keepdims=True) + 1)
    return amounts / jnp.sqrt(squares + FAINT**2)


def combine_stains(amounts: jax.Array) -> jax.Array:
    """The inverse of `separate_stains`, (..., height, width, 3): light = exp(-amounts @ STAINS), cut to 0 .. 1."""
    return jnp.clip(jnp.exp(-_mix(amounts, STAINS)), 0.0, 1.0)
