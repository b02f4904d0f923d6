"""Steps: on paper, in 8 bits of 24, and several in one call. (Against Adam's formula: in the chapter after.)

Next: test_training.py.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cnn import models
from cnn.augment import named
from cnn.devices import on_device
from cnn.layers import Dense, Flatten
from cnn.network import Network
from cnn.optimizer import make_optimizer
from cnn.step import initial_state, make_step, parts_of
from cnn.store import Chosen
from cnn.training import Epoch, Point
from cnn.weights import named_arrays
from tests.checkers import assert_equal_arrays
from tests.test_ends import copied
from tests.test_training import bytes_of, fade, pictures, run, tiny_network

# On paper


def test_two_steps_on_paper():
    # One image of one pixel, 255 51 0, is the light 1 0.2 0; it is of class 1. Weights of 0 give the logit 0, so P(1)
    # is 1/2, the loss log 2, and a tie counts as class 0: wrong. The slope by the logit is 1/2 - 1, by a weight that
    # times its light. A rate of 1 takes it off: kernel 0.5 0.1 0, bias 0.5.
    network = Network([Flatten(), Dense(3, 1, initializer=jax.nn.initializers.zeros, key=jax.random.key(0))])
    step = make_step(nnx.graphdef(network), optax.sgd(1.0), named("none"))
    state = initial_state(nnx.state(network), optax.sgd(1.0))
    image = np.array([255, 51, 0], np.uint8).reshape(1, 1, 1, 3)
    shown = jax.random.key(0), image, np.array([1], np.int32), np.ones(1, np.float32)
    state, (loss, correct) = step(state, *shown)
    assert (float(loss), int(correct)) == (pytest.approx(math.log(2)), 0)
    layer = nnx.merge(nnx.graphdef(network), state.parameters).layers[1]
    assert_equal_arrays(layer.kernel[...].ravel(), [0.5 * 1, 0.5 * 0.2, 0.5 * 0], "kernel")
    assert_equal_arrays(layer.bias[...], [0.5], "bias")
    # now the logit is 0.5 * 1 + 0.1 * 0.2 + 0.5 = 1.02: right, and -log of 1 / (1 + e^-1.02) is less
    state, (loss, correct) = step(state, *shown)
    assert (float(loss), int(correct)) == (pytest.approx(math.log(1 + math.exp(-1.02))), 1)


# In bfloat16


@pytest.mark.parametrize("model", ["seed", "tissue"])
def test_in_bfloat16_the_gradient_points_where_it_does_in_float32_and_weights_stay_float32(model):
    size, batch = (40, 48), 6
    network = models.MODELS[model]((*size, 3), 2, key=jax.random.key(0), dropout=0.0)
    images = np.random.default_rng(0).integers(0, 256, (batch, *size, 3), np.uint8)
    images[::2, :20] //= 4
    shown = jax.random.key(1), images, np.arange(batch, dtype=np.int32) % 2, np.ones(batch, np.float32)
    gradients, losses = [], []
    for dtype in (jnp.float32, jnp.bfloat16):
        step = make_step(nnx.graphdef(network), optax.sgd(1.0), named("none"), dtype)
        state, (loss, _) = step(initial_state(nnx.state(network), optax.sgd(1.0)), *shown)
        after = named_arrays(state.parameters)
        assert {array.dtype for array in after.values()} == {np.dtype(np.float32)}
        before = named_arrays(nnx.state(network, nnx.Param))
        gradients.append(np.concatenate([(before[name] - after[name]).ravel() for name in before]))
        losses.append(float(loss))
    exact, rough = gradients
    alike = exact @ rough / np.linalg.norm(exact) / np.linalg.norm(rough)  # the cosine of the angle between them
    assert alike > 0.95, f"{model}: {alike}"
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
    assert losses[1] != losses[0], "nothing was rounded: the layers do not compute in bfloat16"


def test_in_bfloat16_a_network_learns():
    *_, last = run(number=8, epochs=40, dropout=0.0, dtype=jnp.bfloat16, optimizer=optax.adam(0.01))
    assert last.accuracy == 1.0


# Several in one call


@functools.cache
def histories() -> tuple[list[Epoch], list[Epoch]]:
    """Three epochs of three steps, two steps a call and one: calls of 2, 1, 2, 1, 2 and 1 steps."""
    step = make_step(nnx.graphdef(tiny_network(0.3)), make_optimizer(1), fade)  # with dropout and augmentation
    return tuple(list(run(epochs=3, step=step, at_once=at_once)) for at_once in (2, 1))


def test_several_steps_in_one_call_are_the_steps_one_by_one():
    for many, one in zip(*histories(), strict=True):
        assert (many.number, many.accuracy) == (one.number, one.accuracy)
        assert many.loss == pytest.approx(one.loss, rel=1e-4)
        theirs = named_arrays(one.parameters)
        for name, array in named_arrays(many.parameters).items():
            assert_equal_arrays(array, theirs[name], name, rtol=1e-3, atol=1e-5)


def test_each_call_reports_the_sums_over_its_steps():
    def reported(at_once: int) -> list[tuple]:
        seen = []
        list(run(epochs=2, at_once=at_once, on_step=lambda *told: seen.append(told)))
        return [(done, total, sums.images, float(sums.loss)) for done, total, sums in seen]

    one, two = reported(1), reported(2)
    assert [step[:3] for step in one] == [(1, 6, 4), (2, 6, 4), (3, 6, 3), (4, 6, 4), (5, 6, 4), (6, 6, 3)]
    assert [call[:3] for call in two] == [(2, 6, 8), (3, 6, 3), (5, 6, 8), (6, 6, 3)]
    losses = [loss for *_, loss in one]
    want = [losses[0] + losses[1], losses[2], losses[3] + losses[4], losses[5]]
    assert [loss for *_, loss in two] == pytest.approx(want, rel=1e-4)


def test_where_the_images_lie_on_an_accelerator_an_epoch_is_few_calls_of_a_length(monkeypatch):
    monkeypatch.setattr("cnn.training.on_device", lambda *data, always: on_device(*data, always=True))
    monkeypatch.setattr("cnn.training.STEPS_A_CALL", 4)
    told = []
    list(run(epochs=2, batch=2, on_step=lambda done, total, sums: told.append(done)))  # 6 steps an epoch
    assert told == [3, 6, 9, 12], "two calls of 3, not one of 4 and one of 2: one compilation"


def test_a_run_of_calls_is_taken_up_between_two_of_them_with_the_same_bytes():
    points = (event for event in run(epochs=3, at_once=2, pause=lambda: True) if isinstance(event, Point))
    point = next(points)
    assert point.step == 2
    kept = copied(point)  # before the next step uses it up
    *_, last = run(epochs=3, at_once=2, start=kept)
    *_, whole = run(epochs=3, at_once=2)
    assert bytes_of(last.parameters) == bytes_of(whole.parameters)


def test_all_images_lie_on_an_accelerator_and_wait_elsewhere_for_a_processor(monkeypatch):
    images, labels = pictures(5)
    assert (on_device(images, labels, None, always=False) is None) == (jax.default_backend() == "cpu")
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    monkeypatch.setattr("cnn.devices.ON_DEVICE", images.nbytes)
    assert on_device(images, labels, None, always=False) is not None
    monkeypatch.setattr("cnn.devices.ON_DEVICE", images.nbytes - 1)
    assert on_device(images, labels, None, always=False) is None, "too many for its memory"
    there = on_device(images, labels, None, always=True)
    assert [np.array_equal(a, b) for a, b in zip(there, (images, labels))] == [True, True]
    assert on_device(images, labels, "a layout over several", always=True) is None
    some = Chosen(images, np.array([4, 1]))
    assert np.array_equal(on_device(some, labels[[4, 1]], None, always=True)[0], images[[4, 1]])


def test_a_batch_that_a_cache_cannot_hold_goes_through_a_processor_in_parts(monkeypatch):
    def parts(batch, height=120, width=160):
        return parts_of(jnp.zeros((batch, height, width, 1)))

    monkeypatch.setattr("jax.default_backend", lambda: "cpu")
    monkeypatch.setattr("jax.devices", lambda: ["the only one"])
    assert [parts(32), parts(64), parts(16)] == [8, 16, 4]  # 19,200 pixels each: four images a part
    assert parts(15) == 1, "three parts bring nothing"
    monkeypatch.setattr("jax.devices", lambda: ["one", "another"])
    assert parts(32) == 1, "each device has its part already"
    monkeypatch.setattr("jax.devices", lambda: ["the only one"])
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert parts(32) == 1, "a GPU wants all at once"
