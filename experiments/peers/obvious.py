"""JAX as anyone writes it first: the primitives, `grad`, `jit`, Adam. No flags, no order thought about."""

from importlib.metadata import version

import jax
import jax.numpy as jnp
import optax
from jax import lax

from experiments.peers import DROPOUT, LEARNING_RATE

VERSIONS = {"jax": version("jax")}


def convolve(images, kernel, bias):
    """A convolution without padding, bias and ReLU."""
    outputs = lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jax.nn.relu(outputs + bias)


def pool(images):
    """The largest of each 2 x 2 pixels."""
    return lax.reduce_window(images, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def network(weights, images, key=None):
    """Logits, (batch,)."""
    (k0, b0), (k1, b1), (k2, b2), (k3, b3), (k4, b4) = weights
    x = pool(convolve(images.astype(jnp.float32) / 255, k0, b0))
    x = pool(convolve(convolve(x, k1, b1), k2, b2))
    x = jax.nn.relu(x.reshape(len(x), -1) @ k3 + b3)
    if key is not None:
        x = jnp.where(jax.random.bernoulli(key, 1 - DROPOUT, x.shape), x / (1 - DROPOUT), 0)
    return (x @ k4 + b4)[:, 0]


def loss(weights, images, labels, key=None):
    """The mean cross-entropy."""
    return optax.sigmoid_binary_cross_entropy(network(weights, images, key), labels.astype(jnp.float32)).mean()


class Peer:
    """See `experiments/peers/__init__.py`."""

    def __init__(self, inputs: dict):
        self.inputs, self.key = inputs, jax.random.key(1)
        self.weights = jax.tree.map(jnp.asarray, inputs["weights"])
        adam = optax.adam(LEARNING_RATE)
        self.state = self.weights, adam.init(self.weights)

        @jax.jit
        def step(state, images, labels, key):
            weights, memory = state
            value, gradients = jax.value_and_grad(loss)(weights, images, labels, key)
            updates, memory = adam.update(gradients, memory)
            return (optax.apply_updates(weights, updates), memory), value

        self.train_step, self.logits = step, jax.jit(network)

    def loss_and_gradients(self):
        """See `experiments/peers/__init__.py`."""
        images, labels = self.inputs["noise"], self.inputs["noise_labels"]
        return jax.jit(jax.value_and_grad(loss))(self.weights, images, labels)

    def step(self):
        """See `experiments/peers/__init__.py`."""
        self.state, value = self.train_step(self.state, self.inputs["images"], self.inputs["labels"], self.key)
        jax.block_until_ready((self.state, value))

    def forward(self):
        """See `experiments/peers/__init__.py`."""
        self.logits(self.weights, self.inputs["images"]).block_until_ready()
