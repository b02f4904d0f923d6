"""Layers: each is a Flax NNX module that holds its parameters and calls one pure function.

    layer = Convolution(3, 32, kernel_size=3, key=jax.random.key(0))
    features = layer(images)

Every layer is called alike, `layer(inputs, key=None)`. A key means training: dropout is random, and uses it. Without
a key the network is being used: nothing is random. So no layer has a mode that somebody can forget to switch.

Kernels start at random (`initialization.py`), biases at 0.

Flax's `nnx.Module` is an ordinary class whose arrays can be taken out and put in from outside. One in an `nnx.Param` is
learned: the optimizer moves it. One in an `nnx.BatchStat` is kept beside these, and no gradient moves it.
`parameter[...]` is the array itself, and `parameter[...] = new` replaces it. `nnx.split(network)` takes a network apart
into a graph (which layers, of which sizes) and a state (their arrays), and `nnx.merge(graph, state)` puts it together
again: so a training step can be a plain function of arrays.
"""

from numbers import Integral

import jax
import jax.numpy as jnp
from flax import nnx

from cnn import dense as pure
from cnn import normalization, pooling
from cnn.attention import attention_pool, attention_weights
from cnn.channels import add_bias
from cnn.errors import ShapeError
from cnn.fast_convolution import convolve
from cnn.initialization import constant, glorot_uniform
from cnn.stains import relative_stains, separate_stains
from cnn.windows import Padding, pair


def _sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, Integral) or size < 1:
            raise ShapeError("layer", f"{name} = {size}", "an int of at least 1")


def _channels(name: str, inputs: jax.Array, parameter: nnx.Param) -> None:
    if inputs.ndim != 4 or inputs.shape[3] != parameter.shape[0]:
        raise ShapeError(name, f"inputs of shape {inputs.shape}", f"(batch, height, width, {parameter.shape[0]})")


