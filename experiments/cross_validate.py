# %% [markdown]
"""What can the slides say? Every image judged by networks that have not seen it, beside what needs no network at all.

    python -m experiments.cross_validate --data FOLDER --jobs 2        your slides
    python -m experiments.cross_validate                               drawn tissue, where colours say nothing

Two questions are asked: about another image from slides like these (stratified folds, several cuts), and about a group
(a slide, a day, a stain) never seen before (one group left out at a time). To both, the network answers beside the
share of white, a histogram of colours, and the group's name alone, on the same folds; and once more after training on
shuffled labels, where it must be at chance. Nothing is chosen by looking at the images that are judged: the recipe is
fixed, thresholds are learned from training images.
"""

from dataclasses import dataclass
from pathlib import Path

from cnn import command_line


# %%
@dataclass(frozen=True, kw_only=True)
class Settings(command_line.Recipe):
    """Cross-validate a network and its baselines: honest figures from few slides."""

    drawn: int = 120
    """How many images of tissue to draw where no --data is given."""
    epochs: int = 20
    """Epochs of each network; the last one's weights are judged."""
    per_epoch: int = 320
    """Images drawn an epoch, each augmented anew; at least every training image once."""
    folds: int = 4
    """Into how many parts the images are cut."""
    seeds: int = 5
    """How many such cuts, each with networks of its own."""
    jobs: int = 1
    """Networks trained at a time, each on an equal share of the processors."""
    resume: Path | None = None
    """Folder of an interrupted run, to go on where it stopped; the other options must be those of that run."""

    def __post_init__(self):
        super().__post_init__()
        command_line.at_least(1, epochs=self.epochs, per_epoch=self.per_epoch, seeds=self.seeds, jobs=self.jobs)
        command_line.at_least(2, folds=self.folds)


if __name__ == "__main__":
    SETTINGS = command_line.parse(Settings)  # before the slow imports

# %%
import numpy as np
from rich.console import Console
from rich.table import Table

from cnn import baselines, evaluation, figures, folds, jobs, progress, recipe, reports, runs, slides, uncertainty
from cnn.folds import Fold
from cnn.slides import Slides

NETWORK, SHUFFLED, WHITE, GROUP, MAJORITY = (
    "network",
    "network, shuffled labels",
    "share of white",
    "group alone",
    "majority",
)
HISTOGRAMS = {f"histogram, C = {strength:g}": strength for strength in (0.05, 0.5)}

# %% [markdown]
# Which folds. Where there are many groups, one at a time would take a network for each; then they are left out by tens.


# %%
def protocols(labels: np.ndarray, groups: tuple[str, ...], settings: Settings) -> dict[str, list[list[Fold]]]:
    """The name of each protocol, and its folds for every repeat."""
    number = len(set(groups))
    if number <= 20:
        by_group = {"one group out": [folds.one_group_out(labels, groups)]}
    else:
        by_group = {"groups, 10-fold": [folds.group_folds(labels, groups, 10, settings.seed)]}
    seeds = range(settings.seed, settings.seed + settings.seeds)
    return by_group | {
        f"{settings.folds}-fold x {settings.seeds}": [folds.stratified_folds(labels, settings.folds, s) for s in seeds]
    }


# %% [markdown]
# What is asked. Each takes the images and labels to learn from and the images to judge, and gives probabilities.


# %%
def ask_network(data: Slides, labels: np.ndarray, settings: Settings, known, test, seed: int, shuffled: bool) -> list:
    """Trains a network on some images, or on them with their labels shuffled, and asks it about others."""
    if shuffled:
        rng = np.random.Generator(np.random.PCG64([settings.seed, seed]))
        labels = labels.copy()
        labels[known] = rng.permutation(labels[known])
    return recipe.fit_and_ask(settings, data.images, labels, 2, known, test, seed)[:, 1].tolist()


def ask_baselines(data: Slides, labels: np.ndarray, repeats: list[list[Fold]]) -> dict[str, np.ndarray]:
    """What needs no network, on the same folds: method -> probabilities (repeats, images)."""
    white = baselines.share_of_white(data.images)[:, None]
    colours = np.stack([baselines.histogram(image) for image in data.images])
    groups = np.array(data.groups)
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


# %% [markdown]
# What came out: means over the repeats, with intervals over images and over groups.


# %%
def summarize(scores: dict[str, np.ndarray], positive: np.ndarray, groups: tuple[str, ...]) -> dict:
    """Accuracy, AUC and Brier score of each method, and how far the network is ahead of the others."""
    methods, number = {}, len(positive)
    for name, probability in scores.items():
        right = (probability > 0.5) == positive
        both = {}
        for key, statistic in (
            ("accuracy", uncertainty.accuracy(right)),
            ("auc", uncertainty.auc(positive, probability)),
        ):
            both[key] = uncertainty.bootstrap(statistic, number)
            over_groups = uncertainty.bootstrap(statistic, number, groups=groups)
            both[key] |= {"low_groups": over_groups["low"], "high_groups": over_groups["high"]}
        both["accuracy"] |= {"k": int(right.sum()), "n": right.size}
        methods[name] = both | {"brier": evaluation.brier(positive, probability)}
    ahead = {}
    network = scores[NETWORK]
    for name in (*HISTOGRAMS, WHITE):
        statistic = uncertainty.difference(uncertainty.auc(positive, network), uncertainty.auc(positive, scores[name]))
        over_groups = uncertainty.bootstrap(statistic, number, groups=groups)
        ahead[name] = uncertainty.bootstrap(statistic, number) | {
            "low_groups": over_groups["low"],
            "high_groups": over_groups["high"],
            "p": uncertainty.paired_permutation(
                lambda ranks: float(uncertainty.auc(positive, ranks)(np.ones((1, number)))[0]),
                uncertainty.ranks(network),
                uncertainty.ranks(scores[name]),
                draws=2000,
            ),
        }
    return {"methods": methods, "network_minus": ahead}


