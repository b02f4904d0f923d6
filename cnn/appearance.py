"""Changing how an image looks, not where things are: Gaussian blur, brightness and contrast, and the stain itself.

The contract is that of `geometry.py`: `random_thing(key, image, *, options) -> image`, (height, width, channels),
float32 from 0 to 1.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from cnn.resampling import compiled_for_fetching
from cnn.stains import as_light, combine_stains, separate_stains

# ---------------------------------------------------------------------------------------------------------------- blur


def gaussian_weights(sigma: jax.Array | float, radius: int) -> jax.Array:
    """The (2 * radius + 1,) weights exp(-t^2 / (2 sigma^2)), divided by their sum; sigma in pixels, 0 for no blur."""
    offsets = jnp.arange(-radius, radius + 1)
    weights = jnp.exp(-(offsets**2) / (2 * jnp.maximum(sigma, 1e-3) ** 2))
    return weights / weights.sum()


def _mirror(size: int, radius: int) -> np.ndarray:
    """The places 0 to size - 1, and beyond either end so many more, mirrored: ..b a | a b c.."""
    return np.pad(np.arange(size), radius, mode="symmetric")


def _down(image: jax.Array, weights: jax.Array) -> jax.Array:
    """The weighted mean of each pixel and those above and below it. A row is fetched whole, which costs nothing."""
    rows = _mirror(len(image), len(weights) // 2)
    return sum(w * image[rows[t : t + len(image)]] for t, w in enumerate(weights))


def _wider(image: jax.Array, radius: int) -> jax.Array:
    """The image with mirrored columns to its left and right: once, since columns fetched for each weight are slow."""
    places = _mirror(image.shape[1], radius)
    return jnp.concatenate([image[:, places[:radius]], image, image[:, places[len(places) - radius :]]], axis=1)


def _across(wider: jax.Array, weights: jax.Array) -> jax.Array:
    """The weighted mean of each pixel and those to its left and right, of an image that is so much wider."""
    width = wider.shape[1] - len(weights) + 1
    return sum(w * wider[:, t : t + width] for t, w in enumerate(weights))


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
    return _across(_wider(_down(image, weights), radius), weights)


def _radius(sigma: float) -> int:
    return max(1, round(3 * sigma))


def random_blur(key: jax.Array, image: jax.Array, *, max_sigma: float = 1.0) -> jax.Array:
    """Blurs with a sigma drawn evenly from 0 to `max_sigma` pixels."""
    sigma = jax.random.uniform(key, maxval=max_sigma)
    return gaussian_blur(image, sigma, radius=_radius(max_sigma))


def compiled_blur(*, max_sigma: float = 1.0) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """`random_blur` of a batch, as two programs, down and across: (images, a key for each) -> images.

    In one program XLA blurs down anew for every pixel that the blur across looks at, and asks for every one of those
    whether it lies beyond the edge. 32 images of 240 x 320: 117 ms as one program, 9 as three: down, wider, across (two
    cores). Down and wider together save a way through memory, 5 ms -> 3 (two faster cores); but of more than 11
    weights XLA makes so much code of it that it takes 57.
    """
    radius = _radius(max_sigma)

    def weights(key: jax.Array) -> jax.Array:  # down and across draw from the same key, so that they are the same
        return gaussian_weights(jax.random.uniform(key, maxval=max_sigma), radius)

    down = jax.vmap(lambda image, key: _down(as_light(image), weights(key)))
    wider = jax.vmap(partial(_wider, radius=radius))
    across = jax.jit(jax.vmap(lambda image, key: _across(image, weights(key))))

    def down_and_wider(images: jax.Array, keys: jax.Array) -> jax.Array:
        return wider(down(images, keys))

    if radius > 5:
        down, wider = jax.jit(down), jax.jit(wider)
    first = down_and_wider if radius > 5 else compiled_for_fetching(down_and_wider)
    return lambda images, keys: across(first(images, keys), keys)


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
