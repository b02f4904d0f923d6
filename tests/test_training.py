"""Chapter 15, training: Adam by hand, one compilation, and the same weights from the same seed. Next: test_weights.py.

A step is worked out on paper first. Then the loop is held to what it promises: that filling up a batch changes nothing,
that half a batch and another half are one, and that nothing but the seed decides.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cnn.augment import named
from cnn.errors import UserError
from cnn.layers import Convolution, Dense, Dropout, Flatten, MaxPool, Network, ReLU
from cnn.loss import cross_entropy
from cnn.training import (
    EarlyStopping,
    Epoch,
    State,
    as_light,
    epoch_batches,
    judge_logits,
    keys_of,
    make_optimizer,
    make_predictor,
    make_step,
    train,
)
from cnn.weights import named_arrays
from tests.checkers import assert_equal_arrays


def tiny_network(seed: int = 0, dropout: float = 0.0) -> Network:
    """6 x 8 x 3 -> 3 x 3 convolution to 4 channels -> 2 x 3 x 4 -> one logit."""
    keys = jax.random.split(jax.random.key(seed), 2)
    layers = [Convolution(3, 4, key=keys[0]), ReLU(), MaxPool(2), Flatten(), Dropout(dropout)]
    return Network([*layers, Dense(24, 1, key=keys[1])])


def pictures(number: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise, in every other image darker above than below: images (number, 6, 8, 3) uint8, labels (number,)."""
    images = np.random.default_rng(seed).integers(60, 200, (number, 6, 8, 3))
    labels = np.arange(number) % 2
    images[labels == 1, :3] //= 3
    return images.astype(np.uint8), labels.astype(np.int32)


def run(seed: int = 0, number: int = 11, epochs: int = 2, dropout: float = 0.3, augmentation: str = "seed", **options):
    """All epochs of a short run with a partial last batch."""
    data = pictures(number)
    options = {"batch": 4, "optimizer": make_optimizer(1), **options}
    network = tiny_network(dropout=dropout)
    return list(train(network, data, data, epochs=epochs, augmentation=named(augmentation), seed=seed, **options))


def bytes_of(parameters: nnx.State) -> list[bytes]:
    """Every parameter, bit by bit."""
    return [array.tobytes() for array in named_arrays(parameters).values()]


# By hand


def steps_of(optimizer: optax.GradientTransformation, start: dict, gradients: list[dict]) -> list[dict]:
    """The parameters after each of the gradients."""
    state, parameters, all_parameters = optimizer.init(start), start, []
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        all_parameters.append(parameters)
    return all_parameters


