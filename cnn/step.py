"""One training step, compiled once: draw variants of a batch, compute the loss, differentiate it, move every parameter.

The state that a step replaces is donated, so that the new parameters are written where the old ones were.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from cnn.augment import Augmentation, compiled
from cnn.loss import cross_entropy, probabilities

SMALL = 1 << 16  # numbers: a gradient of fewer is looked at, whether it is sound, together with others


class State(NamedTuple):
    """All that a step replaces: what the network holds, and what Adam remembers of the gradients."""

    parameters: nnx.State  # kernels and biases (nnx.Param); a batch norm's running means (nnx.BatchStat)
    optimizer: optax.OptState


class Sums(NamedTuple):
    """What a step reports, summed over its images, as arrays that are still being computed: ask late, not often.

    Of several steps in a call, each is (steps,).
    """

    loss: jax.Array  # () nats
    correct: jax.Array  # ()
    images: int


@jax.jit
def copied(parameters: nnx.State) -> nnx.State:
    """A copy of all arrays, that no later step donates."""
    return jax.tree.map(jnp.copy, parameters)


@partial(jax.jit, static_argnums=1)
def initial_state(parameters: nnx.State, optimizer: optax.GradientTransformation) -> State:
    """The state before the first step, whose arrays the step donates: a copy of what a network holds, and zeros."""
    return State(copied(parameters), optimizer.init(nnx.filter_state(parameters, nnx.Param)))


def parts_of(images: jax.Array) -> int:
    """In how many parts a batch goes through a network's first layers: on a processor, of about 75,000 pixels each.

    Their 32 channels after a convolution then take 10 MB, which a cache holds with what else a layer needs. Fewer than
    four parts bring nothing. A GPU wants all at once, and where there are several devices, each has its part already.
    """
    parts, alone = math.prod(images.shape[:3]) // 75_000, len(jax.devices()) == 1
    return parts if parts >= 4 and alone and jax.default_backend() == "cpu" else 1


def make_step(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    augmentation: Augmentation,
    dtype: jnp.dtype = jnp.float32,
) -> Callable:
    """Compiles one training step: (state, key, images, labels, weights) -> (state, (loss, correct)).

    images (batch, height, width, 3) uint8, labels (batch,) int32; weights (batch,) is 1, or 0 for a place that only
    fills up the last batch. Padding and weights keep the batch's shape, and so the compilation, the same. `state` is
    donated: it must not be used again. `step.learn` is the part that learns, from (state, key, light, labels, weights).

    `step.many` is several in one call: (state, key, first, images, labels, chosen, weights) -> (state, (losses,
    corrects)), of all images there are, and chosen and weights (steps, batch); step number i, from 0, gets
    `fold_in(key, first + i)`. A small network's step takes a GPU less time than Python needs to ask for it; a GPU that
    has all images, and is told which belong to which step, goes on alone. Only the order of sums may be another.

    `dtype` is what the layers compute in. In bfloat16, which keeps 8 significant bits of float32's 24, a GPU multiplies
    several times as fast, and half as many bytes move; the parameters, what Adam keeps of the gradients, and the loss
    stay float32 (Micikevicius et al., "Mixed precision training", ICLR 2018; bfloat16 has the range of float32, so no
    loss scaling is needed).
    """

    def loss_of(learned: nnx.State, statistics: nnx.State, key, light, labels, weights):
        learned, light = jax.tree.map(lambda a: a.astype(dtype), (learned, light))
        network = nnx.merge(graph, learned, statistics, copy=True)  # a batch norm writes into its own
        logits = network(light, key=key, parts=parts_of(light)).astype(jnp.float32)
        losses = cross_entropy(logits, labels)
        correct = probabilities(logits).argmax(axis=1) == labels
        total = (losses * weights).sum()
        return total / weights.sum(), (nnx.state(network, nnx.BatchStat), (total, (correct * weights).sum()))

    augment, keys_for = compiled(augmentation), jax.jit(jax.random.split)

    def step(state: State, key, images, labels, weights):
        return apply(state, keys_for(key), images, labels, weights)

    def apply(state: State, keys, images, labels, weights):
        augment_key, dropout_key = keys
        return learn(state, dropout_key, augment(augment_key, images), labels, weights)

    @partial(jax.jit, donate_argnums=0)
    def learn(state: State, dropout_key, light, labels, weights):
        learned, statistics = nnx.split_state(state.parameters, nnx.Param, nnx.BatchStat)
        gradients, (statistics, sums) = jax.grad(loss_of, has_aux=True)(
            learned, statistics, dropout_key, light, labels, weights
        )
        # A gradient that is infinite or NaN ruins the parameters, though the loss it belongs to may be sound.
        total, correct = sums
        # Small ones together, since on a GPU each look is a program of its own.
        leaves = jax.tree.leaves(gradients)
        small = jnp.concatenate([jnp.zeros(0), *(leaf.ravel() for leaf in leaves if leaf.size < SMALL)])
        large = [leaf for leaf in leaves if leaf.size >= SMALL]
        sound = jnp.stack([jnp.isfinite(leaf).all() for leaf in (small, *large)]).all()
        sums = jnp.where(sound, total, jnp.nan), correct
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, learned)
        parameters = nnx.merge_state(optax.apply_updates(learned, updates), statistics)
        return State(parameters, optimizer_state), sums

    @partial(jax.jit, donate_argnums=0)
    def many(state: State, key, first, images, labels, chosen, weights):
        def one(state: State, of_the_step):
            keys, chosen, weights = of_the_step
            return apply(state, keys, images[chosen], labels[chosen], weights)

        # The keys of all steps at once: a program that draws one takes a GPU as long as one that draws many.
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(len(chosen)))
        return lax.scan(one, state, (jax.vmap(jax.random.split)(keys), chosen, weights))

    step.learn, step.many = learn, many
    return step
