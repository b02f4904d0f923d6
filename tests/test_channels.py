"""Channels: one sum, one bias each; and what the bias learns from. Next: test_normalization.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn.channels import add_bias, sum_of_channels
from cnn.errors import ShapeError
from cnn.layers import Bias
from tests.checkers import assert_equal_arrays, assert_gradient
from tests.test_convolution import noise


def test_each_channel_is_summed_over_all_images_rows_and_columns():
    #   two images of 1 x 2 with two channels: 1 + 2 + 3 + 4, and ten times that
    images = jnp.array([[[[1.0, 10.0], [2.0, 20.0]]], [[[3.0, 30.0], [4.0, 40.0]]]])
    assert sum_of_channels(images).tolist() == [10.0, 100.0]


def test_a_long_sum_keeps_five_digits_of_which_one_by_one_three_would_be_left():
    # 8 * 128 * 128 = 131,072 times 0.1 is 13,107.2. One by one, a sum above 8,192 moves in steps of 2^-10: of 0.1,
    # which is 102.4 of them, 102 are added, and the end is 13,093.6. (In which order the second step adds is the
    # processor's: 13,107.20 with vectors of 256 bits, 13,107.07 with those of 512.)
    images = np.full((8, 128, 128, 1), 0.1, np.float32)
    assert_equal_arrays(jax.jit(sum_of_channels)(images), [13107.2], "the sum", rtol=2e-5)
    assert np.cumsum(images.ravel(), dtype=np.float32)[-1] < 13100


def test_the_gradient_of_a_bias_is_the_sum_of_what_comes_back():
    images, bias, upstream = noise(2, 3, 4, 2), jnp.array([0.5, -1.0]), noise(2, 3, 4, 2)
    d_images, d_bias = jax.vjp(add_bias, images, bias)[1](upstream)
    assert np.array_equal(d_images, upstream), "a bias lets everything pass"
    assert_equal_arrays(d_bias, upstream.sum((0, 1, 2)), "by the bias", rtol=1e-5)


def test_the_gradient_of_a_bias_is_that_of_differences(float64):
    images, bias, upstream = (noise(*shape, dtype=np.float64) for shape in ((2, 3, 2, 2), (2,), (2, 3, 2, 2)))
    d_bias = jax.grad(lambda bias: (add_bias(images, bias) ** 2 * upstream).sum())(bias)
    assert_gradient(d_bias, lambda bias: (add_bias(images, bias) ** 2 * upstream).sum(), bias, "the bias")


def test_there_is_one_bias_a_channel():
    with pytest.raises(
        ShapeError, match=r"bias: got inputs of shape \(1, 2, 3, 4\), wants \(batch, height, width, 3\)"
    ):
        add_bias(jnp.zeros((1, 2, 3, 4)), jnp.zeros(3))


def test_a_bias_of_its_own_starts_at_0_and_is_added():
    layer, images = Bias(2), noise(1, 2, 3, 2)
    assert np.array_equal(layer(images), images)
    layer.bias[...] = jnp.array([0.5, -1.0])
    assert_equal_arrays(layer(images), images + np.array([0.5, -1.0], np.float32), "added")
