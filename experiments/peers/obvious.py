"""JAX as anyone writes it first: the primitives, `grad`, `jit`, Adam. No flags, no order thought about."""

from functools import partial
from importlib.metadata import version

import jax
import jax.numpy as jnp
import optax
from jax import lax

from experiments.peers import DROPOUT, LEARNING_RATE, PRECISION

VERSIONS = {"jax": version("jax")}
QUEUED = ("step", "forward")
DTYPE = jnp.bfloat16 if PRECISION == "bfloat16" else jnp.float32


def convolve(images, kernel, bias):
    """A convolution without padding, bias and ReLU."""
    outputs = lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jax.nn.relu(outputs + bias)


def pool(images):
    """The largest of each 2 x 2 pixels."""
    return lax.reduce_window(images, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def network(weights, images, key=None, dtype=DTYPE):
    """Logits, (batch,)."""
    (k0, b0), (k1, b1), (k2, b2), (k3, b3), (k4, b4) = jax.tree.map(lambda a: a.astype(dtype), weights)
    x = pool(convolve(images.astype(dtype) / 255, k0, b0))
    x = pool(convolve(convolve(x, k1, b1), k2, b2))
    x = jax.nn.relu(x.reshape(len(x), -1) @ k3 + b3)
    if key is not None:
        x = jnp.where(jax.random.bernoulli(key, 1 - DROPOUT, x.shape), x / (1 - DROPOUT), 0)
    return (x @ k4 + b4)[:, 0].astype(jnp.float32)


def loss(weights, images, labels, key=None, dtype=DTYPE):
    """The mean cross-entropy."""
    logits = network(weights, images, key, dtype)
    return optax.sigmoid_binary_cross_entropy(logits, labels.astype(jnp.float32)).mean()


class Peer:
    """See `experiments/peers/__init__.py`. `rungs.py` has another loss, and hands the state over to the step."""

    loss, exact = staticmethod(loss), staticmethod(partial(loss, dtype=jnp.float32))
    donated = ()

    def __init__(self, inputs: dict):
        self.inputs, self.key = inputs, jax.random.key(1)
        self.batch = jax.device_put((inputs["images"], inputs["labels"]))
        self.weights = jax.tree.map(jnp.asarray, inputs["weights"])
        adam = optax.adam(LEARNING_RATE)
        self.state = self.weights, adam.init(self.weights)

        @partial(jax.jit, donate_argnums=self.donated)
        def step(state, images, labels, key):
            weights, memory = state
            value, gradients = jax.value_and_grad(self.loss)(weights, images, labels, key)
            updates, memory = adam.update(gradients, memory)
            return (optax.apply_updates(weights, updates), memory), value

        self.train_step, self.logits = step, jax.jit(network)

    def loss_and_gradients(self):
        """See `experiments/peers/__init__.py`."""
        images, labels = self.inputs["noise"], self.inputs["noise_labels"]
        with jax.default_matmul_precision("float32"):
            return jax.jit(jax.value_and_grad(self.exact))(self.inputs["weights"], images, labels)

    def step(self, times: int):
        """See `experiments/peers/__init__.py`."""
        for _ in range(times):
            self.state, value = self.train_step(self.state, *self.batch, self.key)
        jax.block_until_ready((self.state, value))

    def forward(self, times: int):
        """See `experiments/peers/__init__.py`."""
        for _ in range(times):
            logits = self.logits(self.weights, self.batch[0])
        logits.block_until_ready()
