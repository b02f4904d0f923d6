"""Where a number first became infinite, or no number at all: the question after a training has run away.

The step is taken again, slowly, and looked at in the order in which it is computed: the weights, the images, what comes
out of each layer, the loss, and then the gradients, which are computed from the last layer back to the first.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from cnn.errors import counted
from cnn.loss import cross_entropy
from cnn.network import Network
from cnn.weights import named_arrays


def _unsound(array: jax.Array) -> int:
    """How many of its numbers are infinite or NaN."""
    return int((~jnp.isfinite(array)).sum())


def first_unsound(
    network: Network,
    images: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    key: jax.Array,
    dtype: jnp.dtype = jnp.float32,
) -> str:
    """Says where the first number that is infinite or NaN appears in a training step.

    Args:
        network: with the weights from before the step.
        images: (batch, height, width, channels), augmented as in the step.
        labels: (batch,) int.
        weights: (batch,), what each image counts in the loss: 1, or 0 for one that only fills up the batch.
        key: of the layers' randomness, as in the step.
        dtype: what the layers compute in, as in the step.
    Returns:
        part of a sentence, like "layer 3 (batch norm) makes 12 of 64 numbers infinite or NaN".
    """
    for name, array in named_arrays(nnx.state(network)).items():
        if _unsound(array):
            return f"{_unsound(array)} of the {counted(array.size, 'number')} in {name} became infinite or NaN"
    if _unsound(images):
        return f"the augmentation makes {_unsound(images)} of {images.size} numbers infinite or NaN"
    graph, learned, rest = nnx.split(network, nnx.Param, ...)

    def network_of(learned: nnx.State) -> Network:
        cast = jax.tree.map(lambda a: a.astype(dtype), learned)
        return nnx.merge(graph, cast, rest, copy=True)  # a copy: a batch norm writes into its own means

    images = inputs = images.astype(dtype)
    for i, layer in enumerate(network_of(learned).layers):
        outputs = layer(inputs, key=jax.random.fold_in(key, i))
        if _unsound(outputs):
            return (
                f"layer {i} ({layer}) makes {_unsound(outputs)} of {outputs.size} numbers infinite or NaN, out of "
                f"inputs from {float(inputs.min()):.3g} to {float(inputs.max()):.3g}"
            )
        inputs = outputs

    def loss_of(learned: nnx.State) -> jax.Array:
        logits = network_of(learned)(images, key=key).astype(jnp.float32)
        return (cross_entropy(logits, labels) * weights).sum() / weights.sum()

    loss, gradients = jax.value_and_grad(loss_of)(learned)
    if _unsound(loss):
        return f"the loss is {float(loss)}, of logits from {float(inputs.min()):.3g} to {float(inputs.max()):.3g}"
    for name, gradient in sorted(named_arrays(gradients).items(), key=lambda item: -int(item[0].split(".")[1])):
        if _unsound(gradient):
            return (
                f"the gradient of {name} is the first to be infinite or NaN, in {counted(_unsound(gradient), 'place')}"
            )
    return "taken again layer by layer, every number is sound: it came from the device, or from another order of sums"
