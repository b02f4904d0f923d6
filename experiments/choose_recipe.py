# %% [markdown]
"""Which recipe do few slides deserve? Each part of it, judged without the images that are to judge the whole.

    python -m experiments.choose_recipe --data FOLDER --jobs 2

To choose is to learn. Whoever tries ten recipes on the test images and reports the best one has fitted the test images,
and its figure is too good. So the choice is made inside: whole groups are cut into five folds. Without fold 1, the
other four are judged one after the other, by networks that learn from the remaining three. That says which recipe to
take when fold 1 is the test; the same without fold 2, and so on. If all five agree, no image had a say in the choice of
the recipe that it is going to test; where they do not, some had a little. A network without folds 1 and 2 serves both,
so it takes ten networks a candidate.

What came of it on the 58 UCSB slides, `results.md` tells.
"""

from dataclasses import dataclass, replace

from cnn import command_line
from cnn.errors import UserError, counted


# %%
@dataclass(frozen=True, kw_only=True)
class Settings(command_line.Recipe):
    """Compare recipes by nested validation: the default one, and what becomes of it if one part is changed."""

    drawn: int = 120
    """How many images of tissue to draw where no --data is given."""
    epochs: int = 40
    """Epochs of each network; the last one's weights are judged."""
    per_epoch: int = 320
    """Images drawn an epoch, each augmented anew; at least every training image once."""
    folds: int = 5
    """Into how many parts the groups are cut."""
    jobs: int = 1
    """Networks trained at a time, each on an equal share of the processors, and of several GPUs on one. Each
    process has the images in its own memory."""

    def __post_init__(self):
        super().__post_init__()
        command_line.at_least(1, epochs=self.epochs, per_epoch=self.per_epoch, jobs=self.jobs)
        command_line.at_least(3, folds=self.folds)


if __name__ == "__main__":
    SETTINGS = command_line.parse(Settings)  # before the slow imports
    command_line.begin_to_draw(SETTINGS)

# %%
from itertools import combinations

import numpy as np
from rich.table import Table
from sklearn.metrics import log_loss, roc_auc_score

from cnn import evaluation, figures, folds, progress, recipe, reports, resuming, runs, slides
from cnn.many import train_many

# %% [markdown]
# The candidates: one part changed at a time, so that each row of the table says what that part brings.

# %%
CANDIDATES = {
    "the recipe": {},
    "a plain mean, no attention": {"model": "tissue-mean"},
    "haematoxylin as strong as it is": {"model": "tissue-haematoxylin"},
    "haematoxylin, eosin and the rest": {"model": "tissue-stains"},
    "red, green and blue": {"model": "tissue-colours"},
    "half as many steps": {"epochs": 0.5},
}


def candidate(settings: Settings, name: str) -> Settings:
    """The settings with that candidate's change."""
    change = dict(CANDIDATES[name])
    if "epochs" in change:
        change["epochs"] = max(1, round(change["epochs"] * settings.epochs))
    return replace(settings, **change)


def ask(
    images, labels, settings: Settings, name: str, known: np.ndarray, asked: np.ndarray, seed: int, report
) -> list[float]:
    """Trains a candidate on some images, and gives the probability of the positive class for others."""
    return recipe.fit_and_ask(candidate(settings, name), images, labels, 2, known, asked, seed, report)[:, 1].tolist()


# %% [markdown]
# What the inner folds say. `answers[a, b]` are the probabilities of fold b's images by a candidate without a and b.


# %%
def score(answers: dict, parts: list[np.ndarray], positive: np.ndarray) -> list[dict]:
    """For every outer fold: AUC, accuracy and loss of the images outside it, judged by networks that saw neither."""
    scores = []
    for outer in range(len(parts)):
        inner = [b for b in range(len(parts)) if b != outer]
        truth = np.concatenate([positive[parts[b]] for b in inner])
        said = np.concatenate([answers[outer, b] for b in inner])
        scores.append(
            {
                "auc": float(roc_auc_score(truth, said)),
                "accuracy": evaluation.rate(((said > 0.5) == truth).sum(), len(truth)),
                "loss": float(log_loss(truth, said)),
            }
        )
    return scores


def decide(scores: dict[str, list[dict]]) -> list[str]:
    """For every outer fold, the candidate with the lowest inner loss: it counts sureness, which accuracy does not."""
    number = len(next(iter(scores.values())))
    return [min(scores, key=lambda name: scores[name][outer]["loss"]) for outer in range(number)]