class Convolution(nnx.Module):
    """A bank of `out_channels` kernels slides over the image; see `fast_convolution.convolve` for the formula.

    (batch, height, width, in_channels) -> (batch, out_height, out_width, out_channels).
    Parameters: kernel (kernel_height, kernel_width, in_channels, out_channels) and bias (out_channels,), float32:
    kernel_height * kernel_width * in_channels * out_channels + out_channels numbers, however large the image is.

    >>> layer = Convolution(3, 32, kernel_size=3, key=jax.random.key(0))
    >>> layer(jnp.ones((1, 120, 160, 3))).shape
    (1, 118, 158, 32)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        *,
        stride: int | tuple[int, int] = 1,
        padding: Padding = "VALID",
        bias: bool = True,
        initializer: jax.nn.initializers.Initializer = glorot_uniform,
        key: jax.Array,
    ):
        _sizes(in_channels=in_channels, out_channels=out_channels)
        self.window = pair(kernel_size, "kernel size of a convolution")
        self.stride = pair(stride, "stride of a convolution")
        self.padding = padding
        self.kernel = nnx.Param(initializer(key, (*self.window, in_channels, out_channels), jnp.float32))
        self.bias = nnx.Param(constant(0, out_channels)) if bias else None

    def __call__(self, inputs: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        outputs = convolve(inputs, self.kernel[...], self.stride, self.padding)
        return outputs if self.bias is None else add_bias(outputs, self.bias[...])

    def __str__(self) -> str:
        return f"convolution {self.window[0]} x {self.window[1]} x {self.kernel.shape[3]}"


class Bias(nnx.Module):
    """Adds one number a channel, for a convolution that has none of its own; any (batch, height, width, channels).

    After a max pool it costs a quarter, and does the same: max(x) + b = max(x + b). Parameters: bias (channels,).
    """

    def __init__(self, channels: int):
        _sizes(channels=channels)
        self.bias = nnx.Param(constant(0, channels))

    def __call__(self, inputs: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        return add_bias(inputs, self.bias[...])

    def __str__(self) -> str:
        return "bias"


class SeparateStains(nnx.Module):
    """RGB light from 0 to 1 -> amounts of the first `number` of haematoxylin, eosin and the rest.

    (batch, height, width, 3) -> (batch, height, width, number); see `stains.separate_stains`, or, if they are to be
    `relative` to how strongly the image is stained as a whole, `stains.relative_stains`. No parameters.
    """

    def __init__(self, number: int = 3, *, relative: bool = False):
        if number not in (1, 2, 3):
            raise ShapeError("separate stains", f"number = {number}", "1, 2 or 3 stains")
        self.number, self.relative = number, relative

    def __call__(self, inputs: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        return (relative_stains if self.relative else separate_stains)(inputs)[..., : self.number]

    def __str__(self) -> str:
        return ("relative " if self.relative else "") + ("haematoxylin" if self.number == 1 else "stains")


class BatchNorm(nnx.Module):
    """Normalises each channel over the batch; see `normalization.batch_norm`. Any (batch, height, width, channels).

    In training (a key is given) the mean and variance are the batch's, and running means of them are kept; otherwise
    the running means are used, so that an image's logits do not depend on its neighbours.
    Parameters: scale and shift (channels,). Statistics, moved by calls, not by gradients: mean, variance (channels,).
    """

    def __init__(self, channels: int):
        _sizes(channels=channels)
        self.scale, self.shift = nnx.Param(constant(1, channels)), nnx.Param(constant(0, channels))
        self.mean, self.variance = nnx.BatchStat(constant(0, channels)), nnx.BatchStat(constant(1, channels))

    def __call__(self, inputs: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        _channels("batch norm", inputs, self.scale)
        scale, shift = self.scale[...], self.shift[...]
        if key is None:
            return normalization.normalize(inputs, self.mean[...], self.variance[...], scale, shift)
        outputs, mean, variance = normalization.batch_norm(inputs, scale, shift)
        self.mean[...] = normalization.running(self.mean[...], mean)
        self.variance[...] = normalization.running(self.variance[...], variance)
        return outputs

    def __str__(self) -> str:
        return "batch norm"


class LayerNorm(nnx.Module):
    """Normalises each image; see `normalization.layer_norm`. Parameters: scale and shift (channels,)."""

    def __init__(self, channels: int):
        _sizes(channels=channels)
        self.scale, self.shift = nnx.Param(constant(1, channels)), nnx.Param(constant(0, channels))

    def __call__(self, inputs: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        _channels("layer norm", inputs, self.scale)
        return normalization.layer_norm(inputs, self.scale[...], self.shift[...])

    def __str__(self) -> str:
        return "layer norm"


class _Pool(nnx.Module):
    def __init__(
        self,
        window: int | tuple[int, int] = 2,
        *,
        stride: int | tuple[int, int] | None = None,
        padding: Padding = "VALID",
        ceil: bool = False,
    ):
        self.window = pair(window, "window of a pool")
        self.stride = self.window if stride is None else pair(stride, "stride of a pool")
        self.padding, self.ceil = padding, ceil

    def __call__(self, inputs: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        return self.function(inputs, self.window, self.stride, self.padding, self.ceil)

    def __str__(self) -> str:
        return f"{self.name} {self.window[0]} x {self.window[1]}"


class MaxPool(_Pool):
    """The largest pixel of each window; see `pooling.max_pool`. No parameters."""

    name, function = "max pool", staticmethod(pooling.max_pool)


class AveragePool(_Pool):
    """The mean of each window; see `pooling.average_pool`. No parameters."""

    name, function = "average pool", staticmethod(pooling.average_pool)


class GlobalAveragePool(nnx.Module):
    """The mean over the whole image: (batch, height, width, channels) -> (batch, channels). No parameters."""

    def __call__(self, inputs: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        return pooling.global_average_pool(inputs)

    def __str__(self) -> str:
        return "global average pool"


class AttentionPool(nnx.Module):
    """A weighted mean over the whole image: (batch, height, width, channels) -> (batch, channels).

    The network itself sets the weights (`attention.py`). Parameters: content, gate (channels, hidden); score (hidden,).
    """

    def __init__(self, channels: int, hidden: int = 32, *, key: jax.Array):
        _sizes(channels=channels, hidden=hidden)
        keys = jax.random.split(key, 3)
        self.content, self.gate = (nnx.Param(glorot_uniform(k, (channels, hidden), jnp.float32)) for k in keys[:2])
        self.score = nnx.Param(glorot_uniform(keys[2], (hidden, 1), jnp.float32)[:, 0])

    def weights(self, inputs: jax.Array) -> jax.Array:
        """How much each place counts, (batch, height, width): a picture of where the network looks."""
        return attention_weights(inputs, self.content[...], self.gate[...], self.score[...])

    def __call__(self, inputs: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        return attention_pool(inputs, self.weights(inputs))

    def __str__(self) -> str:
        return "attention pool"


class Dense(nnx.Module):
    """outputs = inputs @ kernel + bias; see `dense.dense`. (batch, in_features) -> (batch, out_features).

    Parameters: kernel (in_features, out_features) and bias (out_features,), float32.

    >>> Dense(31968, 64, key=jax.random.key(0)).kernel.shape
    (31968, 64)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        initializer: jax.nn.initializers.Initializer = glorot_uniform,
        key: jax.Array,
    ):
        _sizes(in_features=in_features, out_features=out_features)
        self.kernel = nnx.Param(initializer(key, (in_features, out_features), jnp.float32))
        self.bias = nnx.Param(constant(0, out_features)) if bias else None

    def __call__(self, inputs: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        return pure.dense(inputs, self.kernel[...], None if self.bias is None else self.bias[...])

    def __str__(self) -> str:
        return f"dense {self.kernel.shape[1]}"


class ReLU(nnx.Module):
    """max(inputs, 0), any shape; see `dense.relu`. No parameters."""

    def __call__(self, inputs: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        return pure.relu(inputs)

    def __str__(self) -> str:
        return "ReLU"


class Flatten(nnx.Module):
    """(batch, height, width, channels) -> (batch, height * width * channels); see `dense.flatten`. No parameters."""

    def __call__(self, inputs: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        return pure.flatten(inputs)

    def __str__(self) -> str:
        return "flatten"


class Dropout(nnx.Module):
    """Drops a share `rate` of its inputs in training (a key is given), none otherwise; see `dense.dropout`."""

    def __init__(self, rate: float):
        pure.check_rate(rate)
        self.rate = rate

    def __call__(self, inputs: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        return inputs if key is None else pure.dropout(key, inputs, self.rate)

    def __str__(self) -> str:
        return f"dropout {self.rate:g}"
