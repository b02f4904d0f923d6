"""Normalisation: signals brought to mean 0 and variance 1 between layers, then to a learned scale and shift.

    y = (x - mean) / sqrt(variance + epsilon) * scale + shift

What differs is over which numbers mean and variance are taken; for (batch, height, width, channels):

    batch_norm   over batch, height and width, for each channel: an image's output depends on the others in its batch,
                 so in use, where there may be no batch, the running means of training take its place
    layer_norm   over height, width and channels, for each image: the same in training and in use, and blind to a
                 positive factor. A stronger stain is one, if the network sees amounts of stain and adds no bias
                 before. (No network of `models.py` uses it; it is here for yours.)

Why it helps: the loss becomes smoother and bears larger steps, and no layer has to follow what the one before does to
the scale of its inputs (Ioffe and Szegedy, ICML 2015; Santurkar et al., NeurIPS 2018).
"""

import jax
import jax.numpy as jnp
from jax import lax

from cnn.channels import sum_of_channels

EPSILON = 1e-3  # as in Keras: with activations of few images a variance may be next to nothing


def moments(inputs: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Mean and variance over the given axes, which are kept with size 1.

    The variance is the mean of (x - mean)^2. The shorter mean of x^2 minus mean^2 loses all digits where the mean is
    large beside the spread.
    """
    mean = inputs.mean(axes, keepdims=True)
    return mean, ((inputs - mean) ** 2).mean(axes, keepdims=True)


def normalize(inputs: jax.Array, mean, variance, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """(inputs - mean) / sqrt(variance + 0.001) * scale + shift; scale and shift are (channels,)."""
    return (inputs - mean) * (lax.rsqrt(variance + EPSILON) * scale) + shift


@jax.custom_vjp
def batch_norm(inputs: jax.Array, scale: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises each channel over the batch and all places; also gives the (channels,) mean and variance used.

    Args:
        inputs: (batch, height, width, channels), floating point.
        scale, shift: (channels,), of the same dtype.
    Returns:
        outputs, of the inputs' shape and dtype; mean; variance, both at least float32.
    """
    exact = inputs.astype(jnp.promote_types(inputs.dtype, jnp.float32))  # in 8 bits a mean would be off by 1 %
    count = inputs.size // inputs.shape[-1]
    mean = sum_of_channels(exact) / count
    variance = sum_of_channels((exact - mean) ** 2) / count
    return normalize(exact, mean, variance, scale, shift).astype(inputs.dtype), mean, variance


def _forward(inputs: jax.Array, scale: jax.Array, shift: jax.Array):
    outputs, mean, variance = batch_norm(inputs, scale, shift)
    return (outputs, mean, variance), (inputs, scale, mean, variance)


def _backward(kept, upstream):
    """How a loss changes with inputs, scale and shift, given how it changes with what `batch_norm` returned.

    Written out, it is two sums a channel; jax's own way through the formula is several, and longer to compile.
    With x = (inputs - mean) * r, r = 1 / sqrt(variance + 0.001), an input moves its output by scale * r, the channel's
    mean by 1 / count, and its variance by 2 (input - mean) / count. The mean moves every output of the channel by
    -scale * r, the variance by -scale * r^2 / 2 * x. (That the mean moves the variance too does not count: the
    distances from it sum to 0.) So the loss changes with the mean by of_mean - scale * r * of_shift, and with the
    variance by of_variance - scale * r^2 / 2 * of_scale; both go on to the inputs.
    """
    inputs, scale, mean, variance = kept
    of_outputs, of_mean, of_variance = upstream
    kinds = inputs.dtype, scale.dtype
    inputs, of_outputs = (a.astype(mean.dtype) for a in (inputs, of_outputs))
    count = inputs.size // inputs.shape[-1]
    r = lax.rsqrt(variance + EPSILON)
    x = (inputs - mean) * r
    of_shift, of_scale = sum_of_channels(of_outputs), sum_of_channels(of_outputs * x)
    through_mean = (of_mean - scale * r * of_shift) / count
    through_variance = (2 * of_variance / r - scale * r * of_scale) / count
    of_inputs = of_outputs * (scale * r) + through_mean + x * through_variance
    return of_inputs.astype(kinds[0]), of_scale.astype(kinds[1]), of_shift.astype(kinds[1])


batch_norm.defvjp(_forward, _backward)


def layer_norm(inputs: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """Normalises each image over all places and channels (Ba, Kiros and Hinton, 2016); shapes as in `batch_norm`.

    Multiplying an image by a positive factor changes nothing but the effect of epsilon.
    """
    return normalize(inputs, *moments(inputs, (1, 2, 3)), scale, shift)


def running(old: jax.Array, new: jax.Array, momentum: float = 0.9) -> jax.Array:
    """momentum * old + (1 - momentum) * new: a mean over about the last 1 / (1 - momentum) batches."""
    return momentum * old + (1 - momentum) * new
