# %% [markdown]
"""How much of an accuracy is a leak? The same network, seed and number of steps under three ways to split.

    python -m experiments.leakage --data FOLDER --jobs 2        the 58 UCSB slides

    augment, then split     copies of every slide on both sides: the pipeline of 2017
    split by image          no copy of a test image in training, but neighbours of it: same slide, same day, same stain
    split by group          nothing of the test image's (slide, day) group in training

The first is asked about copies of slides that it has seen, the other two about the slides themselves, each by a network
that was trained without it: k folds, k networks.
"""

from dataclasses import dataclass
from pathlib import Path

from cnn import command_line
from cnn.errors import UserError, counted


# %%
@dataclass(frozen=True, kw_only=True)
class Settings(command_line.Common):
    """Train the network of 2017 under three splits of the same slides, and see what the leak was worth."""

    data: Path | None = None
    """Folder with the UCSB slides, or with a sub-folder of images for each class."""
    group_pattern: str | None = None
    """Regular expression whose first group, in an image's path, names what must not be split apart (slide, patient)."""
    draws: int = 2500
    """Augmented copies drawn for each class."""
    epochs: int = 30
    """Epochs of each training, as many as in 2017; the last one's weights are judged. Twelve are too few: the network
    guesses at first, and how long is chance."""
    per_epoch: int = 3228
    """Images a network sees an epoch, under every split: as many as in 2017."""
    folds: int = 4
    """Into how many parts the slides are cut under the two honest splits: so many networks each."""
    batch: int = 32
    """Images a step."""
    drawing_size: tuple[int, int] = (240, 320)
    """Height and width at which copies are drawn."""
    image_size: tuple[int, int] = (120, 160)
    """Height and width that the network sees."""
    jobs: int = 1
    """Networks trained at a time, each on an equal share of the processors, and of several GPUs on one. Each
    process has the images in its own memory."""
    resume: Path | None = None
    """Folder of an interrupted run, to go on where it stopped, with its own options and on the same images."""

    def __post_init__(self):
        super().__post_init__()
        command_line.at_least(1, draws=self.draws, epochs=self.epochs, per_epoch=self.per_epoch, batch=self.batch)
        command_line.at_least(1, jobs=self.jobs)
        command_line.at_least(1, image_size=min(self.image_size), drawing_size=min(self.drawing_size))
        command_line.at_least(2, folds=self.folds)


if __name__ == "__main__":
    SETTINGS = command_line.parse(Settings)  # before the slow imports

# %%
import functools

import numpy as np
from flax import nnx
from rich.table import Table
from sklearn.model_selection import train_test_split

from cnn import (
    augment,
    copies,
    evaluation,
    figures,
    models,
    progress,
    recipe,
    reports,
    resuming,
    runs,
    slides,
    training,
)
from cnn.folds import Fold, group_folds, stratified_folds
from cnn.loss import probabilities
from cnn.many import train_many
from cnn.optimizer import make_optimizer
from cnn.slides import Slides
from cnn.splits import pictures
from cnn.step import make_step

LEAKY, BY_IMAGE, BY_GROUP = "augment, then split", "split by image", "split by group"

# %% [markdown]
# The three splits. The copies are the same in all: whether a copy is drawn before the split or after it makes no
# difference to the copy. What makes the difference is on which side it may lie.


# %%
def honest_folds(originals: Slides, settings: Settings) -> dict[str, list[Fold]]:
    """Indices into the slides, for every network of the two honest splits; UserError if there are too few of them."""
    return {
        BY_IMAGE: stratified_folds(originals.labels, settings.folds, settings.seed, pictures(originals.images)),
        BY_GROUP: group_folds(originals.labels, originals.groups, settings.folds, settings.seed),
    }


