"""The loss: how wrong the logits are, as one number an image, and what the logits mean as probabilities.

A network ends in logits z: any real numbers. For two classes one logit is enough, with P(class 1) = sigmoid(z). For
more there is one logit a class, and P(class i) = softmax(z)[i]. Both are positive, and the softmax's sum to 1:

    sigmoid(z) = 1 / (1 + exp(-z)),    softmax(z)[i] = exp(z[i]) / sum over j of exp(z[j])
"""

import jax
import jax.numpy as jnp

from cnn.errors import ShapeError


def _check_labels(name: str, logits: jax.Array, labels: jax.Array) -> None:
    if labels.shape != logits.shape[:1]:  # (batch, 1) would be stretched against (batch,) to a square
        raise ShapeError(name, f"labels of shape {labels.shape}", f"({logits.shape[0]},), one for each row of logits")


def binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """-log of the probability that one logit gives to the true one of two classes.

    With p = sigmoid(z):  -y log p - (1 - y) log(1 - p)  =  max(z, 0) - y z + log(1 + exp(-|z|)).
    The form on the right never takes the log of 0 and never overflows. (It is log p = -log(1 + exp(-z)) and
    log(1 - p) = -z - log(1 + exp(-z)); and where z < 0, log(1 + exp(-z)) = -z + log(1 + exp(z)).) Its gradient is
    sigmoid(z) - y.

    Args:
        logits: (batch, 1), floating point.
        labels: (batch,), 0 or 1; any other gives NaN.
    Returns:
        (batch,), 0 or more, in nats: by natural logarithms, so that a guess between two costs log 2 = 0.69.

    >>> binary_cross_entropy(jnp.array([[0.0], [1000.0]]), jnp.array([1, 0])).tolist()  # log 2, and 1000
    [0.6931471824645996, 1000.0]
    """
    if logits.ndim != 2 or logits.shape[1] != 1:
        raise ShapeError("binary cross-entropy", f"logits of shape {logits.shape}", "(batch, 1)")
    _check_labels("binary cross-entropy", logits, labels)
    z = logits[:, 0]
    # max(z, 0) and |z| take the same branch at z = 0, so that the gradient there is sigmoid(0) - y = 1/2 - y.
    losses = jnp.where(z >= 0, z, 0) - z * labels + jnp.log1p(jnp.exp(jnp.where(z >= 0, -z, z)))
    return jnp.where((labels == 0) | (labels == 1), losses, jnp.nan)


def softmax_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """-log of the probability that the softmax of the logits gives to the true class.

    log sum_j exp(z_j) - z_label, with the largest logit taken out of the sum, so that exp never overflows. Its gradient
    is softmax(z) - onehot(label).

    Args:
        logits: (batch, classes), floating point.
        labels: (batch,) int, from 0 to classes - 1; any other gives NaN.
    Returns:
        (batch,), in nats, 0 or more.
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ShapeError("softmax cross-entropy", f"logits of shape {logits.shape}", "(batch, classes), 2 or more")
    _check_labels("softmax cross-entropy", logits, labels)
    # Any constant gives the same result, so no gradient needs to flow through the maximum.
    shifted = logits - jax.lax.stop_gradient(logits.max(axis=1, keepdims=True))
    # Not by index: the gradient would be a scatter, which a GPU that must give the same bits does one by one.
    of = labels[:, None] == jnp.arange(logits.shape[1])
    true = jnp.where(of.any(axis=1), jnp.where(of, shifted, 0).sum(axis=1), jnp.nan)
    return jnp.log(jnp.exp(shifted).sum(axis=1)) - true


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Binary for one logit, softmax for more: (batch, 1 or classes), (batch,) int -> (batch,) in nats."""
    return (binary_cross_entropy if logits.shape[-1] == 1 else softmax_cross_entropy)(logits, labels)


def probabilities(logits: jax.Array) -> jax.Array:
    """Logits, (batch, 1 or classes), to one probability a class, (batch, classes); each row sums to 1."""
    if logits.shape[-1] == 1:
        logits = jnp.concatenate([jnp.zeros_like(logits), logits], axis=-1)  # sigmoid(z) = softmax([0, z])[1]
    exponentials = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
