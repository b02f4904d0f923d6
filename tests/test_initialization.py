"""How kernels start: the numbers that jax's own initialisers draw, from one program for most kernels.

Next: test_layers.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn import initialization
from cnn.dense import dense, relu
from cnn.initialization import fans, glorot_uniform, he_normal
from tests.checkers import assert_equal_arrays

KEY = jax.random.key(3)


@pytest.mark.parametrize("shape", [(3, 3, 3, 32), (6, 6, 1, 16), (5, 7), (1, 1), (2, 3, 40, 300), (500, 140)])
@pytest.mark.parametrize("name", ["glorot_uniform", "he_normal"])
def test_the_numbers_are_to_the_bit_those_of_jax(name, shape):
    want = getattr(jax.nn.initializers, name)()(KEY, shape, jnp.float32)
    got = getattr(initialization, name)(KEY, shape)
    assert got.dtype == jnp.float32
    assert_equal_arrays(got, want, name, rtol=0)


def test_the_first_of_many_numbers_are_the_same_as_few():
    few, many = (np.asarray(initialization._numbers(KEY, n, True)) for n in (1 << 16, 1 << 17))
    assert np.array_equal(few, many[: 1 << 16])


def test_kernels_of_many_shapes_are_drawn_by_one_program():
    he_normal(KEY, (2, 2, 3, 5))
    programs = initialization._numbers._cache_size()
    for shape in ((3, 3, 5, 7), (1, 9), (8, 8, 16, 64)):
        he_normal(KEY, shape)
    assert initialization._numbers._cache_size() == programs
    he_normal(KEY, (8, 8, 64, 65))  # more than 2^16 numbers
    assert initialization._numbers._cache_size() == programs + 1


def test_the_fans_of_a_convolution_and_of_a_dense_layer_by_hand():
    assert fans((3, 5, 2, 7)) == (3 * 5 * 2, 3 * 5 * 7)
    assert fans((4, 9)) == (4, 9)


def test_a_kernel_can_be_described_without_being_drawn():
    assert jax.eval_shape(lambda key: glorot_uniform(key, (3, 3, 2, 4)), KEY).shape == (3, 3, 2, 4)


@pytest.mark.parametrize("start", [glorot_uniform, he_normal])
def test_a_kernel_is_of_the_type_asked_for(start):
    assert start(KEY, (3, 4), jnp.bfloat16).dtype == jnp.bfloat16


def test_a_signal_keeps_its_size_through_twenty_layers_from_he_normal_and_fades_from_glorot_uniform():
    # A ReLU takes half of the mean square, and 256 inputs by weights of variance v give it back 256 v times. He's
    # v = 2 / 256 makes 1 of it, layer after layer; Glorot's 2 / (256 + 256) makes 1/2: after twenty 2^-20, a millionth.
    for start, want in ((initialization.he_normal, 1.0), (initialization.glorot_uniform, 2.0**-20)):
        signal = jax.random.normal(KEY, (64, 256))
        for key in jax.random.split(jax.random.key(1), 20):
            signal = dense(relu(signal), start(key, (256, 256)))
        assert 1 / 3 < float((signal**2).mean()) / want < 3, start.__name__


def test_equal_kernels_get_equal_gradients_and_stay_equal():
    # inputs 1 2, both hidden units 1 1: each is 3 and gets 1 * 5 back, so both kernels change by (1 * 5, 2 * 5)
    inputs, first, second = jnp.array([[1.0, 2.0]]), jnp.ones((2, 2)), jnp.full((2, 1), 5.0)
    d_first = jax.grad(lambda first: dense(relu(dense(inputs, first)), second)[0, 0])(first)
    assert d_first.tolist() == [[1 * 5, 1 * 5], [2 * 5, 2 * 5]]