def test_the_first_three_steps_of_adam():
    # m <- 0.9 m + 0.1 g, v <- 0.999 v + 0.001 g^2; w <- w - rate * (m / (1 - 0.9^t)) / (sqrt(v / (1 - 0.999^t)) + 1e-8)
    w, m, v, expected = 1.0, 0.0, 0.0, []
    for t, g in enumerate([2.0, -1.0, 0.5], start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w -= 0.1 * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
        expected.append(w)
    got = steps_of(
        make_optimizer(3, learning_rate=0.1), {"w": jnp.array(1.0)}, [{"w": jnp.array(g)} for g in (2.0, -1.0, 0.5)]
    )
    assert expected[0] == pytest.approx(
        1 - 0.1
    )  # the first step has the length of the rate, however large the gradient
    assert_equal_arrays([p["w"] for p in got], expected, "three steps of Adam")


def test_weight_decay_takes_its_share_of_kernels_and_leaves_biases():
    start = {"kernel": jnp.full((2, 1), 5.0), "bias": jnp.full((1,), 5.0)}
    nothing = {"kernel": jnp.zeros((2, 1)), "bias": jnp.zeros((1,))}
    got = steps_of(make_optimizer(2, learning_rate=0.1, weight_decay=0.2), start, [nothing, nothing])
    assert_equal_arrays(got[1]["kernel"], [[5 * (1 - 0.1 * 0.2) ** 2]] * 2, "a kernel that decays twice")
    assert_equal_arrays(got[1]["bias"], [5.0], "a bias, which does not decay")


@pytest.mark.parametrize(
    ("schedule", "rates"),  # at the start, after 3 and after 10 of 10 steps
    [
        ("constant", (0.4, 0.4, 0.4)),
        ("cosine", (0.4, 0.4 * (1 + math.cos(0.3 * math.pi)) / 2, 0.0)),
        ("one-cycle", (0.4 / 25, 0.4, 0.4 / 25 / 1e4)),
    ],
)
def test_a_schedule_changes_the_rate_as_it_says(schedule, rates):
    # a constant gradient makes every step of Adam as long as its rate
    optimizer = make_optimizer(10, learning_rate=0.4, schedule=schedule)
    got = [0.0] + [float(p["w"]) for p in steps_of(optimizer, {"w": jnp.array(0.0)}, [{"w": jnp.array(1.0)}] * 11)]
    lengths = -np.diff(got)
    assert_equal_arrays(lengths[[0, 3, 10]], rates, f"the rates of {schedule}", rtol=1e-4)


def test_an_unknown_schedule_is_named_with_those_there_are():
    with pytest.raises(UserError, match='schedule: got "linear", wants one of constant, cosine, one-cycle'):
        make_optimizer(1, schedule="linear")


def test_light_is_from_0_to_1():
    got = as_light(jnp.array([0, 51, 255], jnp.uint8))
    assert got.dtype == jnp.float32
    assert_equal_arrays(got, [0, 0.2, 1], "51 / 255 is a fifth")


def test_a_step_is_a_gradient_of_the_mean_loss_and_adam():
    images, labels = pictures(4)
    network = tiny_network()
    graph, parameters = nnx.split(network, nnx.Param)
    optimizer = make_optimizer(1, learning_rate=0.01)
    state = State(jax.tree.map(jnp.copy, parameters), optimizer.init(parameters))
    step = make_step(graph, optimizer, named("none"))
    state, (loss, correct) = step(state, jax.random.key(0), images, labels, np.array([2, 0, 3]), np.ones(3, np.float32))

    chosen, truth = images[[2, 0, 3]] / np.float32(255), labels[[2, 0, 3]]

    def mean_loss(parameters):
        return cross_entropy(nnx.merge(graph, parameters)(chosen), truth).mean()

    value, gradient = jax.value_and_grad(mean_loss)(parameters)
    updates, _ = optax.adam(0.01).update(gradient, optax.adam(0.01).init(parameters))
    expected = named_arrays(optax.apply_updates(parameters, updates))
    assert float(loss) == pytest.approx(3 * float(value), rel=1e-5)
    logits = np.asarray(network(chosen))[:, 0]
    assert int(correct) == ((logits > 0) == (truth == 1)).sum()
    for name, array in named_arrays(state.parameters).items():
        assert_equal_arrays(array, expected[name], f"{name} after a step", rtol=1e-4)


# What a batch is


def gradient_of(indices: list[int], weights: list[float]) -> dict[str, np.ndarray]:
    """What a step with plain gradient descent of rate 1 takes off the weights: the gradient."""
    images, labels = pictures(8)
    graph, parameters = nnx.split(tiny_network(), nnx.Param)
    descent = optax.sgd(1.0)
    step = make_step(graph, descent, named("none"))
    before = named_arrays(jax.tree.map(jnp.copy, parameters))
    before = {name: array.copy() for name, array in before.items()}
    state = State(jax.tree.map(jnp.copy, parameters), descent.init(parameters))
    state, _ = step(state, jax.random.key(0), images, labels, np.array(indices), np.array(weights, np.float32))
    return {name: before[name] - array for name, array in named_arrays(state.parameters).items()}


def test_what_fills_up_a_batch_changes_nothing():
    five = gradient_of([3, 1, 4, 0, 5], [1] * 5)
    for filling in ([0, 0, 0], [7, 6, 2]):
        filled = gradient_of([3, 1, 4, 0, 5, *filling], [1] * 5 + [0] * 3)
        for name, array in five.items():
            assert_equal_arrays(filled[name], array, f"{name}: five images in a batch of eight", rtol=1e-4)


def test_the_mean_of_two_halves_is_the_gradient_of_the_whole():
    whole, one, other = gradient_of([0, 1, 2, 3], [1] * 4), gradient_of([0, 1], [1] * 2), gradient_of([2, 3], [1] * 2)
    for name, array in whole.items():
        assert_equal_arrays((one[name] + other[name]) / 2, array, f"{name}: accumulated over two halves", rtol=1e-4)


def test_an_epoch_draws_every_image_equally_often_give_or_take_one():
    indices, weights = epoch_batches(number=5, batch=4, per_epoch=13, seed=0, epoch=1)
    assert (indices.shape, indices.dtype, weights.shape) == ((4, 4), np.int32, (4, 4))  # 13 places in batches of 4
    drawn = indices[weights == 1]
    assert len(drawn) == 13
    assert set(np.bincount(drawn, minlength=5)) <= {2, 3}
    assert weights.ravel().tolist() == [1] * 13 + [0] * 3


def test_the_order_depends_on_the_seed_and_the_epoch_alone():
    def order(seed, epoch):
        return epoch_batches(number=20, batch=4, per_epoch=20, seed=seed, epoch=epoch)[0].ravel().tolist()

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)
    assert sorted(order(0, 2)) == list(range(20))


# The loop


def test_eight_images_are_learned_by_heart():
    epochs = run(
        number=8, epochs=150, dropout=0.0, augmentation="none", batch=8, optimizer=make_optimizer(1, learning_rate=0.02)
    )
    assert epochs[0].loss > 0.5
    assert epochs[-1].loss < 0.01, f"loss {epochs[-1].loss} after 150 steps"
    assert epochs[-1].accuracy == epochs[-1].validation_accuracy == 1.0


