"""Dense layers: weighted sums, the ReLU, flatten and dropout, and the chain rule that ties them together.

The gradient of a dense layer is an outer product an example; two layers and a ReLU make the smallest backpropagation,
worked out here with a pencil. Next: test_loss.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn.dense import check_rate, dense, dropout, flatten, relu
from cnn.errors import ShapeError, UserError
from tests.checkers import assert_equal_arrays, assert_gradient


def array(numbers) -> jax.Array:
    return jnp.asarray(np.array(numbers, np.float32))


# Dense


def test_a_dense_layer_weighs_every_input_for_every_output():
    #   inputs 1 2 3         kernel  1 -1       bias 10 20
    #                                0  4
    #                                5  2
    got = dense(array([[1, 2, 3]]), array([[1, -1], [0, 4], [5, 2]]), array([10, 20]))
    assert got.tolist() == [[1 * 1 + 2 * 0 + 3 * 5 + 10, 1 * -1 + 2 * 4 + 3 * 2 + 20]]


def test_a_dense_layer_may_go_without_a_bias():
    assert dense(array([[1, 2]]), array([[3, 5], [4, 0]])).tolist() == [[1 * 3 + 2 * 4, 1 * 5 + 2 * 0]]


def test_a_dense_layer_equals_loops_over_examples_outputs_and_inputs():
    generator = np.random.default_rng(0)
    inputs, kernel, bias = (generator.normal(size=shape).astype(np.float32) for shape in [(3, 5), (5, 2), (2,)])
    want = np.zeros((3, 2))
    for n in range(3):
        for o in range(2):
            want[n, o] = bias[o] + sum(inputs[n, i] * kernel[i, o] for i in range(5))
    assert_equal_arrays(dense(inputs, kernel, bias), want, "loops")


def test_the_gradient_of_a_kernel_is_one_outer_product_an_example_summed():
    #   inputs 1 2 and 3 5, upstream gradients 10 100 and 7 0
    inputs, kernel, bias = array([[1, 2], [3, 5]]), array([[2, 4], [6, 8]]), array([0, 0])
    upstream = array([[10, 100], [7, 0]])
    d_inputs, d_kernel, d_bias = jax.grad(lambda *args: (dense(*args) * upstream).sum(), (0, 1, 2))(
        inputs, kernel, bias
    )
    assert d_kernel.tolist() == [[1 * 10 + 3 * 7, 1 * 100 + 3 * 0], [2 * 10 + 5 * 7, 2 * 100 + 5 * 0]]
    assert d_kernel.tolist() == (np.outer([1, 2], [10, 100]) + np.outer([3, 5], [7, 0])).tolist()
    assert d_inputs.tolist() == [[10 * 2 + 100 * 4, 10 * 6 + 100 * 8], [7 * 2 + 0 * 4, 7 * 6 + 0 * 8]]
    assert d_bias.tolist() == [10 + 7, 100 + 0]


def test_the_gradient_of_dense_by_hand_by_differentiation_and_by_differences_is_one(float64):
    generator = np.random.default_rng(1)
    inputs, kernel, bias, upstream = (generator.normal(size=s) for s in [(2, 3), (3, 4), (4,), (2, 4)])
    arguments = [inputs, kernel, bias]
    by_hand = [upstream @ kernel.T, inputs.T @ upstream, upstream.sum(axis=0)]

    def loss(*arguments):
        return (dense(*arguments) * upstream).sum()

    by_jax = jax.grad(loss, argnums=(0, 1, 2))(*map(jnp.asarray, arguments))
    for i, what in enumerate(["inputs", "kernel", "bias"]):
        assert_equal_arrays(by_jax[i], by_hand[i], f"dense by its {what}", rtol=1e-12)
        assert_gradient(by_hand[i], lambda at, i=i: loss(*arguments[:i], at, *arguments[i + 1 :]), arguments[i], what)


@pytest.mark.parametrize("shape", [(3,), (2, 4), (1, 2, 3)])
def test_inputs_of_another_width_are_refused(shape):
    with pytest.raises(ShapeError) as error:
        dense(jnp.zeros(shape), jnp.zeros((3, 5)))
    assert str(error.value) == f"dense: got inputs of shape {shape}, wants (batch, 3)"


# ReLU


def test_relu_cuts_off_what_is_below_zero():
    assert relu(array([[-2, 0, 3], [0.5, -0.5, 7]])).tolist() == [[0, 0, 3], [0.5, 0, 7]]


def test_the_gradient_of_relu_is_one_above_zero_and_none_at_zero_or_below():
    got = jax.grad(lambda inputs: (relu(inputs) * array([10, 100, 1000])).sum())(array([-2, 0, 3]))
    assert got.tolist() == [0, 0, 1000]


def test_relu_does_not_hide_nan():
    got = relu(array([np.nan, -np.inf, np.inf]))
    assert np.isnan(got[0])
    assert got[1:].tolist() == [0, np.inf]


def test_the_way_back_through_a_relu_needs_its_output_alone():
    #   where the output is above 0 (or NaN, which must not be hidden on the way back either), so was the input
    inputs, upstream = array([-2, -0.0, 0, 3, np.nan, np.inf]), array([1, 2, 4, 8, 16, 32])
    outputs, back = jax.vjp(relu, inputs)
    assert back(upstream)[0].tolist() == [0, 0, 0, 8, 16, 32]
    (kept,) = jax.tree.leaves(back)
    assert np.array_equal(kept, outputs, equal_nan=True)


# Flatten


def test_flatten_reads_row_after_row_and_the_channels_of_a_pixel_side_by_side():
    #   pixel (y, x) has the channels 100y + 10x and 100y + 10x + 1
    images = array(
        [[[[n + 100 * y + 10 * x + c for c in range(2)] for x in range(3)] for y in range(2)] for n in (0, 5)]
    )
    first = [0, 1, 10, 11, 20, 21, 100, 101, 110, 111, 120, 121]
    assert flatten(images).tolist() == [first, [5 + value for value in first]]
    assert flatten(images[:0]).shape == (0, 12), "an empty batch is a batch"


# Backpropagation: the chain rule, from the end to the start


def test_backpropagation_through_two_layers_and_a_relu_with_a_pencil():
    #   inputs 1 2  ->  first  1  3  ->  before the ReLU: (1*1 + 2*1, 1*3 - 2*2)
    #                          1 -2
    #               ->  hidden: (3, 0)  ->  second (5, 7)  ->  3*5 + 0*7 = 15
    inputs, first, second = array([[1, 2]]), array([[1, 3], [1, -2]]), array([[5], [7]])

    def network(inputs, first, second):
        return dense(relu(dense(inputs, first)), second)[0, 0]

    assert network(inputs, first, second) == 3 * 5 + 0 * 7
    d_inputs, d_first, d_second = jax.grad(network, argnums=(0, 1, 2))(inputs, first, second)
    d_hidden = [5, 7]  # the second kernel
    d_before = [5 * 1, 7 * 0]  # the ReLU lets through what was above zero: 3 was, -1 was not
    assert d_hidden == second.ravel().tolist()
    assert d_second.tolist() == [[3], [0]]  # the hidden values
    assert d_first.tolist() == [[1 * 5, 1 * 0], [2 * 5, 2 * 0]] == np.outer([1, 2], d_before).tolist()
    assert d_inputs.tolist() == [[1 * 5 + 3 * 0, 1 * 5 - 2 * 0]]


# Dropout


ONES = np.ones((100, 200), np.float32)


def test_dropout_drops_or_scales_and_nothing_else():
    #   rate 0.75: what stays is divided by 1 - 0.75, so 1 becomes 0 or 4, and 3 becomes 0 or 12
    assert set(np.unique(dropout(jax.random.key(0), ONES, 0.75)).tolist()) == {0, 1 / (1 - 0.75)}
    assert set(np.unique(dropout(jax.random.key(0), 3 * ONES, 0.75)).tolist()) == {0, 3 / (1 - 0.75)}


@pytest.mark.parametrize("rate", [0.2, 0.7])
def test_the_rate_is_the_share_that_is_dropped_and_the_mean_stays(rate):
    dropped = np.asarray(dropout(jax.random.key(0), 5 * ONES, rate))
    one_sigma = (rate * (1 - rate) / ONES.size) ** 0.5  # of the share of a fair drawing, here at most 0.0033
    assert abs((dropped == 0).mean() - rate) < 4 * one_sigma
    assert abs(dropped.mean() - 5) < 4 * 5 * one_sigma / (1 - rate)


def test_every_element_is_dropped_by_itself():
    dropped = np.asarray(dropout(jax.random.key(0), ONES, 0.5)) == 0
    #   shares of rows and columns spread as those of 200 and 100 coins do: by sqrt(1/4 / n) = 0.035 and 0.05
    assert 0.025 < dropped.mean(axis=1).std() < 0.046
    assert 0.038 < dropped.mean(axis=0).std() < 0.063


def test_a_rate_of_zero_changes_nothing():
    inputs = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert dropout(jax.random.key(0), inputs, 0.0).tolist() == inputs.tolist()


def test_the_same_key_drops_the_same_and_another_key_others():
    first, again, other = (dropout(jax.random.key(seed), ONES, 0.5) for seed in (0, 0, 1))
    assert (first == again).all()
    assert 0.45 < (first != other).mean() < 0.55  # two coins differ half the time


def test_the_gradient_passes_where_the_input_passed_divided_alike(float64):
    key, inputs = jax.random.key(3), np.random.default_rng(0).normal(size=(3, 4))
    upstream = np.random.default_rng(1).normal(size=(3, 4))
    passed = np.asarray(dropout(key, jnp.ones((3, 4)), 0.6)) > 0
    assert 0 < passed.sum() < 12

    def loss(inputs):
        return (dropout(key, jnp.asarray(inputs), 0.6) * upstream).sum()

    by_hand = np.where(passed, upstream / (1 - 0.6), 0)
    assert_equal_arrays(jax.grad(loss)(jnp.asarray(inputs)), by_hand, "upstream / keep where kept", rtol=1e-12)
    assert_gradient(by_hand, loss, inputs, "dropout")


@pytest.mark.parametrize("rate", [1, 1.5, -0.1, float("nan")])
def test_a_rate_that_is_no_share_is_refused(rate):
    message = f"dropout: got a rate of {rate}, wants 0 or more and less than 1 (the share that is dropped)"
    for give in (lambda: check_rate(rate), lambda: dropout(jax.random.key(0), ONES, rate)):
        with pytest.raises(UserError) as error:
            give()
        assert str(error.value) == message


@pytest.mark.parametrize("rate", [0, 0.5, 0.999])
def test_a_rate_from_zero_up_to_one_is_taken(rate):
    assert check_rate(rate) is None


def test_a_bias_of_another_shape_is_refused():
    with pytest.raises(ShapeError, match=r"dense: got a bias of shape \(2, 1\), wants \(4,\)"):
        dense(jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.ones((2, 1)))


def test_a_rate_of_0_keeps_everything_even_as_an_int():
    assert_equal_arrays(dropout(jax.random.key(0), jnp.ones((2, 3)), 0), np.ones((2, 3)), "nothing dropped")
