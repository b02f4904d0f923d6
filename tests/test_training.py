"""Training: one compilation, the same weights from the same seed, and a run that goes on. Next: test_ends.py.

A step is worked out on paper first. Then the loop is held to what it promises: that filling up a batch changes nothing,
that half a batch and another half are one, and that nothing but the seed decides.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn import training
from cnn.augment import batched, compose
from cnn.errors import UserError
from cnn.layers import Convolution, Dense, Dropout, Flatten, MaxPool, ReLU
from cnn.loss import cross_entropy
from cnn.network import Network
from cnn.optimizer import make_optimizer
from cnn.step import State, make_step
from cnn.training import make_predictor
from cnn.weights import named_arrays
from tests.checkers import assert_equal_arrays

NONE = compose()


def fade(key: jax.Array, image: jax.Array) -> jax.Array:
    """An augmentation that is quick to compile: darker by a random factor."""
    return image * jax.random.uniform(key, minval=0.5)


def tiny_network(dropout: float = 0.0) -> Network:
    """6 x 8 x 3 -> 3 x 3 convolution to 4 channels -> 2 x 3 x 4 -> one logit."""
    keys = jax.random.split(jax.random.key(0), 2)
    layers = [Convolution(3, 4, key=keys[0]), ReLU(), MaxPool(2), Flatten(), Dropout(dropout)]
    return Network([*layers, Dense(24, 1, key=keys[1])])


def pictures(number: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise, in every other image darker above than below: images (number, 6, 8, 3) uint8, labels (number,)."""
    images = np.random.default_rng(seed).integers(60, 200, (number, 6, 8, 3))
    labels = np.arange(number) % 2
    images[labels == 1, :3] //= 3
    return images.astype(np.uint8), labels.astype(np.int32)


def run(network=None, number=11, epochs=2, dropout=0.3, augmentation=fade, seed=0, **options):
    """The epochs of a short run, one by one; its last batch holds 3 of 4 places. Validation: 5 other images."""
    options = {"batch": 4, "optimizer": make_optimizer(1), **options}
    network = network or tiny_network(dropout)
    data = pictures(number), pictures(5, seed=1)
    return training.train(network, *data, epochs=epochs, augmentation=augmentation, seed=seed, **options)


def bytes_of(parameters: nnx.State) -> list[bytes]:
    """Every parameter, bit by bit."""
    return [array.tobytes() for array in named_arrays(parameters).values()]


def begin(network: Network, optimizer: optax.GradientTransformation) -> tuple[nnx.GraphDef, nnx.State, State]:
    """The network's graph, its parameters, and a state of copies that a step may use up."""
    graph, parameters = nnx.split(network, nnx.Param)
    return graph, parameters, State(jax.tree.map(jnp.copy, parameters), optimizer.init(parameters))


def test_a_step_is_a_gradient_of_the_mean_loss_and_adam_on_images_that_were_augmented():
    (images, labels), chosen, key = pictures(4), np.array([2, 0, 3]), jax.random.key(3)
    optimizer = make_optimizer(1, learning_rate=0.01)
    graph, parameters, state = begin(tiny_network(dropout=0.5), optimizer)
    with jax.debug_key_reuse(True):  # JAX objects if augmentation and dropout draw from one key
        step = make_step(graph, optimizer, fade)
        given, (state, (loss, correct)) = (
            state,
            step(state, key, images[chosen], labels[chosen], np.ones(3, np.float32)),
        )
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given.parameters)), "the state is donated"

    augment_key, dropout_key = jax.random.split(jax.random.clone(key))
    light, truth = batched(fade)(augment_key, images[chosen] / np.float32(255)), labels[chosen]

    @jax.jit
    def mean_loss(parameters):
        logits = nnx.merge(graph, parameters)(light, key=dropout_key)
        return cross_entropy(logits, truth).mean(), logits

    (value, logits), gradient = jax.value_and_grad(mean_loss, has_aux=True)(parameters)
    assert float(loss) == pytest.approx(3 * float(value), rel=1e-5)
    assert int(correct) == ((logits[:, 0] > 0) == (truth == 1)).sum()
    # the first step of Adam: m / (1 - 0.9) = g and sqrt(v / (1 - 0.999)) = |g|
    after, before = named_arrays(state.parameters), named_arrays(parameters)
    for name, g in named_arrays(gradient).items():
        want = before[name] - 0.01 * g / (np.abs(g) + 1e-8)
        assert_equal_arrays(after[name], want, f"{name} after a step", atol=1e-5)


# A step of plain gradient descent with a rate of 1 takes the gradient off the weights.
descent = functools.cache(lambda: make_step(nnx.graphdef(tiny_network()), optax.sgd(1.0), NONE))