def three_splits(originals: Slides, data: Slides, honest: dict[str, list[Fold]], seed: int) -> dict[str, list[Fold]]:
    """Indices into `data`, the originals and their copies, each grouped by its source, for every network to train."""
    source = np.array([originals.names.index(name) for name in data.groups])
    is_original = np.array([name in originals.names for name in data.names])

    def enlarged(fold: Fold) -> Fold:  # to learn from: all copies of the fold's slides; to be judged: the slides alone
        return Fold(
            np.flatnonzero(np.isin(source, fold.training)),
            np.flatnonzero(np.isin(source, fold.test) & is_original),
        )

    leaky = train_test_split(np.arange(len(data)), test_size=0.2, random_state=seed)
    splits = {LEAKY: [Fold(*map(np.sort, leaky))]}
    splits |= {name: [enlarged(fold) for fold in folds] for name, folds in honest.items()}
    groups = np.array(originals.groups)[source]
    if any(related(fold, source) for fold in splits[BY_IMAGE] + splits[BY_GROUP]):
        raise AssertionError("a copy of a test image is in training")
    if any(related(fold, groups) for fold in splits[BY_GROUP]):
        raise AssertionError("a relative of a test image is in training")
    return splits


def related(fold: Fold, family: np.ndarray) -> int:
    """How many test images have one of their family (images,) among the training images."""
    return int(np.isin(family[fold.test], family[fold.training]).sum())


# %% [markdown]
# One network for each fold. All start from the same weights and take as many steps.


