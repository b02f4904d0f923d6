# %% [markdown]
"""What can the slides say? Every image judged by networks that have not seen it, beside what needs no network at all.

    python -m experiments.cross_validate --data FOLDER --jobs 2        your slides
    python -m experiments.cross_validate                               drawn tissue, where colours say nothing

Two questions are asked: about another image from slides like these (stratified folds, several cuts), and about a group
(a slide, a day, a stain) never seen before (one group left out at a time). To both, the network answers beside the
share of white, a histogram of colours, and the group's name alone, on the same folds; and once more after training on
shuffled labels, where it must be at chance. Nothing is chosen by looking at the images that are judged: the recipe was
fixed by `choose_recipe`, and the threshold is a probability of one half.

On the 58 UCSB slides (seed 0; two cores of an AMD EPYC, 21 seconds a network) the network is right in 55 of 58, with an
AUC of 0.983, if a group is left out, and in 272 of 290, 0.978, in four folds, five times. The best histogram has 0.924
and 0.906.
"""

from dataclasses import dataclass

from cnn import command_line
from cnn.errors import UserError, counted

SIDE, NUMBER = 128, 8  # squares of tissue: pixels, and how many of each image


# %%
@dataclass(frozen=True, kw_only=True)
class Settings(command_line.Recipe):
    """Cross-validate a network and its baselines: honest figures from few slides."""

    drawn: int = 120
    """How many images of tissue to draw where no --data is given."""
    epochs: int = 40
    """Epochs of each network; the last one's weights are judged."""
    per_epoch: int = 320
    """Images drawn an epoch, each augmented anew; at least every training image once."""
    folds: int = 4
    """Into how many parts the images are cut."""
    seeds: int = 5
    """How many such cuts, each with networks of its own."""
    tissue_only: bool = False
    """Judge the squares of each image with the least white, not whole images: white then says less."""
    jobs: int = 1
    """Networks trained at a time, each on an equal share of the processors, and of several GPUs on one. Each
    process has the images in its own memory."""

    def __post_init__(self):
        super().__post_init__()
        command_line.at_least(1, epochs=self.epochs, per_epoch=self.per_epoch, seeds=self.seeds, jobs=self.jobs)
        command_line.at_least(2, folds=self.folds)
        if self.tissue_only and not self.takes_any_size:
            raise UserError(f"--tissue-only: the network {self.model} takes whole images only; use --model tissue")
        if self.tissue_only and min(self.size) < SIDE:
            size = " ".join(map(str, self.size))
            raise UserError(
                f"--tissue-only: squares of {SIDE} pixels do not fit --image-size {size}; give a larger one"
            )


if __name__ == "__main__":
    SETTINGS = command_line.parse(Settings)  # before the slow imports
    command_line.begin_to_draw(SETTINGS)

# %%
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cnn import (
    baselines,
    comparison,
    evaluation,
    figures,
    folds,
    progress,
    recipe,
    reports,
    resuming,
    runs,
    slides,
    splits,
    squares,
)
from cnn.folds import Fold
from cnn.many import train_many

NETWORK, SHUFFLED, WHITE, GROUP, MAJORITY = (
    "network",
    "network, shuffled labels",
    "share of white",
    "group alone",
    "majority",
)
HISTOGRAMS = {f"histogram, C = {strength:g}": strength for strength in (0.05, 0.5)}

# %% [markdown]
# Which folds. One group at a time takes a network for each; of many groups a tenth at a time is left out.


# %%
def protocols(
    labels: np.ndarray, groups: tuple[str, ...], same: np.ndarray, settings: Settings
) -> dict[str, list[list[Fold]]]:
    """The name of each protocol, and its folds for every repeat; `same` as in `folds.stratified_folds`."""
    number = len(set(groups))
    if number <= 20:
        by_group = {"one group out": [folds.one_group_out(labels, groups)]}
    else:
        parts = min(10, *folds.of_each_class(labels, np.array(groups)))
        by_group = {f"groups, {parts}-fold": [folds.group_folds(labels, groups, parts, settings.seed)]}
    seeds = range(settings.seed, settings.seed + settings.seeds)
    by_image = [folds.stratified_folds(labels, settings.folds, seed, same) for seed in seeds]
    return by_group | {f"{settings.folds}-fold x {settings.seeds}": by_image}


# %% [markdown]
# What is asked. Each takes the images and labels to learn from and the images to judge, and gives probabilities.


# %%
def ask_network(
    shown: np.ndarray,
    labels: np.ndarray,
    settings: Settings,
    known: np.ndarray,
    asked: np.ndarray,
    seed: int,
    shuffled,
    report,
) -> list[float]:
    """Trains a network on some images, or on them with their labels shuffled, and asks it about others.

    Args:
        shown: (images, squares, height, width, 3): what the network sees of each, one whole image or several squares.
        known, asked: indices of the images to learn from and of those to judge.
    Returns:
        the probability of the positive class for each image asked about, the mean over its squares.
    """
    if shuffled:
        rng = np.random.Generator(np.random.PCG64([settings.seed, seed]))
        labels = labels.copy()
        labels[known] = rng.permutation(labels[known])
    each = shown.shape[1]
    places = [(part[:, None] * each + np.arange(each)).ravel() for part in (known, asked)]
    flat = shown.reshape(-1, *shown.shape[2:])
    probability = recipe.fit_and_ask(settings, flat, np.repeat(labels, each), 2, *places, seed, report)[:, 1]
    return probability.reshape(-1, each).mean(axis=1).tolist()