def verdict(chosen: list[str]) -> str:
    """What the choice means, in a sentence or two."""
    if len(set(chosen)) == 1:
        return (
            f"All {len(chosen)} folds, each without looking at its own images, choose: {chosen[0]}. "
            "So this recipe may be judged by cross-validation, once, as it is."
        )
    counts = ", ".join(f"{name} ({chosen.count(name)} of {len(chosen)})" for name in dict.fromkeys(chosen))
    return (
        f"The folds do not agree: {counts}. So whichever is taken, some images had a say in the choice of what judges "
        "them, and its cross-validated figure may be a little too good."
    )


# %%
def main(settings: Settings) -> dict:
    """Runs the job and returns what metrics.json holds."""
    settings = resuming.own_settings("choose_recipe", settings)
    if settings.model != "tissue":
        raise UserError(f"--model: the candidates are variants of tissue, and {settings.model} is not what they vary")
    device, console = command_line.choose_device(settings.device, settings.precision), progress.terminal()
    print(command_line.first_line("choose_recipe", device, settings.source), flush=True)
    runs.check_new(settings.out)
    data, skipped = recipe.read_slides(settings, console)
    index = evaluation.positive_class(data.classes, settings.positive)
    positive = data.labels == index
    labels = positive.astype(np.int32)
    parts = [fold.test for fold in folds.group_folds(labels, data.groups, settings.folds, settings.seed)]
    digest = slides.source_digest(data)
    folder = resuming.begin_or_resume("choose_recipe", settings, device, data_digest=digest, skipped=skipped)

    pairs = list(combinations(range(settings.folds), 2))
    pieces = {}
    for name in CANDIDATES:
        for number, (a, b) in enumerate(pairs):
            asked = np.concatenate([parts[a], parts[b]])
            known = np.setdiff1d(np.arange(len(data)), asked)
            pieces[f"{name}, without {a} and {b}"] = (name, known, asked, settings.seed + number)
    console.print(f"{counted(len(data), 'image')} of {counted(len(set(data.groups)), 'group')}", highlight=False)
    shared = (data.images, labels, settings)
    results = train_many(console, "choose_recipe", settings, folder, pieces, ask, shared, digest)

    scores, rows = {}, []
    for name in CANDIDATES:
        answers = {}
        for a, b in pairs:
            said = np.array(results[f"{name}, without {a} and {b}"])
            answers[b, a], answers[a, b] = said[: len(parts[a])], said[len(parts[a]) :]
        scores[name] = score(answers, parts, positive)
        rows += [
            (name, outer + 1, data.names[i], data.groups[i], data.classes[data.labels[i]], f"{p:.9g}")
            for (outer, inner), said in sorted(answers.items())
            for i, p in zip(parts[inner], said)
        ]
    chosen = decide(scores)
    metrics = {"candidates": scores, "chosen": chosen}
    runs.write_json(folder / "metrics.json", metrics)
    columns = ("candidate", "fold left out", "name", "group", "label", f"probability of {data.classes[index]}")
    runs.write_csv(folder / "predictions.csv", columns, rows)

    table = Table(title=f"mean over {settings.folds} folds left out; in brackets the range", title_justify="left")
    for column in ("", "AUC", "accuracy", "loss (nats)", "chosen by"):
        table.add_column(column, justify="right" if column else "left")
    for name, found in scores.items():
        areas, losses = ([one[key] for one in found] for key in ("auc", "loss"))
        rights = [one["accuracy"]["value"] for one in found]
        cells = [f"{np.mean(v):.3f}\n[{min(v):.3f}, {max(v):.3f}]" for v in (areas, rights, losses)]
        table.add_row(name, *cells, f"{chosen.count(name)} of {settings.folds}")
    console.print(table)
    console.print(verdict(chosen), highlight=False, soft_wrap=True)
    losses = {name: [one["loss"] for one in found] for name, found in scores.items()}
    figures.intervals(
        folder / "candidates.png",
        {"": {name: {"value": float(np.mean(v)), "low": min(v), "high": max(v)} for name, v in losses.items()}},
        "cross-entropy of images not learned from (nats):\nmean and range over the folds left out",
        "What each part of the recipe brings: less is better",
        scale=1,
        chance=float(np.log(2)),
    )
    reports.print_files(console, folder)
    return metrics


if __name__ == "__main__":
    with command_line.one_sentence():
        main(SETTINGS)