def tables(name: str, summary: dict) -> list[Table]:
    """One protocol's figures for a terminal."""
    first = Table(title=f"{name}: 95 % intervals over images, and over groups", title_justify="left")
    for column in ("", "accuracy", "AUC", "Brier score"):
        first.add_column(column, justify="right" if column else "left")

    def cell(judged: dict) -> str:
        counts = f"{judged['k']}/{judged['n']} = " if "k" in judged else ""
        inner = f"\\[{judged['low']:.3f}, {judged['high']:.3f}]"
        return f"{counts}{judged['value']:.3f}\n{inner} \\[{judged['low_groups']:.3f}, {judged['high_groups']:.3f}]"

    for method, judged in summary["methods"].items():
        first.add_row(method, cell(judged["accuracy"]), cell(judged["auc"]), f"{judged['brier']:.3f}")
    second = Table(title=f"{name}: AUC of the network minus AUC of", title_justify="left")
    for column in ("", "difference", "p (permutation)"):
        second.add_column(column, justify="right" if column else "left")
    for method, judged in summary["network_minus"].items():
        second.add_row(method, cell(judged), f"{judged['p']:.3f}")
    return [first, second]


# %%
def prepare(settings: Settings, device: str, data: Slides, positive: str) -> Path:
    """The run's folder: a new one, or that of the run to go on with, if it had the same settings and images.

    Raises:
        UserError: naming each setting that differs.
    """
    digest = slides.source_digest(data)
    if settings.resume is None:
        folder = runs.create_folder("cross_validate", settings.out)
        runs.write_config(folder, "cross_validate", settings, device, positive=positive, data_digest=digest)
        return folder
    runs.check_same(settings.resume, settings, {"data_digest": digest}, may_differ=("jobs", "resume", "out", "device"))
    return settings.resume


def main(settings: Settings) -> dict:
    """Runs the job and returns what metrics.json holds."""
    device, console = command_line.choose_device(settings.device), Console()
    drawn = f"{settings.drawn} images of drawn tissue, seed {settings.seed}"
    print(command_line.first_line("cross_validate", device, str(settings.data or drawn)), flush=True)
    runs.check_new(settings.out)
    with progress.bar(console, "reading images", 0) as advance:
        data = recipe.read_slides(settings, advance)
    index = evaluation.positive_class(data.classes, settings.positive)
    positive = data.labels == index
    labels = positive.astype(np.int32)
    asked = protocols(labels, data.groups, settings)
    folder = prepare(settings, device, data, data.classes[index])

    pieces = {}
    for name, repeats in asked.items():
        for i, cut in enumerate(repeats):
            for j, fold in enumerate(cut):
                for shuffled in (False, True) if i == 0 else (False,):  # chance needs no five cuts
                    key = f"{name}, cut {i}, fold {j}, {SHUFFLED if shuffled else NETWORK}".replace(" ", "_")
                    pieces[key] = (fold.training, fold.test, settings.seed + 100 * i + j, shuffled)
    console.print(
        f"{len(data)} images of {len(set(data.groups))} groups; {len(pieces)} networks to train, "
        f"{settings.jobs} at a time; writing to {folder}",
        highlight=False,
        soft_wrap=True,
    )
    with (
        progress.bar(console, "networks", len(pieces)) as advance,
        command_line.interruptible(
            f"python -m experiments.cross_validate --resume {folder} and the options of this run"
        ),
    ):
        answers = jobs.run(
            pieces, ask_network, folder / "folds", jobs=settings.jobs, shared=(data, labels, settings), progress=advance
        )

    metrics, rows = {"positive": data.classes[index], "images": len(data), "protocols": {}}, []
    for name, repeats in asked.items():
        scores = ask_baselines(data, labels, repeats)
        for method, many in ((NETWORK, len(repeats)), (SHUFFLED, 1)):
            scores[method] = np.full((many, len(data)), np.nan)
            for i, cut in enumerate(repeats[:many]):
                for j, fold in enumerate(cut):
                    scores[method][i, fold.test] = answers[f"{name}, cut {i}, fold {j}, {method}".replace(" ", "_")]
        metrics["protocols"][name] = summarize(scores, positive, data.groups)
        for table in tables(name, metrics["protocols"][name]):
            console.print(table)
        rows += [
            (name, method, i, data.names[k], data.groups[k], data.classes[data.labels[k]], f"{p:.9g}")
            for method, probability in scores.items()
            for i, row in enumerate(probability)
            for k, p in enumerate(row)
        ]
        figures.intervals(
            folder / f"{name.replace(' ', '_')}.png",
            {method: judged["auc"] for method, judged in metrics["protocols"][name]["methods"].items()},
            "area under the ROC curve, with 95 % interval over images",
            f"{name}: {len(data)} images, each judged by what has not seen it",
            scale=1,
        )
        bins = evaluation.reliability(np.tile(positive, len(repeats)), scores[NETWORK].ravel())
        title = f"{name}: can its probabilities be trusted?"
        figures.reliability(folder / f"{name.replace(' ', '_')}_reliability.png", bins, title)
    runs.write_json(folder / "metrics.json", metrics)
    columns = ("protocol", "method", "repeat", "name", "group", "label", "probability")
    runs.write_csv(folder / "predictions.csv", columns, rows)
    reports.print_files(console, folder)
    return metrics


if __name__ == "__main__":
    with command_line.one_sentence():
        main(SETTINGS)
