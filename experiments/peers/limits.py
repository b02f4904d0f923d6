"""The benchmark's work, counted, and the least time in which a machine could do it.

A machine multiplies at some rate and moves bytes at another, and work takes at least as long as the slower of the two
needs for it: the "roofline" of Williams, Waterman and Patterson (Commun ACM 52, 2009).
"""

from typing import NamedTuple

import jax
from flax import nnx

from cnn import models
from cnn.layers import Convolution, Dense
from experiments.peers import BATCH, EPOCH, LARGE, SIZE

RADIUS = 3  # of the blur, in pixels


class Probe(NamedTuple):
    """What the machine itself is timed with."""

    side: int  # of two square matrices that are multiplied
    long: int  # numbers of an array, float32, to each of which 1 is added


PROBES = {"cpu": Probe(2048, 1 << 26), "gpu": Probe(8192, 1 << 28)}


class Work(NamedTuple):
    """What has to be done at any rate, however cleverly."""

    operations: int  # floating-point products and additions, each one
    bytes: int  # of what is given and of what results; what lies between may stay in a cache

    def times(self, number: int) -> "Work":
        """The same work, so many times."""
        return Work(number * self.operations, number * self.bytes)

    def __add__(self, other: "Work") -> "Work":
        return Work(self.operations + other.operations, self.bytes + other.bytes)


def least(work: Work, operations_per_second: float, bytes_per_second: float) -> tuple[float, str]:
    """Seconds that the work takes at least, and which bounds it: "operations" or "bytes"."""
    seconds = {"operations": work.operations / operations_per_second, "bytes": work.bytes / bytes_per_second}
    bound = max(seconds, key=seconds.get)
    return seconds[bound], bound


def network(batch: int = BATCH) -> dict[str, Work]:
    """The network of 2017 forward, and a step of its training: {"forward": ..., "step": ...}.

    Backward, a layer's gradient by its kernel and by its inputs take as many operations again each; the images need
    none. A step reads and writes all parameters and the two numbers that Adam keeps of each.
    """
    layers = models.seed((*SIZE, 3), 2, key=jax.random.key(0))
    counts = []
    for layer, row in zip(layers.layers, models.table(layers, (*SIZE, 3))):
        if isinstance(layer, Convolution):
            counts.append(2 * layer.kernel.size * row.shape[0] * row.shape[1])
        elif isinstance(layer, Dense):
            counts.append(2 * layer.kernel.size)
    parameters = 4 * sum(leaf.size for leaf in jax.tree.leaves(nnx.state(layers, nnx.Param)))
    images = batch * SIZE[0] * SIZE[1] * 3  # as bytes
    return {
        "forward": Work(batch * sum(counts), images + parameters + 4 * batch),
        "step": Work(batch * (3 * sum(counts) - counts[0]), images + 6 * parameters),
    }


def augmentation(size: tuple[int, int], batch: int = BATCH) -> dict[str, Work]:
    """Flips and an affine map of a batch, {"move": ...}, and a blur after them, {"move_and_blur": ...}.

    Bytes are read and float32 written. A value between four others is three means of two, each two products and an
    addition; one of the blur's, down and across, so many products and additions as it has weights.
    """
    values = batch * size[0] * size[1] * 3
    moved = Work(9 * values, 5 * values)
    return {"move": moved, "move_and_blur": moved + Work(4 * (2 * RADIUS + 1) * values, 0)}


def counted() -> dict[str, Work]:
    """All that the benchmark times, by the names of its tasks."""
    steps = network()
    epoch = (steps["step"] + augmentation(SIZE)["move"]).times(EPOCH // BATCH)
    return steps | augmentation(LARGE) | {"epoch": epoch}
