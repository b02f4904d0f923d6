"""From options to the things they stand for: the slides, the network, its optimizer, its augmentation.

A recipe is `command_line.Recipe`, or any object with its attributes.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console

from cnn import augment, models, slides, synthetic, training
from cnn.errors import ImageError, ShapeError, UserError
from cnn.loss import probabilities
from cnn.network import Network
from cnn.optimizer import make_optimizer
from cnn.progress import bar
from cnn.step import make_step


def read_slides(recipe, console: Console) -> tuple[slides.Slides, list[ImageError]]:
    """The folder that the recipe names, or drawn tissue; and the bad files that were left out, if it allows that.

    Raises:
        UserError: if the images would be too small for the network; or as `slides.read_folder`.
    """
    if recipe.image_size:
        check_size(recipe.model, recipe.size)
    if recipe.data is None:
        return synthetic.draw_slides(recipe.drawn, seed=recipe.seed, size=recipe.size), []
    skipped = [] if recipe.skip_bad else None
    with bar(console, "reading images", 0) as advance:
        data = slides.read_folder(
            recipe.data,
            size=recipe.size,
            fit=recipe.fit,
            filter=recipe.filter,
            group_pattern=recipe.group_pattern,
            progress=advance,
            skipped=skipped,
            cache=recipe.cache,
        )
    note_on_groups(data, console)
    return data, skipped or []


def check_size(model: str, size: tuple[int, int]) -> None:
    """Raises UserError if images (height, width) are too small for a model: to be asked before they are all read."""

    def lay_out():  # without computing a kernel
        models.table(models.MODELS[model]((*size, 3), 2, key=jax.random.key(0)), (*size, 3))

    try:
        nnx.eval_shape(lay_out)
    except ShapeError as error:
        raise UserError(
            f"--image-size: {size[0]} {size[1]} is too small for the network {model} ({error}); give larger numbers"
        ) from None


def note_on_groups(data: slides.Slides, console: Console) -> None:
    """Says so where nothing tells which images are of one slide or patient, but for copies of one picture."""
    if set(data.groups) <= set(data.names):
        console.print(
            "note: every image is taken for a group of its own. If several are of one slide or patient, the network "
            "is judged by relatives of what it has learned from, and the figures are too good: tell slides or patients "
            "by --group-pattern",
            style="yellow",
            soft_wrap=True,
        )


def network(recipe, classes: int, key: jax.Array) -> Network:
    """The network, with fresh weights."""
    options = {} if recipe.dropout is None else {"dropout": recipe.dropout}
    return models.MODELS[recipe.model]((*recipe.size, 3), classes, key=key, **options)


def optimizer(recipe, steps: int) -> optax.GradientTransformation:
    """The optimizer for a run of so many steps."""
    return make_optimizer(
        steps, learning_rate=recipe.learning_rate, schedule=recipe.schedule, weight_decay=recipe.weight_decay
    )


def augmentation(recipe) -> augment.Augmentation:
    """The augmentation; "auto" is squares for networks that take any size, and the default for the others."""
    name = recipe.augmentation
    if name == "auto":
        name = "crop" if recipe.takes_any_size else "default"
    return augment.named(name)


def dtype(recipe) -> jnp.dtype:
    """What the layers compute in while they learn."""
    return jnp.bfloat16 if recipe.precision == "bfloat16" else jnp.float32


def steps(recipe, images: int) -> tuple[int, int]:
    """Images drawn an epoch (at least each image once), and steps of the whole run."""
    per_epoch = max(recipe.per_epoch, images)
    return per_epoch, recipe.epochs * -(-per_epoch // recipe.batch)


@functools.cache
def compiled(recipe, classes: int, total: int) -> tuple[optax.GradientTransformation, Callable, Callable]:
    """The optimizer, the training step and the predictor of a recipe: the same, and so compiled once, for all networks.

    Args:
        recipe: hashable.
        total: steps of a run.
    """
    graph = nnx.graphdef(network(recipe, classes, jax.random.key(0)))
    tx = optimizer(recipe, total)
    predict = training.make_predictor(graph, recipe.use_batch, views=recipe.takes_any_size)
    return tx, make_step(graph, tx, augmentation(recipe), dtype(recipe)), predict


def fit_and_ask(
    recipe,
    images: np.ndarray,
    labels: np.ndarray,
    classes: int,
    known: np.ndarray,
    asked: np.ndarray,
    seed: int,
    report: Callable[[float], None] = lambda share: None,
) -> np.ndarray:
    """Trains a network silently on some images, for all epochs, and asks it about others.

    Args:
        images, labels: of the whole set, so that every call has the same shapes.
        known, asked: indices of the images to learn from and of those to judge.
        seed: decides the initial weights and all else that is random.
        report: called with how much of the training is done, from 0 to 1.
    Returns:
        the probability of each class, (asked, classes).
    """
    per_epoch, total = steps(recipe, len(known))
    tx, step, predict = compiled(recipe, classes, total)
    epochs = training.train(
        network(recipe, classes, training.keys_of(seed).weights),
        (images, labels),
        None,
        epochs=recipe.epochs,
        batch=recipe.batch,
        per_epoch=per_epoch,
        optimizer=tx,
        augmentation=augmentation(recipe),
        seed=seed,
        members=known,
        step=step,
        on_step=lambda done, total, sums: report(done / total),
    )
    *_, last = epochs
    return np.asarray(probabilities(predict(last.parameters, images[asked])))
