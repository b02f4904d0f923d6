"""Flax's built-in layers with Optax, as its tutorials have them; no flags."""

from importlib.metadata import version

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.peers import DROPOUT, LEARNING_RATE, PRECISION

VERSIONS = {"flax": version("flax"), "jax": version("jax")}
QUEUED = ("step", "forward")
DTYPE = jnp.bfloat16 if PRECISION == "bfloat16" else jnp.float32


class Network(nnx.Module):
    """The network of 2017."""

    def __init__(self, dtype: jnp.dtype, weights):
        how = {"dtype": dtype, "rngs": nnx.Rngs(0)}
        self.convolutions = nnx.List([nnx.Conv(c, 32, (3, 3), padding="VALID", **how) for c in (3, 32, 32)])
        self.hidden, self.last = nnx.Linear(31968, 64, **how), nnx.Linear(64, 1, **how)
        self.dropout = nnx.Dropout(DROPOUT, rngs=how["rngs"])
        for layer, (kernel, bias) in zip(self.learned(), weights):
            layer.kernel[...], layer.bias[...] = jnp.asarray(kernel), jnp.asarray(bias)

    def learned(self) -> list:
        """The five that have a kernel and a bias, first to last."""
        return [*self.convolutions, self.hidden, self.last]

    def __call__(self, images):
        first, second, third = self.convolutions
        x = nnx.max_pool(nnx.relu(first(images.astype(jnp.float32) / 255)), (2, 2), (2, 2))
        x = nnx.max_pool(nnx.relu(third(nnx.relu(second(x)))), (2, 2), (2, 2))
        return self.last(self.dropout(nnx.relu(self.hidden(x.reshape(len(x), -1)))))[:, 0].astype(jnp.float32)


def loss(network, images, labels):
    """The mean cross-entropy."""
    return optax.sigmoid_binary_cross_entropy(network(images), labels.astype(jnp.float32)).mean()


class Peer:
    """See `experiments/peers/__init__.py`."""

    def __init__(self, inputs: dict):
        self.inputs = inputs
        self.batch = jax.device_put((inputs["images"], inputs["labels"]))
        self.network = Network(DTYPE, inputs["weights"])
        self.use = nnx.view(self.network, deterministic=True)
        self.optimizer = nnx.Optimizer(self.network, optax.adam(LEARNING_RATE), wrt=nnx.Param)

        @nnx.jit
        def step(network, optimizer, images, labels):
            value, gradients = nnx.value_and_grad(loss)(network, images, labels)
            optimizer.update(network, gradients)
            return value

        # its guide to performance: else each call would walk through the network in Python
        self.train_step = nnx.cached_partial(step, self.network, self.optimizer)
        self.logits = nnx.cached_partial(nnx.jit(lambda network, images: network(images)), self.use)

    def loss_and_gradients(self):
        """See `experiments/peers/__init__.py`."""
        exact = nnx.view(Network(jnp.float32, self.inputs["weights"]), deterministic=True)
        with jax.default_matmul_precision("float32"):
            noise = self.inputs["noise"], self.inputs["noise_labels"]
            value, gradients = nnx.jit(nnx.value_and_grad(loss))(exact, *noise)
        found = nnx.merge(nnx.graphdef(exact), gradients, nnx.state(exact, nnx.Not(nnx.Param)))
        return value, [(layer.kernel[...], layer.bias[...]) for layer in found.learned()]

    def step(self, times: int):
        """See `experiments/peers/__init__.py`."""
        for _ in range(times):
            value = self.train_step(*self.batch)
        jax.block_until_ready((value, nnx.state(self.network)))

    def forward(self, times: int):
        """See `experiments/peers/__init__.py`."""
        for _ in range(times):
            logits = self.logits(self.batch[0])
        logits.block_until_ready()
