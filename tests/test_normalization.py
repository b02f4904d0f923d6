"""Normalisation: mean 0 and variance 1, over which numbers, and what becomes of the gradient. Next: test_pooling.py.

By hand: the numbers 1, 2, 3, 6 have mean 3 and variance ((-2)^2 + (-1)^2 + 0 + 3^2) / 4 = 3.5.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn.normalization import EPSILON, batch_norm, layer_norm, moments, normalize, running
from tests.checkers import assert_equal_arrays, assert_gradient

ONE, ZERO = jnp.ones(1), jnp.zeros(1)


def noise(*shape: int, seed: int = 0, dtype=np.float32) -> np.ndarray:
    """Numbers around 5, spread by 2."""
    return (5 + 2 * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def test_the_variance_is_the_mean_square_distance_from_the_mean():
    mean, variance = moments(jnp.array([[1.0, 2.0], [3.0, 6.0]]), (0, 1))
    assert (mean.item(), variance.item()) == (3.0, 3.5)


def test_the_variance_survives_a_large_mean():
    # float32 holds 7 digits: mean of squares minus square of the mean would be 1e8 - 1e8 with an error of 8
    _, variance = moments(jnp.array([9999.0, 10001.0]), (0,))
    assert variance.item() == 1.0


def test_the_variance_of_a_batch_survives_a_large_mean():
    outputs, _, variance = batch_norm(jnp.array([9999.0, 10001.0]).reshape(2, 1, 1, 1), jnp.ones(1), jnp.zeros(1))
    assert variance.item() == 1.0
    assert_equal_arrays(outputs.ravel(), np.array([-1, 1]) / np.sqrt(1 + EPSILON), "1 below and 1 above 10,000")


def test_a_batch_of_two_images_by_hand():
    images = jnp.array([1.0, 2.0, 3.0, 6.0]).reshape(2, 1, 2, 1)
    outputs, mean, variance = batch_norm(images, jnp.array([2.0]), jnp.array([10.0]))
    expected = 10 + 2 * np.array([-2, -1, 0, 3]) / np.sqrt(3.5 + EPSILON)
    assert_equal_arrays(outputs.ravel(), expected, "batch norm", rtol=1e-6)
    assert (mean.item(), variance.item()) == (3.0, 3.5)


def test_each_channel_is_normalised_by_itself():
    images = jnp.stack([jnp.array([1.0, 2.0, 3.0, 6.0]), jnp.full(4, 7.0)], axis=-1).reshape(2, 2, 1, 2)
    outputs, mean, variance = batch_norm(images, jnp.ones(2), jnp.zeros(2))
    assert mean.tolist() == [3.0, 7.0]
    assert variance.tolist() == [3.5, 0.0]
    assert (outputs[..., 1] == 0).all(), "a channel that is the same everywhere says nothing"


def test_layer_norm_looks_at_one_image_at_a_time_and_at_all_of_its_channels():
    first = jnp.array([1.0, 2.0, 3.0, 6.0]).reshape(1, 1, 2, 2)
    both = jnp.concatenate([first, 100 * first])
    outputs = layer_norm(both, jnp.ones(2), jnp.zeros(2))
    expected = np.array([-2, -1, 0, 3]) / np.sqrt(3.5 + EPSILON)
    assert_equal_arrays(outputs[0].ravel(), expected, "layer norm", rtol=1e-6)
    assert_equal_arrays(outputs[1].ravel(), outputs[0].ravel(), "a hundred times as strong", rtol=1e-3)


@settings(deadline=None, max_examples=10)  # each shape is compiled
@given(shape=st.tuples(*[st.integers(2, 5)] * 4), seed=st.integers(0, 9))
def test_what_comes_out_has_mean_0_and_variance_1(shape, seed):
    images = jnp.asarray(noise(*shape, seed=seed))
    scale, shift = jnp.ones(shape[3]), jnp.zeros(shape[3])
    for outputs, axes in (
        (batch_norm(images, scale, shift)[0], (0, 1, 2)),
        (layer_norm(images, scale, shift), (1, 2, 3)),
    ):
        mean, variance = moments(outputs, axes)
        np.testing.assert_allclose(mean, 0, atol=1e-4)
        np.testing.assert_allclose(variance, 1, atol=0.02)  # epsilon is 0.001 beside variances of about 4


@pytest.mark.parametrize("name", ["batch", "layer"])
def test_the_gradient_by_hand(float64, name):
    # y = (x - m) / s, s^2 = v + epsilon: dx = (dy - mean(dy) - y mean(dy y)) / s, all means over what m is a mean of
    images, upstream = noise(2, 3, 2, 1, dtype=np.float64), noise(2, 3, 2, 1, seed=1, dtype=np.float64)
    function = (lambda x: batch_norm(x, ONE, ZERO)[0]) if name == "batch" else (lambda x: layer_norm(x, ONE, ZERO))
    axes = (0, 1, 2) if name == "batch" else (1, 2, 3)

    def total(images):
        return (function(jnp.asarray(images)) * upstream).sum()

    s = np.sqrt(images.var(axes, keepdims=True) + EPSILON)
    y = (images - images.mean(axes, keepdims=True)) / s
    by_hand = upstream - upstream.mean(axes, keepdims=True) - y * (upstream * y).mean(axes, keepdims=True)
    assert_equal_arrays(jax.grad(total)(jnp.asarray(images)), by_hand / s, "by hand", rtol=1e-8)
    assert_gradient(by_hand / s, total, images, f"{name} norm")


def test_the_gradient_is_that_of_the_formula_through_all_that_comes_out_and_for_all_that_goes_in(float64):
    images, scale, shift = noise(2, 3, 2, 4, dtype=np.float64), noise(4, seed=1), noise(4, seed=2)
    of_outputs, of_mean, of_variance = noise(2, 3, 2, 4, seed=3), noise(4, seed=4), noise(4, seed=5)

    def formula(images, scale, shift):
        mean, variance = moments(images, (0, 1, 2))
        return normalize(images, mean, variance, scale, shift), mean.ravel(), variance.ravel()

    def total(function, *given):
        outputs, mean, variance = function(*given)
        return (outputs * of_outputs).sum() + (mean * of_mean).sum() + (variance * of_variance).sum()

    given = [jnp.asarray(one, jnp.float64) for one in (images, scale, shift)]
    got, want = (jax.grad(partial(total, f), argnums=(0, 1, 2))(*given) for f in (batch_norm, formula))
    for name, one, other in zip(("images", "scale", "shift"), got, want):
        assert_equal_arrays(one, other, name, rtol=1e-9)


def test_a_running_mean_forgets_a_tenth_at_each_batch():
    assert running(jnp.array(10.0), jnp.array(20.0)).item() == 11.0
    value = jnp.array(0.0)
    for _ in range(50):
        value = running(value, jnp.array(1.0))
    assert value.item() == pytest.approx(1 - 0.9**50, rel=1e-5)


def test_a_thousandth_is_added_to_the_variance():
    images = jnp.array([-1.0, 1.0]).reshape(2, 1, 1, 1) * np.sqrt(0.001)
    assert_equal_arrays(batch_norm(images, ONE, ZERO)[0].ravel(), [-np.sqrt(0.5), np.sqrt(0.5)], "variance 0.001")


def test_in_bfloat16_mean_and_variance_are_those_of_the_inputs_and_not_of_8_bits():
    inputs = jnp.asarray(np.random.default_rng(0).normal(4.0, 0.5, (8, 16, 16, 3)), jnp.bfloat16)
    ones, zeros, exact = jnp.ones(3, jnp.bfloat16), jnp.zeros(3, jnp.bfloat16), np.asarray(inputs, np.float64)
    outputs, mean, variance = batch_norm(inputs, ones, zeros)
    assert (outputs.dtype, mean.dtype, variance.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    assert_equal_arrays(mean, exact.mean((0, 1, 2)), "the mean", rtol=1e-5)
    assert_equal_arrays(variance, exact.var((0, 1, 2)), "the variance", rtol=1e-4)
    assert_equal_arrays(outputs.astype(jnp.float32).mean((0, 1, 2)), np.zeros(3), "their mean", atol=2e-3)
    gradients = jax.grad(lambda *of: (batch_norm(*of)[0].astype(jnp.float32) ** 2).sum(), (0, 1, 2))(
        inputs, ones, zeros
    )
    assert {gradient.dtype.name for gradient in gradients} == {"bfloat16"}