# %%
@functools.cache
def compiled(settings: Settings, classes: int) -> tuple:
    """The optimizer, the training step and the predictor: compiled once for all networks of a process."""
    graph = nnx.graphdef(fresh_network(settings, classes))
    optimizer = make_optimizer(settings.epochs * -(-settings.per_epoch // settings.batch), as_keras=True)
    step = make_step(graph, optimizer, augment.named("none"))
    return optimizer, step, training.make_predictor(graph, settings.batch)


def fresh_network(settings: Settings, classes: int):
    """The network of 2017, with the seed's initial weights."""
    return models.seed((*settings.image_size, 3), classes, key=training.keys_of(settings.seed).weights)


def ask(
    images: np.ndarray, labels: np.ndarray, settings: Settings, known: np.ndarray, asked: np.ndarray, report
) -> list[list[float]]:
    """Trains a network on the images `known`, and gives the probability of each class for the images `asked`.

    Nothing is chosen by validation: the last epoch's weights count, as in 2017.
    """
    classes = int(labels.max()) + 1
    optimizer, step, predict = compiled(settings, classes)
    *_, last = training.train(
        fresh_network(settings, classes),
        (images, labels),
        None,
        epochs=settings.epochs,
        batch=settings.batch,
        per_epoch=settings.per_epoch,
        optimizer=optimizer,
        augmentation=augment.named("none"),
        seed=settings.seed,
        members=known,
        step=step,
        on_step=lambda done, total, sums: report(done / total),
    )
    return np.asarray(probabilities(predict(last.parameters, images[asked]))).tolist()


def explain(rows: dict[str, dict]) -> str:
    """What the table says, for one who has never heard of a leak."""
    leaky, by_image, by_group = (rows[name] for name in (LEAKY, BY_IMAGE, BY_GROUP))
    share = {name: row["accuracy"]["value"] for name, row in rows.items()}
    difference = evaluation.difference(leaky["accuracy"], by_group["accuracy"])
    text = (
        f"Asked about turned copies of slides that it had been shown, the network is right in {share[LEAKY]:.1%}: "
        f"{leaky['copy_in_training']} of the {leaky['n']} test images have a copy of the same slide in training. "
        f"Asked about slides that it has never seen, the same network, trained for as many steps, is right in "
        f"{share[BY_IMAGE]:.1%} ({by_image['accuracy']['k']} of {by_image['n']}), and if no slide of the same group "
        f"was shown to it either, in {share[BY_GROUP]:.1%} ({by_group['accuracy']['k']} of {by_group['n']}). "
    )
    value, low, high = (f"{100 * difference[name]:.1f}" for name in ("value", "low", "high"))
    text += (
        f"The difference is {value} points [{low}, {high}], or less sure, since copies of a slide are no strangers. "
    )
    if difference["low"] > 0:
        return (
            f"{text}It is what the network had learned by heart. No interval of the first row shows it: a leak is no "
            "bad luck, it is the answer to another question."
        )
    cause = "It goes the other way" if difference["high"] < 0 else "It may be chance"
    return (
        f"{text}{cause}: this run does not show what a leak is worth. Give it more epochs, in which it learns by "
        "heart, or another --seed."
    )


# %%
def main(settings: Settings) -> dict:
    """Runs all three and returns what metrics.json holds."""
    settings = resuming.own_settings("leakage", settings)
    if settings.data is None:
        raise UserError("--data: name the folder of the slides")
    device, console = command_line.choose_device(settings.device), progress.terminal()
    print(command_line.first_line("leakage", device, str(settings.data)), flush=True)
    runs.check_new(settings.out)
    recipe.check_size("seed", settings.image_size)
    with progress.bar(console, "reading images", 0) as advance:
        originals = slides.read_folder(
            settings.data, size=settings.drawing_size, group_pattern=settings.group_pattern, progress=advance
        )
    recipe.note_on_groups(originals, console)
    honest = honest_folds(originals, settings)  # before the drawing, since there may be too few groups
    positive = evaluation.positive_class(originals.classes)
    digest = slides.source_digest(originals)
    folder = resuming.begin_or_resume("leakage", settings, device, data_digest=digest)
    with progress.bar(console, "drawing copies", 0) as advance:
        data, lost = copies.draw_copies(
            originals,
            each=settings.draws,
            size=settings.image_size,
            seed=settings.seed,
            batch=settings.batch,
            progress=advance,
        )
    splits = three_splits(originals, data, honest, settings.seed)
    console.print(
        f"{len(originals)} slides became {len(data)} images; {counted(settings.epochs, 'epoch')} each", highlight=False
    )
    pieces = {f"{name}, {i}": tuple(fold) for name, folds in splits.items() for i, fold in enumerate(folds, 1)}
    shared = (data.images, data.labels, settings)
    predicted = train_many(console, "leakage", settings, folder, pieces, ask, shared, digest)

    # The table: what each split says, and how many of its test images are no strangers.
    source = np.array(data.groups)
    group_of = dict(zip(originals.names, originals.groups))
    groups = np.array([group_of[name] for name in data.groups])
    rows, written = {}, []
    for name, folds in splits.items():
        test = np.concatenate([fold.test for fold in folds])
        said = np.concatenate([predicted[f"{name}, {i}"] for i in range(1, len(folds) + 1)])
        rows[name] = evaluation.judge(data.labels[test], said, data.classes, positive) | {
            "copy_in_training": sum(related(fold, source) for fold in folds),
            "group_in_training": sum(related(fold, groups) for fold in folds),
        }
        written += [
            (name, data.names[i], groups[i], data.classes[data.labels[i]], f"{p[positive]:.9g}")
            for i, p in zip(test, said)
        ]
    metrics = {"splits": rows, "slides": len(originals), "copies_overwritten": lost}
    runs.write_json(folder / "metrics.json", metrics)
    runs.write_csv(
        folder / "predictions.csv",
        ("split", "name", "group", "label", f"probability of {originals.classes[positive]}"),
        written,
    )
    figures.intervals(
        folder / "leakage.png",
        {"": {f"{name}\n{row['copy_in_training']} of {row['n']} seen": row["accuracy"] for name, row in rows.items()}},
        "accuracy (%), with 95 % Wilson interval",
        "One network, three splits: what the leak is worth",
    )
    table = Table(title="the network of 2017 under three splits; 95 % intervals in brackets", title_justify="left")
    for column in ("", "test images", "with a copy in training", "with their group in training", "accuracy", "AUC"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in rows.items():
        counts = (row["n"], row["copy_in_training"], row["group_in_training"])
        table.add_row(name, *map(str, counts), reports.cell(row["accuracy"]), reports.cell(row["auc"]))
    console.print(table)
    console.print(f"\n{explain(rows)}\n", highlight=False, soft_wrap=True)
    reports.print_files(console, folder)
    return metrics


if __name__ == "__main__":
    with command_line.one_sentence():
        main(SETTINGS)
