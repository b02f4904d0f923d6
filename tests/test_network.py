"""A network as a list of layers, and a batch that goes through it in parts. Next: test_models.py."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from cnn.layers import BatchNorm, Bias, Convolution, Dense, Dropout, Flatten, GlobalAveragePool, MaxPool, ReLU
from cnn.network import Network
from tests.checkers import assert_equal_arrays
from tests.test_convolution import noise

KEYS = jax.random.split(jax.random.key(1), 3)


def local_network() -> Network:
    layers = [Convolution(3, 4, bias=False, key=KEYS[0]), MaxPool(2), Bias(4), ReLU(), Convolution(4, 5, key=KEYS[2])]
    return Network([*layers, Flatten(), Dropout(0.5), Dense(1 * 2 * 5, 1, key=KEYS[1])])


@pytest.mark.parametrize("parts", [2, 3, 5, 9], ids=lambda parts: f"{parts} parts of 5")
def test_in_parts_a_batch_gives_the_same_logits_and_gradients(parts):
    network, images, key = local_network(), noise(5, 8, 10, 3), jax.random.key(7)
    graph, parameters = nnx.split(network)

    def loss(parameters, parts):
        return (nnx.merge(graph, parameters)(images, key=key, parts=parts) ** 2).sum()

    with_gradient = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    (whole, d_whole), (cut, d_cut) = (with_gradient(parameters, n) for n in (1, parts))
    assert_equal_arrays(cut, whole, "the loss", rtol=1e-5)
    for got, want in zip(jax.tree.leaves(d_cut), jax.tree.leaves(d_whole)):
        assert_equal_arrays(got, want, "a gradient", rtol=1e-4, atol=1e-5)


def test_a_batch_norm_sees_the_whole_batch_though_the_layers_before_it_saw_parts():
    norm = BatchNorm(2)
    network = Network([Convolution(3, 2, key=KEYS[0]), Convolution(2, 2, key=KEYS[1]), norm, GlobalAveragePool()])
    images = noise(4, 6, 6, 3)
    seen = network.layers[1](network.layers[0](images))
    network(images, key=jax.random.key(0), parts=4)
    assert_equal_arrays(norm.mean[...], 0.1 * seen.mean((0, 1, 2)), "the mean over all four images", atol=1e-6)


def test_one_convolution_gets_the_whole_batch_and_two_get_parts(monkeypatch):
    seen = []
    monkeypatch.setattr(Network, "_apply", lambda self, inputs, numbers, key: (seen.append(len(inputs)), inputs)[1])
    one, images = Convolution(3, 3, key=KEYS[0]), jnp.asarray(noise(4, 5, 5, 3))
    for layers, want in (([Flatten()], [4]), ([one, Flatten()], [4]), ([one, ReLU(), one, Flatten()], [2, 2, 4])):
        seen.clear()
        Network(layers)(images, parts=2)
        assert seen == want


def test_an_empty_batch_in_parts_is_an_empty_batch():
    assert local_network()(jnp.zeros((0, 8, 10, 3)), parts=3).shape == (0, 1)


def test_a_dropout_draws_for_the_whole_batch_though_the_layers_before_it_saw_parts():
    layers = [Convolution(3, 4, key=KEYS[0]), Convolution(4, 2, key=KEYS[1]), Dropout(0.5)]
    whole, cut = (Network(layers)(noise(4, 6, 6, 3), key=KEYS[2], parts=parts) for parts in (1, 4))
    assert_equal_arrays(cut, whole, "dropped", atol=1e-5)