def ask_baselines(
    shown: np.ndarray, labels: np.ndarray, groups: tuple[str, ...], repeats: list[list[Fold]], tissue_only: bool
) -> dict[str, np.ndarray]:
    """What needs no network, on the same folds: method -> probabilities (repeats, images)."""
    pictures = shown.reshape(len(shown), -1, *shown.shape[3:])  # squares one below the other: no histogram minds
    white = baselines.share_of_white(pictures)[:, None]
    colours = np.stack([baselines.histogram(picture, tissue_only) for picture in pictures])
    groups = np.array(groups)
    asked = {
        MAJORITY: lambda a, b: np.full(len(b), float(labels[a].mean() > 0.5)),
        GROUP: lambda a, b: baselines.group_rate(groups[a], labels[a], groups[b]),
        WHITE: lambda a, b: baselines.regress(white[a], labels[a], white[b], strength=100.0),
    }
    for name, strength in HISTOGRAMS.items():
        asked[name] = lambda a, b, c=strength: baselines.regress(colours[a], labels[a], colours[b], strength=c)
    answers = {name: np.zeros((len(repeats), len(labels))) for name in asked}
    for row, cut in enumerate(repeats):
        for fold in cut:
            for name, ask in asked.items():
                answers[name][row, fold.test] = ask(fold.training, fold.test)
    return answers


# %%
def draw_areas(path: Path, protocols: dict, images: int) -> Path:
    """The area under the curve of every method under every protocol; intervals over groups, whose images are alike."""
    panels = {
        name: {
            method: {key.removesuffix("_groups"): judged["auc"][key] for key in ("value", "low_groups", "high_groups")}
            for method, judged in found["methods"].items()
        }
        for name, found in protocols.items()
    }
    title = f"{images} images, each judged by what has not seen it"
    return figures.intervals(path, panels, "area under the ROC curve, 95 % interval over groups", title, scale=1)


def trainings(repeats: list[list[Fold]], many: int) -> Iterator[tuple[int, int, Fold]]:
    """Number of the repeat, of the fold, and the fold, for every network; cuts are used again if they are fewer."""
    for i in range(many):
        for j, fold in enumerate(repeats[i % len(repeats)]):
            yield i, j, fold


def piece_name(protocol: str, repeat: int, fold: int, method: str) -> str:
    """What a network is called."""
    return f"{protocol}, cut {repeat}, fold {fold}, {method}"


def main(settings: Settings) -> dict:
    """Runs the job and returns what metrics.json holds."""
    settings = resuming.own_settings("cross_validate", settings)
    device, console = command_line.choose_device(settings.device, settings.precision), progress.terminal()
    print(command_line.first_line("cross_validate", device, settings.source), flush=True)
    runs.check_new(settings.out)
    data, skipped = recipe.read_slides(settings, console)
    index = evaluation.positive_class(data.classes, settings.positive)
    positive = data.labels == index
    labels = positive.astype(np.int32)
    asked = protocols(labels, data.groups, splits.pictures(data.images), settings)
    shown = data.images[:, None]
    if settings.tissue_only:
        shown = np.stack([squares.tissue_squares(image, size=SIDE, number=NUMBER) for image in data.images])
    found = {"positive": data.classes[index], "data_digest": slides.source_digest(data), "skipped": skipped}
    folder = resuming.begin_or_resume("cross_validate", settings, device, **found)

    # What a network learns from shuffled labels is arbitrary, and so is which way it errs: it takes several to see that
    # they are at chance on the whole.
    pieces = {}
    for name, repeats in asked.items():
        for method, many in ((NETWORK, len(repeats)), (SHUFFLED, settings.seeds)):
            for i, j, fold in trainings(repeats, many):
                piece = (fold.training, fold.test, settings.seed + 100 * i + j, method == SHUFFLED)
                pieces[piece_name(name, i, j, method)] = piece
    console.print(f"{counted(len(data), 'image')} of {counted(len(set(data.groups)), 'group')}", highlight=False)
    shared = (shown, labels, settings)
    answers = train_many(console, "cross_validate", settings, folder, pieces, ask_network, shared, found["data_digest"])

    metrics, rows = {"positive": data.classes[index], "images": len(data), "protocols": {}}, []
    for name, repeats in asked.items():
        scores = ask_baselines(shown, labels, data.groups, repeats, settings.tissue_only)
        for method, many in ((NETWORK, len(repeats)), (SHUFFLED, settings.seeds)):
            scores[method] = np.full((many, len(data)), np.nan)
            for i, j, fold in trainings(repeats, many):
                scores[method][i, fold.test] = answers[piece_name(name, i, j, method)]
        others = (*HISTOGRAMS, WHITE)
        metrics["protocols"][name] = comparison.summarize(scores, positive, data.groups, NETWORK, others)
        for table in comparison.tables(name, metrics["protocols"][name]):
            console.print(table)
        rows += [
            (name, method, i, data.names[k], data.groups[k], data.classes[data.labels[k]], f"{p:.9g}")
            for method, probability in scores.items()
            for i, row in enumerate(probability)
            for k, p in enumerate(row)
        ]
        # Each image once, with the mean of its answers: five answers about one image are no five images.
        bins = evaluation.reliability(positive, scores[NETWORK].mean(axis=0))
        mean = f" (mean of {len(repeats)} networks)" if len(repeats) > 1 else ""
        title = f"{name}: can its probabilities be trusted?{mean}"
        figures.reliability(folder / f"{name.replace(' ', '_')}_reliability.png", bins, title)
    draw_areas(folder / "auc.png", metrics["protocols"], len(data))
    runs.write_json(folder / "metrics.json", metrics)
    columns = ("protocol", "method", "repeat", "name", "group", "label", f"probability of {data.classes[index]}")
    runs.write_csv(folder / "predictions.csv", columns, rows)
    reports.print_files(console, folder)
    return metrics


if __name__ == "__main__":
    with command_line.one_sentence():
        main(SETTINGS)
