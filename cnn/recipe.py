"""From options to the things they stand for: the slides, the network, its optimizer, its augmentation.

A recipe is `command_line.Recipe`, or any object with its attributes.
"""

from collections.abc import Callable

import jax
import numpy as np
import optax

from cnn import augment, models, slides, synthetic, training
from cnn.layers import Network
from cnn.training import Epoch


def read_slides(recipe, progress: Callable[[int, int], None] | None = None) -> slides.Slides:
    """The folder that the recipe names, or drawn tissue."""
    if recipe.data is None:
        return synthetic.draw_slides(recipe.drawn, seed=recipe.seed, size=recipe.size)
    return slides.read_folder(
        recipe.data,
        size=recipe.size,
        fit=recipe.fit,
        filter=recipe.filter,
        group_pattern=recipe.group_pattern,
        progress=progress,
    )


def network(recipe, classes: int, key: jax.Array) -> Network:
    """The network, with fresh weights."""
    return models.MODELS[recipe.model]((*recipe.size, 3), classes, dropout=recipe.dropout, key=key)


def optimizer(recipe, steps: int) -> optax.GradientTransformation:
    """The optimizer for a run of so many steps."""
    return training.make_optimizer(
        steps, learning_rate=recipe.learning_rate, schedule=recipe.schedule, weight_decay=recipe.weight_decay
    )


def augmentation(recipe) -> augment.Augmentation:
    """The augmentation; "auto" is squares for networks that take any size, and the default for the others."""
    name = recipe.augmentation
    if name == "auto":
        name = "crop" if recipe.takes_any_size else "default"
    return augment.named(name)


def steps(recipe, images: int) -> tuple[int, int]:
    """Images drawn an epoch (at least each image once), and steps of the whole run."""
    per_epoch = max(recipe.per_epoch, images)
    return per_epoch, recipe.epochs * -(-per_epoch // recipe.batch)


def fit(recipe, images: np.ndarray, labels: np.ndarray, classes: int, seed: int) -> tuple[Network, Epoch]:
    """Trains silently for all epochs, without validation; the network as it started, and the last epoch."""
    start = network(recipe, classes, training.keys_of(seed).weights)
    per_epoch, total = steps(recipe, len(images))
    epochs = training.train(
        start,
        (images, labels),
        None,
        epochs=recipe.epochs,
        batch=recipe.batch,
        per_epoch=per_epoch,
        optimizer=optimizer(recipe, total),
        augmentation=augmentation(recipe),
        seed=seed,
    )
    *_, last = epochs
    return start, last
