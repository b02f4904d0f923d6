"""Training: steps, one after the other, as a generator of finished epochs; and a network's use.

All steps are one compilation, and the images wait where there is room for them (`store.py`). The loop knows no
folders, checkpoints or pictures. It yields after every epoch, and the caller decides what to save, when to stop and
what to draw.
"""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from cnn.augment import Augmentation, compiled
from cnn.devices import feeder, on_device, share_batch
from cnn.errors import UserError
from cnn.loss import cross_entropy, probabilities
from cnn.network import Network
from cnn.stains import as_light
from cnn.step import State, Sums, copied, initial_state, make_step
from cnn.store import Chosen
from cnn.unsound import first_unsound

STEPS_A_CALL = 16  # at most, on an accelerator: few enough for Ctrl-C to be heard soon


class Point(NamedTuple):
    """Where a run stands between two steps: all that it takes to go on as if it had never stopped."""

    step: int  # steps taken
    state: State  # the next step donates it: to be saved, or copied, before the next one is asked for
    sums: list[Sums]  # of the steps of an epoch that has begun, as numbers
    seconds: float = 0.0  # that this epoch has taken so far


class Epoch(NamedTuple):
    """A finished epoch. The training figures are means over the epoch, with augmentation and dropout on."""

    number: int  # from 1
    loss: float
    accuracy: float
    validation_loss: float
    validation_accuracy: float
    seconds: float
    parameters: nnx.State  # a copy that later steps leave alone
    point: Point | None = None  # where the run stands after it, as long as that has not gone on


class Keys(NamedTuple):
    """Independent keys for independent purposes."""

    weights: jax.Array  # the network's initial kernels
    steps: jax.Array  # augmentation and dropout, through fold_in(steps, number of the step)
    drawing: jax.Array  # copies and samples that are drawn outside of training


def keys_of(seed: int) -> Keys:
    """All keys of a run from its one seed."""
    return Keys(*jax.random.split(jax.random.key(seed), 3))


