"""How a training ends: where numbers run away, after its patience, or told to, so that it can go on.

Next: test_baselines.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cnn import training
from cnn.errors import UserError
from cnn.layers import Dense, ReLU
from cnn.network import Network
from cnn.optimizer import make_optimizer
from cnn.step import make_step
from tests.test_training import bytes_of, fade, run, tiny_network

# Numbers that run away


def test_a_loss_that_is_no_number_ends_the_run_and_says_when():
    explodes = optax.sgd(lambda count: jnp.where(count < 3, 0.0, 1e30))  # from the first step of the second epoch
    with pytest.raises(UserError, match=r"^training: in step 5 the loss or a gradient is infinite or NaN; try a sm"):
        list(run(epochs=3, optimizer=explodes))


@jax.custom_vjp
def treacherous(inputs):
    """The identity, in one direction; its gradient is NaN."""
    return inputs


treacherous.defvjp(lambda inputs: (inputs, None), lambda _, upstream: (upstream * jnp.nan,))


def test_a_gradient_that_is_no_number_ends_the_run_though_the_loss_is_sound():
    class Treacherous(ReLU):
        def __call__(self, inputs, *, key=None):
            return treacherous(inputs)

    network = Network([*tiny_network().layers, Treacherous()])
    with pytest.raises(UserError, match=r"^training: in step 1 the loss or a gradient is infinite"):
        list(run(network))


@pytest.mark.parametrize("small", [24, 25], ids=["a large kernel", "a small one"])  # of the dense layer's 24 numbers
def test_a_gradient_that_is_no_number_in_a_single_kernel_is_enough(small, monkeypatch):
    class Treacherous(Dense):
        def __call__(self, inputs, *, key=None):
            return inputs @ treacherous(self.kernel[...])

    monkeypatch.setattr("cnn.step.SMALL", small)
    network = Network([*tiny_network().layers[:-1], Treacherous(24, 1, key=jax.random.key(1))])
    with pytest.raises(UserError, match=r"^training: in step 1 the loss or a gradient is infinite"):
        list(run(network))


def test_weights_that_ran_away_in_the_last_step_are_told_of_before_they_are_used():
    explodes = optax.sgd(1e38)  # the first step makes weights of which no logit comes, and there is no second
    with pytest.raises(UserError, match=r"^the network: what it says of 5 of 5 images is infinite or NaN"):
        list(run(number=4, epochs=1, optimizer=explodes))


# Patience


def test_early_stopping_keeps_the_best_epoch_and_waits_as_long_as_it_was_told():
    stopping, answers = training.EarlyStopping(patience=2), []
    for number, loss in enumerate([0.9, 0.5, 0.6, 0.5, 0.4, 0.4], start=1):
        epoch = training.Epoch(number, 0.1, 0.9, loss, 0.9, 1.0, None, None)
        answers.append((stopping.finished(epoch), stopping.best.number))
    # an equal loss is no better; a lower one starts the waiting anew
    assert answers == [(False, 1), (False, 2), (False, 2), (True, 2), (False, 5), (False, 5)]


# Going on


def copied(point: training.Point) -> training.Point:
    """A point that later steps leave alone."""
    return point._replace(state=jax.tree.map(jnp.copy, point.state))


def test_a_run_that_is_taken_up_anywhere_ends_with_the_same_bytes():
    step = make_step(nnx.graphdef(tiny_network(0.3)), make_optimizer(1), fade)  # compiled once for all
    events, points = [], []
    for event in run(epochs=3, step=step, pause=lambda: True):
        events.append(event)
        points.append(copied(event.point if isinstance(event, training.Epoch) else event))
    whole = [event for event in events if isinstance(event, training.Epoch)]
    assert [point.step for point in points] == list(range(1, 3 * 3 + 1)), "after each of 3 steps of 3 epochs"
    assert [len(point.sums) for point in points] == [1, 2, 0] * 3
    for point in points[:-1]:
        rest = list(run(epochs=3, step=step, start=copied(point)))
        assert [epoch.number for epoch in rest] == list(range(point.step // 3 + 1, 4))
        assert bytes_of(rest[-1].parameters) == bytes_of(whole[-1].parameters), f"taken up after step {point.step}"
        for got, want in zip(jax.tree.leaves(rest[-1].point.state), jax.tree.leaves(whole[-1].point.state)):
            assert np.array_equal(got, want), "Adam's memory differs"
        assert [epoch[:5] for epoch in rest] == [epoch[:5] for epoch in whole[-len(rest) :]]
    assert list(run(epochs=3, step=step, start=points[-1])) == [], "a run at its end has nothing left to do"
