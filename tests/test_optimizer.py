"""The optimizer: three steps of Adam by hand, what decays, and how the rate changes. Next: test_weights.py."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn.errors import UserError
from cnn.optimizer import make_optimizer
from tests.checkers import assert_equal_arrays


def steps_of(optimizer: optax.GradientTransformation, start, gradients: list) -> list:
    """The parameters after each of the gradients."""
    state, after, update = optimizer.init(start), [start], jax.jit(optimizer.update)
    for gradient in gradients:
        updates, state = update(gradient, state, after[-1])
        after.append(optax.apply_updates(after[-1], updates))
    return after[1:]


def test_the_first_three_steps_of_adam():
    # m <- 0.9 m + 0.1 g, v <- 0.999 v + 0.001 g^2; w <- w - rate * (m / (1 - 0.9^t)) / (sqrt(v / (1 - 0.999^t)) + 1e-8)
    #   t   g      m                            v                                       m / ..        v / ..
    #   1   2      0.1 * 2 = 0.2                0.001 * 4 = 0.004                       2             4
    #   2  -1      0.9 * 0.2 - 0.1 = 0.08       0.999 * 0.004 + 0.001 = 0.004996        0.421053      2.499250
    #   3   0.5    0.9 * 0.08 + 0.05 = 0.122    0.999 * 0.004996 + 0.00025 = 0.005241   0.450185      1.748749
    w1 = 1 - 0.1 * 2 / math.sqrt(4)  # the first step has the length of the rate, however large the gradient
    w2 = w1 - 0.1 * (0.08 / 0.19) / math.sqrt(0.004996 / 0.001999)
    w3 = w2 - 0.1 * (0.122 / 0.271) / math.sqrt(0.005241004 / 0.002997001)
    gradients = [{"w": jnp.array(g)} for g in (2.0, -1.0, 0.5)]
    got = steps_of(make_optimizer(3, learning_rate=0.1), {"w": jnp.array(1.0)}, gradients)
    assert_equal_arrays([p["w"] for p in got], [w1, w2, w3], "three steps of Adam", atol=1e-5)
    default = steps_of(make_optimizer(1), {"w": jnp.array(1.0)}, [{"w": jnp.array(5.0)}])
    assert_equal_arrays(default[0]["w"], 1 - 0.001, "the rate is 0.001 unless given, as Kingma and Ba have it")


def test_weight_decay_takes_its_share_of_kernels_and_leaves_biases():
    # A convolution's kernel has 4 axes, a dense layer's 2, and biases have 1. The first gradient is 0; the second is 1,
    # with m = 0.1 / (1 - 0.9^2) and v = 0.001 / (1 - 0.999^2). Decay comes after Adam's division, at its full size.
    shapes = {"convolution": (1, 2, 1, 1), "dense": (2, 1), "bias": (2,)}
    start, zero, one = ({n: jnp.full(shape, v) for n, shape in shapes.items()} for v in (5.0, 0.0, 1.0))
    first, second = steps_of(make_optimizer(2, learning_rate=0.1, weight_decay=0.2), start, [zero, one])
    adam = 0.1 / 0.19 / math.sqrt(0.001 / 0.001999)
    for name, decay in {"convolution": 0.2, "dense": 0.2, "bias": 0.0}.items():
        after_one = 5 - 0.1 * decay * 5
        after_two = after_one - 0.1 * (adam + decay * after_one)
        assert_equal_arrays(first[name], np.full(shapes[name], after_one), f"{name} with decay and no gradient")
        assert_equal_arrays(second[name], np.full(shapes[name], after_two), f"{name} with decay", atol=1e-5)


COSINE = [0.4 * (1 + math.cos(done / 10 * math.pi)) / 2 for done in (0, 1, 3, 10)]
RATES = {"constant": [0.4] * 4, "cosine": COSINE, "one-cycle": [0.016, 0.016 + 0.384 / 4, 0.4, 0.016 / 1e4]}


@pytest.mark.parametrize("schedule", RATES)
def test_a_schedule_changes_the_rate_as_it_says_at_the_start_and_after_1_and_3_and_10_of_10_steps(schedule):
    # a constant gradient makes every step of Adam as long as its rate; a third of a rising cosine is a quarter
    optimizer = make_optimizer(10, learning_rate=0.4, schedule=schedule)
    got = [0.0] + [float(p["w"]) for p in steps_of(optimizer, {"w": jnp.array(0.0)}, [{"w": jnp.array(1.0)}] * 11)]
    assert_equal_arrays(-np.diff(got)[[0, 1, 3, 10]], RATES[schedule], f"the rates of {schedule}", rtol=1e-4)


def test_a_run_may_change_its_schedule_on_its_way_since_the_state_is_of_one_form():
    states = [make_optimizer(10, schedule=schedule).init({"w": jnp.array(1.0)}) for schedule in RATES]
    assert len({str(jax.tree.structure(state)) for state in states}) == 1


def test_an_unknown_schedule_is_named_with_those_there_are():
    with pytest.raises(UserError, match=r'^schedule: got "linear", wants one of constant, cosine, one-cycle$'):
        make_optimizer(1, schedule="linear")