def epoch_batches(number: int, batch: int, per_epoch: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Which images make up which batch of an epoch: indices (steps, batch) int32, and weights (steps, batch) 0 or 1.

    The images are shuffled, and shuffled again as often as it takes to fill all places: each image is drawn equally
    often, give or take one. Only the first `per_epoch` count in the loss; those that fill up the last batch are seen by
    a batch norm, and so they are images like the others. The order depends on (seed, epoch) alone, so that a run can be
    taken up anywhere.
    """
    rng = np.random.Generator(np.random.PCG64([seed, epoch]))
    steps = -(-per_epoch // batch)
    places = steps * batch
    order = np.concatenate([rng.permutation(number) for _ in range(-(-places // number))])[:places]
    weights = np.arange(places) < per_epoch
    return order.astype(np.int32).reshape(steps, batch), weights.astype(np.float32).reshape(steps, batch)


def make_predictor(
    graph: nnx.GraphDef, batch: int, *, views: bool = False
) -> Callable[[nnx.State, np.ndarray], np.ndarray]:
    """Compiles the network's use: (parameters, images (number, height, width, 3) uint8) -> logits (number, outputs),
    number at least 1.

    Images go through in batches of one size, the last filled up with zeros and cut off again: one compilation.

    Args:
        views: look at each image in the eight ways in which it can be flipped and turned, and take the mean of the
            logits: tissue has no up or down, and what a network makes of it by chance averages out. For networks that
            take any size, since a turn exchanges height and width.
    Of the function, raises:
        UserError: if a logit is infinite or NaN.
    """

    @jax.jit
    def logits_of(parameters: nnx.State, images: jax.Array) -> jax.Array:
        network, images = nnx.merge(graph, parameters), as_light(images)
        if not views:
            return network(images)
        turned = [images, images.swapaxes(1, 2)]
        flipped = [view[:, ::down, ::right] for view in turned for down in (1, -1) for right in (1, -1)]
        return sum(network(view) for view in flipped) / len(flipped)

    def predict(parameters: nnx.State, images: np.ndarray) -> np.ndarray:
        logits = []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            filled = np.concatenate([part, np.zeros((batch - len(part), *part.shape[1:]), part.dtype)])
            logits.append(np.asarray(logits_of(parameters, filled))[: len(part)])
        logits = np.concatenate(logits)
        if unsound := (~np.isfinite(logits)).any(axis=1).sum():
            raise UserError(
                f"the network: what it says of {unsound} of {len(images)} images is infinite or NaN: its weights "
                "have run away; train it with a smaller --learning-rate"
            )
        return logits

    predict.compiled = logits_of
    return predict


def train(
    network: Network,
    training: tuple[np.ndarray | Chosen, np.ndarray],
    validation: tuple[np.ndarray | Chosen, np.ndarray] | None,
    *,
    epochs: int,
    batch: int,
    per_epoch: int | None = None,
    optimizer: optax.GradientTransformation,
    augmentation: Augmentation,
    seed: int,
    members: np.ndarray | None = None,
    use_batch: int | None = None,
    step: Callable | None = None,
    dtype: jnp.dtype = jnp.float32,
    at_once: int | None = None,
    on_step: Callable[[int, int, Sums], None] = lambda step, steps, sums: None,
    start: Point | None = None,
    pause: Callable[[], bool] = lambda: False,
    debug_nans: bool = False,
) -> Iterator[Epoch | Point]:
    """Trains a network and yields after every epoch; the network itself is left as it is.

    All that is random depends on the seed and the number of the step, not on what came before. So a run that is taken
    up at a Point goes on as it would have gone on, to the last bit. Where jax shows several devices, as many take part
    as divide the batch.

    Args:
        training, validation: images (number, height, width, 3) uint8, in memory or not (see `store.py`), and labels
            (number,) int32, at least one. Without validation its figures are NaN.
        epochs: how many at most: stop early by not asking for the next.
        batch: images a step.
        per_epoch: images drawn an epoch, each augmented anew; the number of training images unless given.
        seed: decides the shuffling, the augmentation and the dropout; initial weights are the network's own.
        members: indices of the images to learn from, all of `training` unless given. Several networks that learn from
            different members of one set can share one compilation.
        use_batch: validation images at a time, `batch` unless given.
        step: compiled by `make_step` before, for a network of the same layers; compiled here unless given.
        dtype: what the layers compute in, see `make_step`; that of `step`, if it is given.
        at_once: steps a call; unless given, one, or `share_steps` where the images lie on an accelerator (`make_step`).
        on_step: called after each call with the number of steps done, the number of steps of the run, and the sums
            over the steps of the call.
        start: where to go on; at the beginning unless given.
        pause: asked after each call but an epoch's last, since an Epoch brings its Point; if it says yes, the Point is
            yielded.
        debug_nans: look at the loss after every step, and say where it became no finite number; slower.
    Raises:
        UserError: without images to learn from; if a loss is no finite number: what was yielded before is sound.
    """
    images, labels = training
    members = np.arange(len(images), dtype=np.int32) if members is None else np.asarray(members, np.int32)
    per_epoch = len(members) if per_epoch is None else per_epoch
    if not len(members) or per_epoch < 1:
        raise UserError(f"training: got {len(members)} images and {per_epoch} an epoch, wants at least 1 of each")
    layout = share_batch(batch)
    whole = None if debug_nans or at_once == 1 else on_device(images, labels, layout, always=bool(at_once))
    graph, parameters = nnx.split(network)  # while the images are still on their way to the device
    step = step or make_step(graph, optimizer, augmentation, dtype)
    predict = None if validation is None else make_predictor(graph, use_batch or batch)
    start = start or Point(0, initial_state(parameters, optimizer), [])
    done, state, sums, seconds = start.step, start.state, list(start.sums), start.seconds
    steps_key = keys_of(seed).steps
    a_epoch = -(-per_epoch // batch)  # steps
    at_once = 1 if whole is None else at_once or share_steps(a_epoch)
    feed = feeder(images, labels, layout and layout[0])
    state = jax.device_put(state, layout[1]) if layout else state
    for number in range(done // a_epoch + 1, epochs + 1):
        started = time.perf_counter() - seconds
        indices, weights = epoch_batches(len(members), batch, per_epoch, seed, number)
        for i in range(done % a_epoch, a_epoch, at_once):
            these = slice(i, i + at_once)
            if whole is not None:
                chosen = members[indices[these]]
                state, (losses, corrects) = step.many(state, steps_key, done, *whole, chosen, weights[these])
                told = Sums(losses.sum(), corrects.sum(), int(weights[these].sum()))
            else:
                key, shown = jax.random.fold_in(steps_key, done), feed(members[indices[i]], weights[i])
                before = copied(state.parameters) if debug_nans else None
                state, (losses, corrects) = step(state, key, *shown)
                told = Sums(losses, corrects, int(weights[i].sum()))
                if debug_nans and not np.isfinite(float(losses)):
                    augment_key, layers_key = jax.random.split(key)  # as in the step
                    light = compiled(augmentation)(augment_key, jnp.asarray(shown[0]))
                    operands = light, *map(jnp.asarray, shown[1:]), layers_key
                    place = first_unsound(nnx.merge(graph, before), *operands, dtype)
                    raise UserError(f"training: in step {done + 1} {place}; try a smaller --learning-rate")
            sums.append(Sums(losses, corrects, weights[these].sum(1)))
            done += len(weights[these])
            on_step(done, epochs * a_epoch, told)
            if done % a_epoch and pause():
                sums = as_numbers(sums)
                check_finite(sums, done)
                yield Point(done, state, list(sums), time.perf_counter() - started)
        kept = copied(state.parameters)  # asked for before the losses are waited for
        sums = as_numbers(sums)
        check_finite(sums, done)
        loss, accuracy = (sum(parts) / per_epoch for parts in list(zip(*sums))[:2])
        sums, seconds = [], 0.0
        judged = (np.nan, np.nan)
        if predict is not None:
            judged = judge_logits(predict(state.parameters, validation[0]), validation[1])
        yield Epoch(number, loss, accuracy, *judged, time.perf_counter() - started, kept, Point(done, state, []))


def share_steps(steps: int) -> int:
    """How many of an epoch's steps to take in a call: calls of one length, as far as they can, are compiled once.

    >>> share_steps(20), share_steps(16), share_steps(3)  # two calls of 10, and not one of 16 and one of 4
    (10, 16, 3)
    >>> share_steps(21), share_steps(17)  # three of 7, not 11 and 10; but 9 and 8, not 17 of one
    (7, 9)
    """
    calls = -(-steps // STEPS_A_CALL)
    even = next((more for more in range(calls, 2 * calls + 1) if steps % more == 0), calls)
    return -(-steps // even)


def as_numbers(sums: list[Sums]) -> list[Sums]:
    """What each step of these calls reported. Waits until they are done, and fetches all at once, which a GPU likes."""
    calls = [map(np.atleast_1d, call) for call in jax.device_get(sums)]
    return [Sums(float(loss), float(correct), int(images)) for call in calls for loss, correct, images in zip(*call)]


def check_finite(sums: list[Sums], done: int) -> None:
    """Raises UserError, naming the step, if a loss is no finite number; `done` is the number of the last step."""
    for number, one in enumerate(sums, start=done - len(sums) + 1):
        if not np.isfinite(one.loss):
            what = "the loss or a gradient is infinite or NaN; try a smaller --learning-rate"
            raise UserError(f"training: in step {number} {what}, or find the place with --debug-nans")


@jax.jit
def _loss_and_right(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    return cross_entropy(logits, labels).mean(), probabilities(logits).argmax(axis=1) == labels


def judge_logits(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The mean loss in nats and the accuracy of logits (number, outputs) against labels (number,)."""
    loss, right = _loss_and_right(logits, labels)
    return float(loss), float(np.asarray(right).mean())


class EarlyStopping:
    """Keeps the epoch with the lowest validation loss, and says when `patience` epochs have brought nothing better."""

    def __init__(self, patience: int):
        self.patience, self.best = patience, None

    def finished(self, epoch: Epoch) -> bool:
        """Takes an epoch into account; True if it is time to stop."""
        if self.best is None or epoch.validation_loss < self.best.validation_loss:
            self.best = epoch
        return epoch.number - self.best.number >= self.patience
