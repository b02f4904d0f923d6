"""Several methods asked about the same images: how good each is, and how far one of them is ahead of the others."""

from functools import partial

import numpy as np
from rich.table import Table

from cnn import uncertainty
from cnn.evaluation import auc, brier, rate


def _with_intervals(statistic: uncertainty.Statistic, number: int, groups: tuple[str, ...], certain=None) -> dict:
    """A figure with two intervals: {"value", "low", "high"} over images, "low_groups" and "high_groups" over groups.

    A figure of 1 is 1 in every resample, and one of 0 is 0, so that the bootstrap knows no interval for it. It is then
    what `certain` gives for the figure and the images, and for the groups as if each were one image: what it means of
    so few. (A difference between two that are both certain keeps the bootstrap's, a single point that says nothing.)
    """
    found = uncertainty.bootstrap(statistic, number)
    over_groups = uncertainty.bootstrap(statistic, number, groups=groups)
    if certain is not None and found["value"] in (0, 1):
        found, over_groups = certain(found["value"], None), certain(found["value"], groups)
    return found | {"low_groups": over_groups["low"], "high_groups": over_groups["high"]}


def _certain_accuracy(number: int, value: float, groups: tuple[str, ...] | None) -> dict:
    """Wilson's interval of all right (1) or all wrong (0), of the images or of the groups."""
    count = number if groups is None else len(set(groups))
    judged = rate(count * value, count)
    return {name: judged[name] for name in ("value", "low", "high")}


def _certain_auc(positive: np.ndarray, value: float, groups: tuple[str, ...] | None) -> dict:
    """Newcombe's interval of an area of 1 or 0, of the images or of the groups that hold images of each class."""
    units = positive
    if groups is not None:
        pairs = sorted(set(zip(positive.tolist(), groups)))
        units = np.array([is_positive for is_positive, _ in pairs])
    return auc(units, units == value)


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
            "accuracy": counts
            | _with_intervals(uncertainty.accuracy(right), number, groups, partial(_certain_accuracy, number)),
            "auc": _with_intervals(
                uncertainty.auc(positive, probability), number, groups, partial(_certain_auc, positive)
            ),
            "brier": brier(positive, probability),
        }
    area = uncertainty.auc(positive, scores[first])
    ahead = {}
    for name in others:
        statistic = uncertainty.difference(area, uncertainty.auc(positive, scores[name]))
        p = uncertainty.paired_permutation(
            partial(uncertainty.area_of_ranks, positive),
            uncertainty.ranks(scores[first]),
            uncertainty.ranks(scores[name]),
            groups=groups,
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
