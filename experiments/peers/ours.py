"""This project, as `experiments.train` uses it."""

from functools import partial
from importlib.metadata import version

import cnn  # noqa: F401 (first: it sets XLA's flags)

# isort: split
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from cnn import models, training
from cnn.appearance import random_blur
from cnn.augment import compiled, compose
from cnn.geometry import random_affine, random_flip_horizontal, random_flip_vertical
from cnn.loss import cross_entropy
from cnn.stains import as_light
from cnn.step import initial_state, make_step, parts_of
from experiments.peers import BATCH, DEGREES, DROPOUT, EPOCH, LEARNING_RATE, SHEAR_DEGREES, SHIFT, SIZE

VERSIONS = {"jax": version("jax")}
MOVES = [
    random_flip_horizontal,
    random_flip_vertical,
    partial(random_affine, max_degrees=DEGREES, max_shift=SHIFT, max_shear=SHEAR_DEGREES),
]
MOVE = compose(*MOVES)
BLUR = partial(random_blur, max_sigma=1.0)


def parameters_of(network: nnx.Module) -> list[tuple[nnx.Param, nnx.Param]]:
    """Each kernel with its bias, which may be a layer of its own."""
    kernels = [layer.kernel for layer in network.layers if hasattr(layer, "kernel")]
    biases = [layer.bias for layer in network.layers if getattr(layer, "bias", None) is not None]
    return list(zip(kernels, biases, strict=True))


def network_of(weights) -> nnx.Module:
    """The network of 2017 with the given kernels and biases."""
    network = models.seed((*SIZE, 3), 2, dropout=DROPOUT, key=jax.random.key(0))
    for parameters, arrays in zip(parameters_of(network), weights, strict=True):
        for parameter, array in zip(parameters, arrays):
            parameter[...] = jnp.asarray(array)
    return network


class Peer:
    """See `experiments/peers/__init__.py`."""

    def __init__(self, inputs: dict):
        self.inputs, self.key = inputs, jax.random.key(1)
        self.network = network_of(inputs["weights"])
        self.graph, self.parameters = nnx.split(self.network)
        optimizer = optax.adam(LEARNING_RATE)
        self.train_step = make_step(self.graph, optimizer, compose())
        self.state = initial_state(self.network, optimizer)
        self.batch = inputs["images"], inputs["labels"], jnp.ones(BATCH)
        self.logits = training.make_predictor(self.graph, BATCH).compiled
        self.augment = {name: compiled(way) for name, way in (("move", MOVE), ("blur", compose(*MOVES, BLUR)))}
        self.large = inputs["large"]
        self.optimizer = optimizer
        self.epoch_step = make_step(self.graph, optimizer, MOVE)

    def loss_and_gradients(self):
        """See `experiments/peers/__init__.py`."""

        @jax.jit
        def loss(parameters, images, labels):
            network = nnx.merge(self.graph, parameters)
            return cross_entropy(network(as_light(images), parts=parts_of(images)), labels).mean()

        value, gradients = jax.value_and_grad(loss)(self.parameters, self.inputs["noise"], self.inputs["noise_labels"])
        found = parameters_of(nnx.merge(self.graph, gradients))
        return value, [(kernel[...], bias[...]) for kernel, bias in found]

    def step(self):
        """See `experiments/peers/__init__.py`."""
        self.state, sums = self.train_step(self.state, self.key, *self.batch)
        jax.block_until_ready((self.state, sums))

    def forward(self):
        """See `experiments/peers/__init__.py`."""
        self.logits(self.parameters, self.inputs["images"]).block_until_ready()

    def move(self):
        """See `experiments/peers/__init__.py`."""
        self.augment["move"](self.key, self.large).block_until_ready()

    def move_and_blur(self):
        """See `experiments/peers/__init__.py`."""
        self.augment["blur"](self.key, self.large).block_until_ready()

    def epoch(self):
        """See `experiments/peers/__init__.py`."""
        for _ in training.train(
            self.network,
            (self.inputs["originals"], self.inputs["classes"]),
            None,
            epochs=1,
            batch=BATCH,
            per_epoch=EPOCH,
            optimizer=self.optimizer,
            augmentation=MOVE,
            seed=0,
            step=self.epoch_step,
        ):
            pass

    def matmul(self):
        """A product of two 2048 x 2048 matrices: the machine's own rate."""
        if not hasattr(self, "square"):
            self.square, self.product = jnp.ones((2048, 2048)), jax.jit(lambda a: a @ a)
        self.product(self.square).block_until_ready()

    def copy(self):
        """Reads 256 MB and writes as many: the machine's own bandwidth."""
        if not hasattr(self, "long"):
            self.long, self.add = jnp.ones(1 << 26), jax.jit(lambda a: a + 1, donate_argnums=0)
        self.long = self.add(self.long).block_until_ready()
