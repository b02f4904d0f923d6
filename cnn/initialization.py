"""How kernels start: at random, because equal kernels would get equal gradients and stay equal.

How large they start decides whether signals fade or explode from layer to layer:

    glorot_uniform  within +-sqrt(6 / (fan_in + fan_out)): the default of Keras, so of the network of 2017
                    (Glorot and Bengio, AISTATS 2010, equation 16)
    he_normal       variance 2 / fan_in: makes up for the half of the signal that a ReLU removes
                    (He, Zhang, Ren and Sun, ICCV 2015, equation 10); cut off at two standard deviations, and widened
                    again to this variance, as in Keras

fan_in is the number of inputs that one output sees, kernel_height * kernel_width * in_channels for a convolution, and
fan_out the number of outputs that one input is seen by.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

_LEAST = 1 << 16  # numbers that are drawn at least
_CUT_NORMAL = 0.87962566103423978  # standard deviation of a normal distribution that is cut off at -2 and 2


@partial(jax.jit, static_argnums=(1, 2))
def _numbers(key: jax.Array, number: int, normal: bool) -> jax.Array:
    if normal:
        return jax.random.truncated_normal(key, -2.0, 2.0, (number,))
    return jax.random.uniform(key, (number,), minval=-1.0)


def _drawn(key: jax.Array, shape: tuple[int, ...], scale: np.float32, normal: bool) -> jax.Array:
    """Numbers of this shape, whatever else is drawn: each depends on the key and its place alone.

    To draw takes a long program and little time. So a power of two of numbers is drawn and the first are kept, which
    are the same: one program then serves most kernels. NumPy scales them, which would be a program for each shape. All
    kernels of the main job's network in one long program of their own took 3.1 s, nearly all of it compiling; so it is
    0.8 (two slow cores).
    """
    number = max(_LEAST, 1 << (math.prod(shape) - 1).bit_length())
    numbers = _numbers(key, number, normal)
    if not isinstance(numbers, jax.core.Tracer):  # as in `jax.eval_shape`, where nothing is computed
        numbers = np.asarray(numbers)
    return jax.device_put((numbers[: math.prod(shape)] * scale).reshape(shape))


def constant(value: float, *shape: int) -> jax.Array:
    """Equal numbers, float32, for biases and their like; not by jax.numpy, which compiles a program for each shape."""
    return jax.device_put(np.full(shape, value, np.float32))


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """fan_in and fan_out of a kernel, (height, width, in_channels, out_channels) or (in_features, out_features).

    >>> fans((3, 3, 32, 64)), fans((100, 10))
    ((288, 576), (100, 10))
    """
    return math.prod(shape[:-1]), math.prod(shape[:-2]) * shape[-1]


def glorot_uniform(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """A kernel of this shape, (height, width, in, out) or (in, out), even within +-sqrt(6 / (fan_in + fan_out))."""
    # Numbers that are even within +-a have the variance a^2 / 3, and 2 / (fan_in + fan_out) is wanted.
    limit = np.sqrt(np.float32(3) * np.float32(2 / sum(fans(shape))))
    return _drawn(key, shape, limit, normal=False).astype(dtype)


def he_normal(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """A kernel of this shape, (height, width, in, out) or (in, out), normal with variance 2 / fan_in, cut off."""
    deviation = np.sqrt(np.float32(2 / fans(shape)[0])) / np.float32(_CUT_NORMAL)
    return _drawn(key, shape, deviation, normal=True).astype(dtype)