def gradient_of(indices, weights) -> dict[str, np.ndarray]:
    """The gradient by every parameter, and the sums of the losses and of the images that were right."""
    _, parameters, state = begin(tiny_network(), optax.sgd(1.0))
    images, labels = pictures(8)
    batch = images[indices], labels[indices], np.array(weights, np.float32)
    state, sums = descent()(state, jax.random.key(0), *batch)
    before, after = named_arrays(parameters), named_arrays(state.parameters)
    return {name: before[name] - after[name] for name in before} | dict(zip(("loss", "correct"), map(np.asarray, sums)))


def test_what_fills_up_a_batch_changes_nothing():
    five = gradient_of([3, 1, 4, 0, 5], [1] * 5)
    for filling in ([0, 0, 0], [7, 6, 2]):
        filled = gradient_of([3, 1, 4, 0, 5, *filling], [1] * 5 + [0] * 3)
        for name, array in five.items():
            assert_equal_arrays(filled[name], array, f"{name}: five images in a batch of eight", rtol=1e-4)


def test_the_mean_of_two_halves_is_the_gradient_of_the_whole():
    whole, one, other = (gradient_of(part, [1] * len(part)) for part in (range(8), range(4), range(4, 8)))
    for name, array in whole.items():
        halves = (one[name] + other[name]) / (1 if name in ("loss", "correct") else 2)  # sums, and means
        assert_equal_arrays(halves, array, f"{name}: accumulated over two halves", rtol=1e-4)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 9), st.integers(1, 7), st.integers(1, 30), st.integers(0, 3), st.integers(1, 3))
def test_an_epoch_draws_every_image_equally_often_give_or_take_one(number, batch, per_epoch, seed, epoch):
    indices, weights = training.epoch_batches(number, batch, per_epoch, seed, epoch)
    assert indices.shape == weights.shape == (math.ceil(per_epoch / batch), batch)
    assert (indices.dtype, weights.dtype) == (np.int32, np.float32)
    assert weights.ravel().tolist() == [1] * per_epoch + [0] * (weights.size - per_epoch)
    times = np.bincount(indices[weights == 1], minlength=number)
    assert times.sum() == per_epoch
    assert times.max() - times.min() <= 1
    shown = np.bincount(indices.ravel(), minlength=number)
    assert shown.max() - shown.min() <= 1, "what fills up is drawn like the rest: a batch norm sees it"


def test_the_order_depends_on_the_seed_and_the_epoch_alone():
    orders = [training.epoch_batches(20, 4, 40, s, e)[0].ravel().tolist() for s in (0, 1, 2) for e in (1, 2, 3)]
    assert orders[0] == training.epoch_batches(20, 4, 40, seed=0, epoch=1)[0].ravel().tolist()
    assert len(set(map(tuple, orders))) == 9
    once, again = orders[0][:20], orders[0][20:]
    assert sorted(once) == sorted(again) == list(range(20))
    assert once != again, "it is shuffled again for every round"


@pytest.fixture(scope="module")
def recorded() -> dict:
    """A run of 3 epochs of 11 images in batches of 4, and what was seen from outside while it went on."""
    seen = {"network": tiny_network(0.3), "functions": [], "steps": [], "epochs": [], "bytes": []}
    seen["before"] = bytes_of(nnx.state(seen["network"], nnx.Param))

    def remember(make):
        return lambda *arguments: seen["functions"].append(make(*arguments)) or seen["functions"][-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "make_step", remember(make_step))
        patch.setattr(training, "make_predictor", remember(make_predictor))
        for epoch in run(seen["network"], epochs=3, on_step=lambda *arguments: seen["steps"].append(arguments)):
            seen["epochs"].append(epoch)
            seen["bytes"].append(bytes_of(epoch.parameters))
    return seen


def test_a_whole_run_compiles_each_function_once(recorded):
    step, predict = recorded["functions"]
    assert (step.learn._cache_size(), predict.compiled._cache_size()) == (1, 1)  # though the last batches are not full


def test_the_network_that_is_given_keeps_its_weights_and_an_epoch_its_parameters(recorded):
    assert bytes_of(nnx.state(recorded["network"], nnx.Param)) == recorded["before"]
    assert [bytes_of(epoch.parameters) for epoch in recorded["epochs"]] == recorded["bytes"]
    assert len({*map(tuple, recorded["bytes"]), tuple(recorded["before"])}) == 4  # and every epoch changes them


