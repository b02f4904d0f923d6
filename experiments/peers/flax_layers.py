"""Flax's built-in layers with Optax, as its tutorials have them; no flags."""

from importlib.metadata import version

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.peers import DROPOUT, LEARNING_RATE

VERSIONS = {"flax": version("flax"), "jax": version("jax")}


class Network(nnx.Module):
    """The network of 2017."""

    def __init__(self, rngs: nnx.Rngs):
        self.convolutions = nnx.List([nnx.Conv(c, 32, (3, 3), padding="VALID", rngs=rngs) for c in (3, 32, 32)])
        self.hidden, self.last = nnx.Linear(31968, 64, rngs=rngs), nnx.Linear(64, 1, rngs=rngs)
        self.dropout = nnx.Dropout(DROPOUT, rngs=rngs)

    def __call__(self, images):
        first, second, third = self.convolutions
        x = nnx.max_pool(nnx.relu(first(images.astype(jnp.float32) / 255)), (2, 2), (2, 2))
        x = nnx.max_pool(nnx.relu(third(nnx.relu(second(x)))), (2, 2), (2, 2))
        return self.last(self.dropout(nnx.relu(self.hidden(x.reshape(len(x), -1)))))[:, 0]


def loss(network, images, labels):
    """The mean cross-entropy."""
    return optax.sigmoid_binary_cross_entropy(network(images), labels.astype(jnp.float32)).mean()


class Peer:
    """See `experiments/peers/__init__.py`."""

    def __init__(self, inputs: dict):
        self.batch, self.noise = (inputs["images"], inputs["labels"]), (inputs["noise"], inputs["noise_labels"])
        self.network = Network(nnx.Rngs(0))
        for layer, (kernel, bias) in zip(self.layers(self.network), inputs["weights"]):
            layer.kernel[...], layer.bias[...] = jnp.asarray(kernel), jnp.asarray(bias)
        self.use = nnx.view(self.network, deterministic=True)
        self.optimizer = nnx.Optimizer(self.network, optax.adam(LEARNING_RATE), wrt=nnx.Param)

        @nnx.jit
        def step(network, optimizer, images, labels):
            value, gradients = nnx.value_and_grad(loss)(network, images, labels)
            optimizer.update(network, gradients)
            return value

        self.train_step, self.logits = step, nnx.jit(lambda network, images: network(images))

    @staticmethod
    def layers(network) -> list:
        """The five that have a kernel and a bias, first to last."""
        return [*network.convolutions, network.hidden, network.last]

    def loss_and_gradients(self):
        """See `experiments/peers/__init__.py`."""
        value, gradients = nnx.jit(nnx.value_and_grad(loss))(self.use, *self.noise)
        graph = nnx.graphdef(self.use)
        found = nnx.merge(graph, gradients, nnx.state(self.use, nnx.Not(nnx.Param)))
        return value, [(layer.kernel[...], layer.bias[...]) for layer in self.layers(found)]

    def step(self):
        """See `experiments/peers/__init__.py`."""
        jax.block_until_ready(self.train_step(self.network, self.optimizer, *self.batch))
        jax.block_until_ready(nnx.state(self.network))

    def forward(self):
        """See `experiments/peers/__init__.py`."""
        self.logits(self.use, self.batch[0]).block_until_ready()
