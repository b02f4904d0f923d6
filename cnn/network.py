"""A network: layers, one after the other, and how a batch goes through them in parts that a processor's cache holds."""

from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx

from cnn.layers import AveragePool, Bias, Convolution, LayerNorm, MaxPool, ReLU, SeparateStains

# Each looks at one image alone, and needs no key. (What follows a Flatten is too small to be worth cutting.)
_LOOK_AT_ONE_IMAGE = (Convolution, Bias, SeparateStains, LayerNorm, MaxPool, AveragePool, ReLU)


class Network(nnx.Module):
    """Layers, one after the other. Given a key, layer number i gets `fold_in(key, i)`: each its own randomness.

    >>> from cnn.layers import Dense, Flatten
    >>> network = Network([Flatten(), Dense(12, 1, key=jax.random.key(0))])
    >>> network(jnp.ones((5, 2, 2, 3))).shape
    (5, 1)
    """

    def __init__(self, layers: list[nnx.Module]):
        self.layers = nnx.List(layers)

    def __call__(self, inputs: jax.Array, *, key: jax.Array | None = None, parts: int = 1) -> jax.Array:
        """Applies all layers; the first ones, as far as they look at each image alone, may take the batch in `parts`.

        What comes out is the same, but for rounding. An activation of a whole batch is too large for a processor's
        cache, and is fetched from memory by the layer that is next: the network of 2017, 32 images, took 157 ms a step,
        and in 8 parts 141 (with the bias's gradient of `channels.py`). With a single convolution among these layers
        nothing is gained, and the program is longer to compile: such a network gets the batch whole.
        """
        number = len(self.layers)
        alone = next((i for i, layer in enumerate(self.layers) if not isinstance(layer, _LOOK_AT_ONE_IMAGE)), number)
        if parts > 1 and len(inputs) and sum(isinstance(layer, Convolution) for layer in self.layers[:alone]) > 1:
            edges = [len(inputs) * i // parts for i in range(parts + 1)]
            done = [self._apply(inputs[a:b], range(alone), key) for a, b in pairwise(edges) if a < b]
            return self._apply(jnp.concatenate(done), range(alone, number), key)
        return self._apply(inputs, range(number), key)

    def _apply(self, inputs: jax.Array, numbers: range, key: jax.Array | None) -> jax.Array:
        for i in numbers:
            inputs = self.layers[i](inputs, key=None if key is None else jax.random.fold_in(key, i))
        return inputs