def test_the_same_seed_gives_the_same_weights_to_the_bit_and_another_others():
    first, again, other = run(seed=0), run(seed=0), run(seed=1)
    assert bytes_of(first[-1].parameters) == bytes_of(again[-1].parameters)
    assert bytes_of(first[-1].parameters) != bytes_of(other[-1].parameters)
    assert first[0].loss != first[1].loss


def test_dropout_and_augmentation_change_what_is_learned():
    plain = bytes_of(run(dropout=0.0, augmentation="none")[-1].parameters)
    assert plain != bytes_of(run(dropout=0.3, augmentation="none")[-1].parameters)
    assert plain != bytes_of(run(dropout=0.0, augmentation="seed")[-1].parameters)


def test_every_step_has_randomness_of_its_own():
    # with a rate of 0 nothing is learned, so losses differ by augmentation and dropout alone
    losses = [e.loss for e in run(number=4, epochs=3, optimizer=make_optimizer(1, learning_rate=0.0))]
    assert len(set(losses)) == 3


def test_a_whole_run_compiles_each_function_once(monkeypatch):
    import cnn.training as module

    made = []
    for name in ("make_step", "make_predictor"):
        original = getattr(module, name)

        def remember(*arguments, original=original):
            made.append(original(*arguments))
            return made[-1]

        monkeypatch.setattr(module, name, remember)
    assert len(run(number=11, epochs=3, batch=4)) == 3  # 11 images: the last batch holds 3
    step, predict = made
    assert (step._cache_size(), predict.compiled._cache_size()) == (1, 1)


def test_the_network_that_is_given_keeps_its_weights():
    network = tiny_network()
    before = bytes_of(nnx.state(network, nnx.Param))
    data = pictures(8)
    for epoch in train(
        network, data, data, epochs=2, batch=4, optimizer=make_optimizer(1), augmentation=named("none"), seed=0
    ):
        after = bytes_of(epoch.parameters)
    assert bytes_of(nnx.state(network, nnx.Param)) == before != after


def test_the_parameters_of_an_epoch_stay_what_they_were():
    epochs = []
    data = pictures(8)
    for epoch in train(
        tiny_network(), data, data, epochs=2, batch=4, optimizer=make_optimizer(1), augmentation=named("none"), seed=0
    ):
        epochs.append((epoch, bytes_of(epoch.parameters)))
    assert bytes_of(epochs[0][0].parameters) == epochs[0][1] != epochs[1][1]


def test_a_loss_that_is_no_number_ends_the_run_and_says_when():
    with pytest.raises(UserError, match=r"the loss became (nan|inf) in epoch 1; try a smaller --learning-rate"):
        run(epochs=3, optimizer=optax.sgd(1e30))


def test_steps_are_counted_over_the_whole_run():
    seen = []
    run(number=11, epochs=2, batch=4, on_step=lambda done, steps, sums: seen.append((done, steps, sums.images)))
    assert seen == [(1, 6, 4), (2, 6, 4), (3, 6, 3), (4, 6, 4), (5, 6, 4), (6, 6, 3)]


def test_the_keys_of_a_seed_are_three_different_ones():
    keys = [tuple(jax.random.key_data(key).tolist()) for key in keys_of(0)]
    assert len(set(keys)) == 3


# Using a network


def test_a_prediction_depends_on_neither_the_batch_nor_the_neighbours():
    images, _ = pictures(7)
    network = tiny_network(dropout=0.9)
    parameters, graph = nnx.state(network, nnx.Param), nnx.graphdef(network)
    expected = np.asarray(network(as_light(jnp.asarray(images))))
    for batch in (1, 3, 16):
        got = make_predictor(graph, batch)(parameters, images)
        assert_equal_arrays(got, expected, f"logits in batches of {batch}", rtol=1e-4)


def test_logits_are_judged_by_mean_loss_and_accuracy():
    # sigmoid(0) = 1/2: log 2 either way; 2 for class 1: log(1 + e^-2); a tie counts as class 0
    loss, accuracy = judge_logits(np.array([[0.0], [2.0], [0.0]]), np.array([0, 1, 1]))
    assert loss == pytest.approx((math.log(2) + math.log(1 + math.exp(-2)) + math.log(2)) / 3)
    assert accuracy == pytest.approx(2 / 3)


def epoch_with(number: int, validation_loss: float) -> Epoch:
    """An epoch of which only the validation loss matters."""
    return Epoch(number, 0.5, 0.5, validation_loss, 0.5, 1.0, None)


def test_early_stopping_keeps_the_best_epoch_and_waits_as_long_as_it_was_told():
    stopping = EarlyStopping(patience=2)
    answers = [stopping.finished(epoch_with(n, loss)) for n, loss in enumerate([0.9, 0.5, 0.6, 0.5, 0.4], start=1)]
    assert answers == [False, False, False, True, False]  # an equal loss is no better; a lower one starts anew
    assert stopping.best.number == 5
