"""Several methods asked about the same images: how good each is, and how far one of them is ahead of the others."""

import numpy as np
from rich.table import Table

from cnn import uncertainty
from cnn.evaluation import brier


def _with_intervals(statistic: uncertainty.Statistic, number: int, groups: tuple[str, ...]) -> dict:
    """A figure with two intervals: {"value", "low", "high"} over images, "low_groups" and "high_groups" over groups."""
    over_groups = uncertainty.bootstrap(statistic, number, groups=groups)
    return uncertainty.bootstrap(statistic, number) | {
        "low_groups": over_groups["low"],
        "high_groups": over_groups["high"],
    }


def summarize(
    scores: dict[str, np.ndarray], positive: np.ndarray, groups: tuple[str, ...], first: str, others: tuple[str, ...]
) -> dict:
    """Accuracy, AUC and Brier score of each method, and the AUC of one of them minus that of others.

    Args:
        scores: method -> probability of the positive class, (repeats, images); more than 0.5 is called positive.
        positive: (images,) bool.
        groups: one name an image.
        first: the method that is compared; its repeats are those of the others.
        others: what it is compared with.
    Returns:
        {"methods": {name: {"accuracy", "auc", "brier"}}, "ahead": {name: {.., "p"}}}; intervals are of 95 %.
    """
    methods, number = {}, len(positive)
    for name, probability in scores.items():
        right = (probability > 0.5) == positive
        counts = {"k": int(right.sum()), "n": right.size}
        methods[name] = {
            "accuracy": counts | _with_intervals(uncertainty.accuracy(right), number, groups),
            "auc": _with_intervals(uncertainty.auc(positive, probability), number, groups),
            "brier": brier(positive, probability),
        }
    area, every = uncertainty.auc(positive, scores[first]), np.ones((1, number))
    ahead = {}
    for name in others:
        statistic = uncertainty.difference(area, uncertainty.auc(positive, scores[name]))
        p = uncertainty.paired_permutation(
            lambda ranks: float(uncertainty.auc(positive, ranks)(every)[0]),
            uncertainty.ranks(scores[first]),
            uncertainty.ranks(scores[name]),
            draws=2000,
        )
        ahead[name] = _with_intervals(statistic, number, groups) | {"p": p}
    return {"methods": methods, "first": first, "ahead": ahead}


def _cell(judged: dict) -> str:
    counts = f"{judged['k']}/{judged['n']} = " if "k" in judged else ""
    over_images = f"[{judged['low']:.3f}, {judged['high']:.3f}]"
    return f"{counts}{judged['value']:.3f}\n{over_images} [{judged['low_groups']:.3f}, {judged['high_groups']:.3f}]"


def tables(title: str, summary: dict) -> list[Table]:
    """What `summarize` found, for a terminal."""
    first = Table(title=f"{title}: in brackets 95 % intervals over images, and over groups", title_justify="left")
    for column in ("", "accuracy", "AUC", "Brier score"):
        first.add_column(column, justify="right" if column else "left")
    for method, judged in summary["methods"].items():
        first.add_row(method, _cell(judged["accuracy"]), _cell(judged["auc"]), f"{judged['brier']:.3f}")
    second = Table(title=f"{title}: AUC of the {summary['first']} minus AUC of", title_justify="left")
    for column in ("", "difference", "p (permutation)"):
        second.add_column(column, justify="right" if column else "left")
    for method, judged in summary["ahead"].items():
        second.add_row(method, _cell(judged), f"{judged['p']:.4f}")
    return [first, second]
