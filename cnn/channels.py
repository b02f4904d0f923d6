"""What is done to each channel by itself: its sum over all places of all images, and the bias.

The sum is taken in two steps. XLA on a CPU adds up three axes at once by a detour (it makes small windows of them) and
one core; (32, 118, 158, 32) takes 12.7 ms in one step and 3.1 ms in two. It is also four times as exact.
"""

import jax
import jax.numpy as jnp  # noqa: F401 (for the examples)
from jax import lax

from cnn.errors import ShapeError


def sum_of_channels(inputs: jax.Array) -> jax.Array:
    """The sum of each channel: (batch, height, width, channels) -> (channels,), of the same dtype.

    >>> sum_of_channels(jnp.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]]).reshape(3, 1, 1, 2)).tolist()
    [7.0, 70.0]
    """
    over_batch = lax.optimization_barrier(inputs.sum(axis=0))  # else XLA makes one sum of both
    return over_batch.sum(axis=(0, 1))


def add_bias(inputs: jax.Array, bias: jax.Array) -> jax.Array:
    """inputs + bias, one number a channel. Its gradient is the sum of what comes back over all places of the channel.

    Args:
        inputs: (batch, height, width, channels).
        bias: (channels,), of the same dtype.
    Raises:
        ShapeError: if there is not one bias a channel.

    >>> add_bias(jnp.zeros((1, 1, 2, 2)), jnp.array([0.5, -0.5])).tolist()
    [[[[0.5, -0.5], [0.5, -0.5]]]]
    """
    if inputs.ndim != 4 or inputs.shape[3:] != bias.shape:
        raise ShapeError("bias", f"inputs of shape {inputs.shape}", f"(batch, height, width, {bias.size})")
    return _add_bias(inputs, bias)


@jax.custom_vjp
def _add_bias(inputs: jax.Array, bias: jax.Array) -> jax.Array:
    return inputs + bias


_add_bias.defvjp(
    lambda inputs, bias: (inputs + bias, None),
    lambda _, upstream: (upstream, sum_of_channels(upstream)),
)
