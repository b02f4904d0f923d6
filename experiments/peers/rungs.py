"""A training step with some of the cures of `experiments/faster.py`, which `PEER_CURES` names, and without the others.

It computes what `obvious.py` does. What a cure changes stands under `if "its name" in CURES`.
"""

import math
import os
from importlib.metadata import version

CURES = set(os.environ.get("PEER_CURES", "").split(","))
if "memory" not in CURES:
    os.environ["MALLOC_CHECK_"] = "0"  # where the user has set something of malloc's, cnn leaves malloc alone
import cnn  # noqa: F401 (first: it sets XLA's flags, which jax reads when it first compiles)

if "flags" not in CURES:
    os.environ.pop("XLA_FLAGS", None)

# isort: split
import jax
import jax.numpy as jnp
import optax

from cnn import channels, convolution, fast_convolution, pooling
from cnn.dense import dropout, flatten, relu
from experiments.peers import DROPOUT, obvious

VERSIONS = {"jax": version("jax")}
QUEUED = ("step",)
PARTS = 8
NONE = ((0, 0), (0, 0))


@jax.custom_vjp
def with_plain_gradients(images, kernel):
    """XLA's convolution, whose gradients are two convolutions more, of a form for which XLA has its fast routine."""
    return convolution.convolve_lax(images, kernel)


def _gradients(saved, upstream):
    images, kernel = saved
    return (
        fast_convolution.image_gradient(images.shape, kernel, upstream, (1, 1), NONE),
        fast_convolution.kernel_gradient(images, kernel.shape, upstream, (1, 1), NONE),
    )


with_plain_gradients.defvjp(lambda images, kernel: (with_plain_gradients(images, kernel), (images, kernel)), _gradients)


def convolve(images, kernel):
    """Without padding. The layers' own copies the patches beforehand where an image has few channels."""
    if "patches" in CURES:
        return fast_convolution.convolve(images, kernel)
    return with_plain_gradients(images, kernel) if "gradients" in CURES else convolution.convolve_lax(images, kernel)


def biased(images, bias):
    """Bias and ReLU."""
    return relu(channels.add_bias(images, bias) if "bias" in CURES else images + bias)


def pool(images):
    """The largest of each 2 x 2 pixels."""
    return pooling.max_pool(images) if "pool" in CURES else obvious.pool(images)


def pooled(images, bias):
    """Bias, ReLU and pool: in the order of 2017, or the pool first."""
    return biased(pool(images), bias) if "order" in CURES else pool(biased(images, bias))


def features(weights, images):
    """All convolutions and pools: (batch, 120, 160, 3) -> (batch, 27, 37, 32)."""
    (k0, b0), (k1, b1), (k2, b2) = weights[:3]
    x = pooled(convolve(images.astype(jnp.float32) / 255, k0), b0)
    return pooled(convolve(biased(convolve(x, k1), b1), k2), b2)


def loss(weights, images, labels, key=None):
    """The mean cross-entropy."""
    parts = jnp.split(images, math.gcd(PARTS, len(images))) if "parts" in CURES else [images]
    x = jnp.concatenate([features(weights, part) for part in parts])
    (k3, b3), (k4, b4) = weights[3:]
    x = relu(flatten(x) @ k3 + b3)
    x = x if key is None else dropout(key, x, DROPOUT)
    logits = (x @ k4 + b4)[:, 0]
    return optax.sigmoid_binary_cross_entropy(logits, labels.astype(jnp.float32)).mean()


class Peer(obvious.Peer):
    """See `experiments/peers/__init__.py`."""

    loss = exact = staticmethod(loss)
    donated = (0,)
