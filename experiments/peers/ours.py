"""This project, as `experiments.train` uses it."""

from functools import partial
from importlib.metadata import version

import cnn  # noqa: F401 (first: it sets XLA's flags)

# isort: split
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from cnn import models, training
from cnn.appearance import random_blur
from cnn.augment import compiled, compose
from cnn.devices import on_device
from cnn.geometry import random_affine, random_flip_horizontal, random_flip_vertical
from cnn.loss import cross_entropy
from cnn.stains import as_light
from cnn.step import initial_state, make_step, parts_of
from experiments.peers import (
    BATCH,
    DEGREES,
    DEVICE,
    DROPOUT,
    EPOCH,
    LEARNING_RATE,
    PRECISION,
    SHEAR_DEGREES,
    SHIFT,
    SIZE,
    limits,
)

VERSIONS = {"jax": version("jax")}
QUEUED = ("step", "forward", "move", "move_and_blur", "matmul", "copy")
DTYPE = jnp.bfloat16 if PRECISION == "bfloat16" else jnp.float32
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
        self.train_step = make_step(self.graph, optimizer, compose(), DTYPE)
        self.state = initial_state(self.parameters, optimizer)
        self.batch = inputs["images"], inputs["labels"], jnp.ones(BATCH)
        self.whole = on_device(*self.batch[:2], None, always=False)  # as `training.train` asks
        self.logits = training.make_predictor(self.graph, BATCH).compiled
        self.augment = {name: compiled(way) for name, way in (("move", MOVE), ("blur", compose(*MOVES, BLUR)))}
        self.images, self.large = inputs["images"], inputs["large"]
        if DEVICE == "gpu":
            self.images, self.large = jax.device_put((self.images, self.large))
        self.optimizer = optimizer
        self.epoch_step = make_step(self.graph, optimizer, MOVE, DTYPE)

    def loss_and_gradients(self):
        """See `experiments/peers/__init__.py`."""

        @jax.jit
        def loss(parameters, images, labels):
            network = nnx.merge(self.graph, parameters)
            return cross_entropy(network(as_light(images), parts=parts_of(images)), labels).mean()

        with jax.default_matmul_precision("float32"):
            noise = self.inputs["noise"], self.inputs["noise_labels"]
            value, gradients = jax.value_and_grad(loss)(self.parameters, *noise)
        found = parameters_of(nnx.merge(self.graph, gradients))
        return value, [(kernel[...], bias[...]) for kernel, bias in found]

    def step(self, times: int):
        """See `experiments/peers/__init__.py`."""
        if self.whole is None:
            for _ in range(times):
                self.state, sums = self.train_step(self.state, self.key, *self.batch)
        else:
            a_call = training.share_steps(times)
            chosen = np.tile(np.arange(BATCH, dtype=np.int32), (a_call, 1))
            for done in range(0, times, a_call):
                weights = np.ones_like(chosen, np.float32)
                self.state, sums = self.train_step.many(self.state, self.key, done, *self.whole, chosen, weights)
        jax.block_until_ready((self.state, sums))

    def forward(self, times: int):
        """See `experiments/peers/__init__.py`."""
        jax.block_until_ready([self.logits(self.parameters, self.images) for _ in range(times)])

    def move(self, times: int, name: str = "move"):
        """See `experiments/peers/__init__.py`."""
        for _ in range(times):
            images = self.augment[name](self.key, self.large)
        images.block_until_ready()

    def move_and_blur(self, times: int):
        """See `experiments/peers/__init__.py`."""
        self.move(times, "blur")

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

    def matmul(self, times: int):
        """Products of two large square matrices: the machine's own rate."""
        if not hasattr(self, "square"):
            side = limits.PROBES[DEVICE].side
            self.square, self.product = jax.random.normal(self.key, (side, side), DTYPE), jax.jit(lambda a: a @ a)
        jax.block_until_ready([self.product(self.square) for _ in range(times)])

    def copy(self, times: int):
        """Reads and writes a long array: the machine's own bandwidth."""
        if not hasattr(self, "long"):
            self.long, self.add = jnp.ones(limits.PROBES[DEVICE].long), jax.jit(lambda a: a + 1, donate_argnums=0)
        for _ in range(times):
            self.long = self.add(self.long)
        self.long.block_until_ready()
