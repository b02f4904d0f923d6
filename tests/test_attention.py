"""Attention: a mean over places, in which the network decides how much each place counts. Next: test_dense.py.

By hand: scores 0, log 2 and log 5 are, after a softmax, 1/8, 2/8 and 5/8 of the say.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn.attention import attention_pool, attention_weights
from cnn.errors import ShapeError
from tests.checkers import assert_equal_arrays, assert_gradient


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Numbers around 0, float64."""
    return np.random.default_rng(seed).standard_normal(shape)


def kernels(channels: int = 3, hidden: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Content, gate and score."""
    return noise(channels, hidden, seed=1), noise(channels, hidden, seed=2), noise(hidden, seed=3)


def test_scores_of_0_log_2_and_log_5_have_1_2_and_5_eighths_of_the_say():
    # gate 0 lets sigmoid(0) = 1/2 of tanh through, and score 8 makes 8 / 2 * tanh(x) of it: tanh(x) is a score / 4
    features = jnp.arctanh(jnp.log(jnp.array([1.0, 2.0, 5.0])) / 4).reshape(1, 1, 3, 1)
    weights = attention_weights(features, jnp.array([[1.0]]), jnp.array([[0.0]]), jnp.array([8.0]))
    assert_equal_arrays(weights, [[[1 / 8, 2 / 8, 5 / 8]]], "exp of the scores: 1, 2 and 5, of 8")


def test_weights_are_the_softmax_of_the_scores():
    # one channel, one hidden unit: score * tanh(x) * sigmoid(gate * x); gate 0 lets half of tanh through
    features = jnp.array([0.0, 1.0, -2.0]).reshape(1, 1, 3, 1)
    weights = attention_weights(features, jnp.array([[1.0]]), jnp.array([[0.0]]), jnp.array([2.0]))
    scores = [2 * math.tanh(x) / 2 for x in (0.0, 1.0, -2.0)]
    expected = np.exp(scores) / np.exp(scores).sum()
    assert_equal_arrays(weights, expected.reshape(1, 1, 3), "softmax of three scores")


def test_the_gate_can_silence_what_the_content_says():
    features = jnp.array([1.0, 2.0]).reshape(1, 1, 2, 1)
    shut = attention_weights(features, jnp.array([[1.0]]), jnp.array([[-100.0]]), jnp.array([50.0]))
    assert_equal_arrays(shut, [[[0.5, 0.5]]], "a gate that is shut leaves all places alike")


def test_a_weighted_mean_by_hand():
    # channels (8, 0), (4, 16), (0, 8) with 1/8, 2/8, 5/8 of the say: 1 + 1 + 0 and 0 + 4 + 5
    features = jnp.array([[8.0, 0.0], [4.0, 16.0], [0.0, 8.0]]).reshape(1, 3, 1, 2)
    weights = jnp.array([1.0, 2.0, 5.0]).reshape(1, 3, 1) / 8
    assert attention_pool(features, weights).tolist() == [[2.0, 9.0]]


def test_the_weights_of_each_image_are_positive_and_sum_to_1():
    weights = np.asarray(attention_weights(jnp.asarray(noise(2, 5, 7, 3)), *map(jnp.asarray, kernels())))
    assert weights.shape == (2, 5, 7)
    assert (weights > 0).all()
    assert_equal_arrays(weights.sum((1, 2)), [1, 1], "sums")
    assert weights.max() > 3 * weights.min(), "places differ"


def test_places_that_are_alike_count_alike_and_attention_is_the_mean():
    features = jnp.broadcast_to(jnp.array([1.0, -2.0, 3.0]), (1, 4, 6, 3))
    weights = attention_weights(features, *map(jnp.asarray, kernels()))
    assert_equal_arrays(weights, np.full((1, 4, 6), 1 / 24), "weights")
    assert_equal_arrays(attention_pool(features, weights), [[1.0, -2.0, 3.0]], "mean", rtol=1e-5)


def test_where_a_place_lies_makes_no_difference():
    features, parameters = noise(1, 3, 4, 3), tuple(map(jnp.asarray, kernels()))
    shuffled = np.random.default_rng(5).permutation(features.reshape(12, 3)).reshape(1, 3, 4, 3)
    one, other = (attention_pool(x, attention_weights(x, *parameters)) for x in map(jnp.asarray, (features, shuffled)))
    assert_equal_arrays(one, other, "shuffled places")


def test_a_score_of_thousands_does_not_overflow():
    weights = attention_weights(jnp.array([3.0, 1.0]).reshape(1, 1, 2, 1), *map(jnp.ones, ((1, 1), (1, 1), 1)))
    assert weights[0, 0, 0] > 0.5
    huge = attention_weights(
        jnp.array([3.0, -3.0]).reshape(1, 1, 2, 1), jnp.ones((1, 1)), jnp.ones((1, 1)), 1e5 * jnp.ones(1)
    )
    assert huge.tolist() == [[[1.0, 0.0]]]


def test_the_gradient_of_the_pool_by_hand_is_upstream_times_weight(float64):
    features, weights = noise(1, 2, 3, 2), np.array([1.0, 2, 3, 4, 5, 6]).reshape(1, 2, 3) / 21
    upstream = np.array([[10.0, -1.0]])

    def total(features):
        return (attention_pool(jnp.asarray(features), jnp.asarray(weights)) * upstream).sum()

    by_hand = weights[..., None] * upstream[:, None, None]
    assert_equal_arrays(jax.grad(total)(jnp.asarray(features)), by_hand, "by hand")
    assert_gradient(by_hand, total, features, "a weighted mean")


@pytest.mark.parametrize("argument", range(4), ids=["features", "content", "gate", "score"])
def test_what_attention_learns_goes_through_its_weights_as_differences_say(argument, float64):
    arguments = [noise(2, 2, 3, 3), *kernels()]
    upstream = noise(2, 3, seed=9)

    def total(value):
        changed = [jnp.asarray(value if i == argument else a) for i, a in enumerate(arguments)]
        return (attention_pool(changed[0], attention_weights(*changed)) * upstream).sum()

    got = jax.grad(total)(jnp.asarray(arguments[argument]))
    assert np.abs(got).max() > 1e-3
    assert_gradient(got, total, arguments[argument], "attention")


@pytest.mark.parametrize("shape", [(2, 3, 3), (1, 2, 2, 4)])
def test_features_of_another_shape_are_refused(shape):
    with pytest.raises(ShapeError, match=r"^attention: got features of shape .*, wants \(batch, height, width, 3\)$"):
        attention_weights(jnp.ones(shape), *map(jnp.asarray, kernels()))
