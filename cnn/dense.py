"""The parts that do not look at neighbours: dense, ReLU, flatten, and dropout."""

import math

import jax
import jax.numpy as jnp

from cnn.errors import ShapeError, UserError


def dense(inputs: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Every output is a weighted sum of all inputs: outputs = inputs @ kernel + bias.

    Gradients: d_inputs = upstream @ kernel.T, d_kernel = inputs.T @ upstream (one outer product an example, summed),
    d_bias = sum of upstream over the batch.

    Args:
        inputs: (batch, in_features).
        kernel: (in_features, out_features).
        bias: (out_features,) or None.
    Returns:
        (batch, out_features).
    Raises:
        ShapeError: if the inputs are not (batch, in_features), or the bias is not (out_features,).

    >>> dense(jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]]), jnp.array([0.5])).tolist()  # 1*3 + 2*4 + 0.5
    [[11.5]]
    """
    if inputs.ndim != 2 or inputs.shape[1] != kernel.shape[0]:
        raise ShapeError("dense", f"inputs of shape {inputs.shape}", f"(batch, {kernel.shape[0]})")
    if bias is not None and bias.shape != kernel.shape[1:]:
        raise ShapeError("dense", f"a bias of shape {bias.shape}", f"({kernel.shape[1]},)")
    outputs = inputs @ kernel
    return outputs if bias is None else outputs + bias


@jax.custom_vjp
def relu(inputs: jax.Array) -> jax.Array:
    """max(inputs, 0), any shape. Its gradient is 1 where the input is above 0, else 0 (at 0 itself too). Not for `jvp`.

    >>> relu(jnp.array([-2.0, 0.0, 3.0])).tolist()
    [0.0, 0.0, 3.0]
    """
    return jnp.where(inputs <= 0, 0, inputs)  # NaN <= 0 is false, so that NaN is kept, and not hidden


def _keep_outputs(inputs):
    outputs = relu(inputs)
    return outputs, outputs


# An output is above 0 where its input is. It is kept for the next layer anyway; from the input, XLA computes all that
# led to it once more (a bias, a pool) wherever the gradient is read: a step of the network of 2017 took 2 % longer.
relu.defvjp(_keep_outputs, lambda outputs, upstream: (jnp.where(outputs <= 0, 0, upstream),))


def flatten(images: jax.Array) -> jax.Array:
    """(batch, height, width, channels) -> (batch, height * width * channels), in that order (row-major)."""
    return images.reshape(len(images), math.prod(images.shape[1:]))  # -1 would not do for an empty batch


def check_rate(rate: float) -> None:
    """Raises UserError unless 0 <= rate < 1."""
    if not 0 <= rate < 1:
        raise UserError(f"dropout: got a rate of {rate}, wants 0 or more and less than 1 (the share that is dropped)")


def dropout(key: jax.Array, inputs: jax.Array, rate: float) -> jax.Array:
    """Sets each input to 0 with probability `rate`, and divides the others by 1 - rate (inverted dropout).

    The division keeps the mean: E[output] = (1 - rate) * input / (1 - rate) = input. So the network can be used without
    dropout as it is. The gradient passes where the input passed, divided alike. (Srivastava et al., "Dropout: a simple
    way to prevent neural networks from overfitting", JMLR 15, 2014, sections 4 and 10.)

    Args:
        key: `jax.random.key(seed)`, or one derived from it. The same key drops the same, so it is used once only.
        inputs: any shape, floating point.
        rate: the share that is dropped, in [0, 1).
    Raises:
        UserError: for a rate outside [0, 1).
    """
    check_rate(rate)
    keep = jax.random.bernoulli(key, 1.0 - rate, inputs.shape)
    return jnp.where(keep, inputs / (1 - rate), 0)
