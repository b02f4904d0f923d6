"""The loss: from logits to probabilities, how wrong they are, and which way to go.

Cross-entropy is the logarithm of the probability that the truth was given. Its gradient by the logits is the plainest
there is: what was said minus what is true. Next: test_stains.py.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn.errors import ShapeError
from cnn.loss import binary_cross_entropy, cross_entropy, probabilities, softmax_cross_entropy
from tests.checkers import assert_equal_arrays, assert_gradient

drawn = settings(max_examples=50, deadline=None, derandomize=True)


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


# Two classes, one logit


def test_no_opinion_costs_log_2_whatever_is_true():
    loss = binary_cross_entropy(jnp.array([[0.0], [0.0]]), jnp.array([0, 1]))
    assert loss.tolist() == [pytest.approx(-math.log(1 / 2))] * 2


def test_the_binary_loss_is_minus_the_log_of_the_probability_of_the_truth():
    #   odds of 3 to 1 for class 1: z = log 3, P(1) = 3/4, P(0) = 1/4
    logits = jnp.array([[math.log(3)], [math.log(3)]])
    assert binary_cross_entropy(logits, jnp.array([1, 0])).tolist() == [
        pytest.approx(-math.log(3 / 4), rel=1e-6),
        pytest.approx(-math.log(1 / 4), rel=1e-6),
    ]


def test_the_binary_gradient_is_the_probability_minus_the_truth():
    #   z = log 3: sigma(z) - y is 3/4 - 1 and 3/4 - 0; z = 0: 1/2 - 1 and 1/2 - 0; z = -log 3: 1/4 - 1 and 1/4 - 0
    logits = jnp.array([[math.log(3)], [math.log(3)], [0.0], [0.0], [-math.log(3)], [-math.log(3)]])
    got = jax.grad(lambda logits: binary_cross_entropy(logits, jnp.array([1, 0, 1, 0, 1, 0])).sum())(logits)
    assert got.ravel().tolist() == pytest.approx([3 / 4 - 1, 3 / 4, 1 / 2 - 1, 1 / 2, 1 / 4 - 1, 1 / 4], rel=1e-6)


@drawn
@given(z=st.floats(-30, 30, width=32), y=st.sampled_from([0, 1]))
def test_the_stable_form_is_the_textbook_form(z, y):
    p = sigmoid(z)
    textbook = -math.log(p) if y else -math.log1p(-p) if p < 1 - 1e-9 else z + math.log1p(math.exp(-z))
    got = binary_cross_entropy(np.array([[z]], np.float32), np.array([y]))
    assert float(got[0]) == pytest.approx(textbook, rel=1e-5)


# More classes, one logit each


def test_the_softmax_loss_is_minus_the_log_of_the_probability_of_the_truth():
    #   logits log 1, log 2, log 5: probabilities 1/8, 2/8, 5/8
    logits = jnp.log(jnp.array([[1.0, 2.0, 5.0]] * 3))
    want = [-math.log(1 / 8), -math.log(2 / 8), -math.log(5 / 8)]
    assert softmax_cross_entropy(logits, jnp.array([0, 1, 2])).tolist() == pytest.approx(want, rel=1e-6)


def test_the_softmax_gradient_is_the_probabilities_minus_the_truth():
    logits = jnp.log(jnp.array([[1.0, 2.0, 5.0], [5.0, 1.0, 2.0]]))
    got = jax.grad(lambda logits: softmax_cross_entropy(logits, jnp.array([1, 0])).sum())(logits)
    assert_equal_arrays(got, [[1 / 8, 2 / 8 - 1, 5 / 8], [5 / 8 - 1, 1 / 8, 2 / 8]], "softmax(z) - onehot")
    assert_equal_arrays(got.sum(axis=1), [0, 0], "what one class wins, the others lose")


def test_two_logits_say_what_one_logit_says_by_their_difference():
    two = jnp.array([[0.5, 2.0], [3.0, -1.0]])
    one, labels = jnp.array([[2.0 - 0.5], [-1.0 - 3.0]]), jnp.array([1, 1])
    assert_equal_arrays(softmax_cross_entropy(two, labels), binary_cross_entropy(one, labels), "2 logits, 1 logit")
    assert_equal_arrays(probabilities(two), probabilities(one), "2 logits, 1 logit")


def test_a_constant_added_to_all_logits_changes_nothing():
    logits, labels = jnp.array([[0.5, 2.0, -1.0]]), jnp.array([2])
    assert_equal_arrays(
        softmax_cross_entropy(logits + 100, labels), softmax_cross_entropy(logits, labels), "+ 100", rtol=1e-5
    )
    assert_equal_arrays(probabilities(logits + 100), probabilities(logits), "+ 100", atol=1e-5)


# Both


def test_the_number_of_logits_chooses_the_loss():
    one, three, labels = jnp.array([[0.5], [2.0]]), jnp.array([[0.5, 1.0, 0.0], [2.0, 0.0, 1.0]]), jnp.array([1, 0])
    assert cross_entropy(one, labels).tolist() == binary_cross_entropy(one, labels).tolist()
    assert cross_entropy(three, labels).tolist() == softmax_cross_entropy(three, labels).tolist()
    assert cross_entropy(one, labels).shape == cross_entropy(three, labels).shape == (2,)


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_the_gradient_by_hand_by_differentiation_and_by_differences_is_one(float64, classes):
    logits = 2 * np.random.default_rng(classes).normal(size=(3, classes))
    labels = np.array([1, 0, 1] if classes < 3 else [3, 0, 2])
    weights = np.array([1.0, 10.0, -2.0])  # an upstream gradient for each image

    def loss(logits):
        return (cross_entropy(jnp.asarray(logits), labels) * weights).sum()

    said = np.asarray(probabilities(jnp.asarray(logits)))
    wrong = said[:, 1:] - labels[:, None] if classes == 1 else said - np.eye(classes)[labels]
    by_hand = weights[:, None] * wrong
    assert_equal_arrays(jax.grad(loss)(jnp.asarray(logits)), by_hand, "what was said minus what is true", rtol=1e-12)
    assert_gradient(by_hand, loss, logits, f"the cross-entropy of {classes} logits")


def test_float64_logits_give_a_float64_loss(float64):
    #   1e-9 in a logit of 1 is lost in float32; here it moves the loss by (sigma(1) - 1) * 1e-9
    labels = jnp.array([1])
    for widen in (lambda z: jnp.array([[z]]), lambda z: jnp.array([[0.0, z]])):
        difference = cross_entropy(widen(1 + 1e-9), labels) - cross_entropy(widen(1.0), labels)
        assert difference.dtype == np.float64
        assert float(difference[0]) == pytest.approx((sigmoid(1) - 1) * 1e-9, rel=1e-5)


@pytest.mark.parametrize("z", [1000.0, -1000.0])
def test_logits_of_a_thousand_give_no_nan(z):
    #   binary: P(1) = 1 or 0; right costs nothing, wrong costs 1000; the gradient is sigma(z) - y
    certain, labels = float(z > 0), jnp.array([0, 1])
    loss, slope = jax.vjp(lambda logits: binary_cross_entropy(logits, labels), jnp.array([[z], [z]]))
    assert loss.tolist() == [1000 * certain, 1000 * (1 - certain)]
    assert slope(jnp.ones(2))[0].ravel().tolist() == [certain - 0, certain - 1]
    #   softmax of (z, 0, 0)
    labels = jnp.array([0, 1])
    loss, slope = jax.vjp(lambda logits: softmax_cross_entropy(logits, labels), jnp.array([[z, 0.0, 0.0]] * 2))
    right, wrong = (0, 1000) if z > 0 else (1000 + math.log(2), math.log(2))
    assert loss.tolist() == pytest.approx([right, wrong])
    said = np.array([1, 0, 0] if z > 0 else [0, 0.5, 0.5])
    assert slope(jnp.ones(2))[0].tolist() == [(said - [1, 0, 0]).tolist(), (said - [0, 1, 0]).tolist()]
    assert probabilities(jnp.array([[z]])).tolist() == [[1 - certain, certain]]
    assert probabilities(jnp.array([[z, 0.0, 0.0]])).tolist() == [said.tolist()]


@pytest.mark.parametrize("label", [-1, -3, 3])
def test_a_label_that_is_no_class_gives_no_number(label):
    losses = softmax_cross_entropy(jnp.array([[0.0, 2.0, 1.0]] * 2), jnp.array([label, 1]))
    assert np.isnan(losses).tolist() == [True, False]
    losses = binary_cross_entropy(jnp.array([[2.0], [2.0]]), jnp.array([label, 1]))
    assert np.isnan(losses).tolist() == [True, False]


def test_the_gradient_of_the_softmax_loss_scatters_nothing():
    slope = jax.grad(lambda logits: softmax_cross_entropy(logits, jnp.array([2, 0])).sum())
    assert "scatter" not in str(jax.make_jaxpr(slope)(jnp.zeros((2, 3)))), "a GPU would do it one by one"


def test_nan_is_not_hidden():
    assert np.isnan(binary_cross_entropy(jnp.array([[np.nan]]), jnp.array([1]))).all()
    assert np.isnan(softmax_cross_entropy(jnp.array([[0.0, np.nan, 1.0]]), jnp.array([0]))).all()


def test_one_image_does_not_influence_another():
    logits, labels = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32), np.array([1, 3, 0])
    for given_logits in (logits, logits[:, :1]):
        alone = cross_entropy(given_logits[1:2], np.minimum(labels[1:2], given_logits.shape[1]))
        among = cross_entropy(given_logits, np.minimum(labels, given_logits.shape[1]))
        assert_equal_arrays(among[1:2], alone, "alone, and among others")


# Probabilities


def test_probabilities_of_one_logit_are_those_of_class_0_and_class_1():
    got = probabilities(jnp.array([[math.log(3)], [0.0]]))
    assert_equal_arrays(got, [[1 / 4, 3 / 4], [1 / 2, 1 / 2]], "sigmoid(log 3) = 3 / (3 + 1)")


def test_probabilities_of_many_logits_are_their_exponentials_by_their_sum():
    got = probabilities(jnp.log(jnp.array([[1.0, 2.0, 5.0], [6.0, 1.0, 1.0]])))
    assert_equal_arrays(got, [[1 / 8, 2 / 8, 5 / 8], [6 / 8, 1 / 8, 1 / 8]], "softmax")


# What is refused


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 1, 1)])
def test_the_binary_loss_wants_one_logit_an_image(shape):
    with pytest.raises(ShapeError) as error:
        binary_cross_entropy(jnp.zeros(shape), jnp.zeros(3, int))
    assert str(error.value) == f"binary cross-entropy: got logits of shape {shape}, wants (batch, 1)"


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 2, 2)])
def test_the_softmax_loss_wants_at_least_two_logits_an_image(shape):
    with pytest.raises(ShapeError) as error:
        softmax_cross_entropy(jnp.zeros(shape), jnp.zeros(3, int))
    assert str(error.value) == f"softmax cross-entropy: got logits of shape {shape}, wants (batch, classes), 2 or more"


@pytest.mark.parametrize("labels", [np.zeros((3, 1), int), np.zeros(1, int), np.zeros(4, int)])
@pytest.mark.parametrize(("loss", "outputs"), [(binary_cross_entropy, 1), (softmax_cross_entropy, 3)])
def test_labels_that_would_be_stretched_to_the_logits_are_refused(loss, outputs, labels):
    with pytest.raises(ShapeError, match=r"labels of shape .*, wants \(3,\), one for each row of logits"):
        loss(jnp.zeros((3, outputs)), jnp.asarray(labels))
