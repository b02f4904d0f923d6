"""Attention pooling: a mean over all places, in which the network itself decides how much each place counts.

A slide is called malignant for the sake of a few places; most of it may be stroma, fat or glass. A plain mean gives
each place the same say. Here every place gets a score, and a softmax over the places turns scores into weights:

    weight[k] = softmax over k of  score . (tanh(features[k] @ content) * sigmoid(features[k] @ gate))
    pooled    = sum over k of  weight[k] * features[k]

content, gate and score are three arrays that are learned; softmax(s)[k] = exp(s[k]) / sum over j of exp(s[j]), and
sigmoid(s) = 1 / (1 + exp(-s)), from 0 to 1. So the weights are 0 or more and sum to 1, whatever the number of places: a
network trained on squares can be used on whole slides; and they can be drawn: a picture of where the network looked.
(Ilse, Tomczak and Welling, "Attention-based deep multiple instance learning", ICML 2018, equations 7 and 9.)
"""

import jax
import jax.numpy as jnp

from cnn.errors import ShapeError


def attention_weights(features: jax.Array, content: jax.Array, gate: jax.Array, score: jax.Array) -> jax.Array:
    """How much each place counts: (batch, height, width), 0 or more, with sum 1 for each image.

    tanh is nearly linear around 0, where most features are; the gate makes up for that (Ilse et al., section 2.4).

    Args:
        features: (batch, height, width, channels).
        content, gate: (channels, hidden); `hidden` numbers describe a place before they become one score.
        score: (hidden,).
    Raises:
        ShapeError: if the features are not (batch, height, width, channels).
    """
    if features.ndim != 4 or features.shape[3] != content.shape[0]:
        wanted = f"(batch, height, width, {content.shape[0]})"
        raise ShapeError("attention", f"features of shape {features.shape}", wanted)
    hidden = jnp.tanh(features @ content) * jax.nn.sigmoid(features @ gate)  # (batch, height, width, hidden)
    return jax.nn.softmax(hidden @ score, axis=(1, 2))


def attention_pool(features: jax.Array, weights: jax.Array) -> jax.Array:
    """The weighted mean over all places.

    Its gradient by the features, as long as the weights stay, is upstream * weight, place by place: who counts much,
    learns much. In a network the weights depend on the features too, and pass on a gradient of their own.

    Args:
        features: (batch, height, width, channels).
        weights: (batch, height, width), with sum 1 for each image.
    Returns:
        (batch, channels).

    >>> features = jnp.array([1.0, 5.0, 3.0]).reshape(1, 1, 3, 1)
    >>> attention_pool(features, jnp.array([0.5, 0.25, 0.25]).reshape(1, 1, 3)).tolist()  # (2 * 1 + 5 + 3) / 4
    [[2.5]]
    """
    return jnp.einsum("nyx,nyxc->nc", weights, features)