def test_an_epoch_sums_up_its_steps_and_judges_the_validation_images_as_they_are(recorded):
    counted = [(done, steps, sums.images) for done, steps, sums in recorded["steps"]]
    assert counted == [(i + 1, 9, (4, 4, 3)[i % 3]) for i in range(9)]  # 3 epochs of 4 + 4 + 3 images
    validation, labels = pictures(5, seed=1)
    for number, epoch in enumerate(recorded["epochs"]):
        sums = [sums for _, _, sums in recorded["steps"][3 * number : 3 * number + 3]]
        assert (epoch.number, epoch.seconds > 0) == (number + 1, True)
        assert epoch.loss == pytest.approx(sum(float(s.loss) for s in sums) / 11)
        assert epoch.accuracy == pytest.approx(sum(float(s.correct) for s in sums) / 11)
        logits = nnx.merge(nnx.graphdef(recorded["network"]), epoch.parameters)(validation / np.float32(255))
        judged = training.judge_logits(logits, labels)
        assert (epoch.validation_loss, epoch.validation_accuracy) == pytest.approx(judged)


def test_eight_images_are_learned_by_heart():
    optimizer = make_optimizer(1, learning_rate=0.02)
    epochs = list(run(number=8, epochs=150, dropout=0.0, augmentation=NONE, batch=8, optimizer=optimizer))
    assert epochs[0].loss > 0.5 > epochs[20].loss > epochs[-1].loss
    assert epochs[-1].loss < 0.01, f"loss {epochs[-1].loss} after 150 steps"
    assert epochs[-1].accuracy == epochs[-1].validation_accuracy == 1.0


def test_the_same_seed_gives_the_same_weights_to_the_bit_and_another_others(recorded):
    again, other = (bytes_of(next(run(epochs=3, seed=seed)).parameters) for seed in (0, 1))
    assert again == recorded["bytes"][0]
    assert other != again


def test_every_step_of_every_seed_has_randomness_of_its_own():
    # one image, drawn 12 times an epoch, and a rate of 0: losses differ by augmentation and dropout alone
    losses, standing = [], {"number": 1, "per_epoch": 12, "optimizer": make_optimizer(1, learning_rate=0.0)}
    for seed in (0, 1):
        list(run(seed=seed, **standing, on_step=lambda done, steps, sums: losses.append(float(sums.loss))))
    assert len(losses) == len(set(losses)) == 2 * 2 * 3


def test_nothing_to_learn_from_is_a_sentence():
    for options, got in (({"per_epoch": 0}, "11 images and 0 an epoch"), ({"members": []}, "0 images and 0 an epoch")):
        with pytest.raises(UserError, match=f"^training: got {got}, wants at least 1 of each$"):
            next(run(epochs=1, **options))


@pytest.mark.parametrize("at_once", [1, 2])
def test_of_many_images_the_members_alone_are_learned_from_and_each_as_often(at_once):
    members, network, optimizer = np.array([9, 2, 5]), tiny_network(), make_optimizer(1)
    take, seen = make_step(nnx.graphdef(network), optimizer, NONE), []

    def step(state, key, images, labels, weights):
        seen.extend(zip(images[:, 0, 0, 0].tolist(), labels.tolist()))
        return take(state, key, images, labels, weights)

    def many(state, key, first, images, labels, chosen, weights):
        seen.extend(zip(images[chosen.ravel(), 0, 0, 0].tolist(), labels[chosen.ravel()].tolist()))
        return take.many(state, key, first, images, labels, chosen, weights)

    step.many = many
    images, labels = np.zeros((11, 6, 8, 3), np.uint8), np.arange(11, dtype=np.int32) % 2
    images[:, 0, 0, 0] = np.arange(11)  # the first pixel tells which image it is
    options = {"batch": 3, "per_epoch": 6, "optimizer": optimizer, "augmentation": NONE, "seed": 0, "step": step}
    data = images, labels
    list(training.train(network, data, None, epochs=2, members=members, at_once=at_once, **options))
    assert sorted(seen) == sorted([(9, 1), (2, 0), (5, 1)] * 4)


def test_the_keys_of_a_seed_are_three_and_every_seed_has_its_own():
    keys = [tuple(jax.random.key_data(key).tolist()) for seed in (0, 1) for key in training.keys_of(seed)]
    assert len(set(keys)) == 6


def test_a_prediction_depends_on_neither_the_batch_nor_the_neighbours():
    (images, _), network = pictures(7), tiny_network(dropout=0.9)
    expected = np.asarray(network(images / np.float32(255)))
    for batch in (1, 3, 16):
        got = make_predictor(nnx.graphdef(network), batch)(nnx.state(network, nnx.Param), images)
        assert_equal_arrays(got, expected, f"logits in batches of {batch}", rtol=1e-4)


def test_logits_are_judged_by_mean_loss_and_accuracy():
    # sigmoid(0) = 1/2: log 2 either way; 2 for class 1: log(1 + e^-2); a tie counts as class 0
    loss, accuracy = training.judge_logits(np.array([[0.0], [2.0], [0.0]]), np.array([0, 1, 1]))
    assert loss == pytest.approx((math.log(2) + math.log(1 + math.exp(-2)) + math.log(2)) / 3)
    assert accuracy == pytest.approx(2 / 3)
