"""Comparison: several methods asked about the same images. Next: test_the_blog.py."""

import io

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import roc_auc_score

from cnn.comparison import summarize, tables

POSITIVE = np.array([True, True, True, False, False, False] * 5)
GROUPS = tuple(f"g{i // 6}" for i in range(30))


@pytest.fixture(scope="module")
def summary() -> dict:
    """A good method asked twice, and a bad one."""
    rng = np.random.default_rng(0)
    good = np.clip(0.5 + 0.3 * (2 * POSITIVE - 1) + 0.2 * rng.standard_normal((2, 30)), 0, 1)
    scores = {"good": good, "bad": rng.random((2, 30)), "constant": np.zeros((1, 30))}
    found = summarize(scores, POSITIVE, GROUPS, "good", ("bad", "constant"))
    return found | {"scores": scores}


def test_figures_are_means_over_the_repeats(summary):
    for name, scores in summary["scores"].items():
        got = summary["methods"][name]
        assert got["auc"]["value"] == pytest.approx(np.mean([roc_auc_score(POSITIVE, row) for row in scores]))
        assert got["accuracy"]["k"] == ((scores > 0.5) == POSITIVE).sum()
        assert got["accuracy"]["n"] == scores.size
        assert got["accuracy"]["value"] == pytest.approx(got["accuracy"]["k"] / got["accuracy"]["n"])
        assert got["brier"] == pytest.approx(np.mean((scores - POSITIVE) ** 2))
        for key in ("accuracy", "auc"):
            for low, high in (("low", "high"), ("low_groups", "high_groups")):
                assert got[key][low] <= got[key]["value"] <= got[key][high]


def test_a_method_is_ahead_by_the_difference_of_the_areas_and_surely_so(summary):
    areas = {name: judged["auc"]["value"] for name, judged in summary["methods"].items()}
    for name, ahead in summary["ahead"].items():
        assert ahead["value"] == pytest.approx(areas["good"] - areas[name])
        assert 0 < ahead["low"] < ahead["value"] < ahead["high"]
        assert ahead["p"] < 0.01


def test_a_method_is_not_ahead_of_itself(summary):
    twice = {"good": summary["scores"]["good"], "again": summary["scores"]["good"]}
    ahead = summarize(twice, POSITIVE, GROUPS, "good", ("again",))["ahead"]["again"]
    assert (ahead["value"], ahead["low"], ahead["high"], ahead["p"]) == (0, 0, 0, 1)


def test_the_tables_say_counts_intervals_and_p(summary):
    console = Console(width=150, record=True, file=io.StringIO())
    for table in tables("one group out", summary):
        console.print(table)
    text = console.export_text()
    accuracy = summary["methods"]["good"]["accuracy"]
    assert f"{accuracy['k']}/60 = {accuracy['value']:.3f}" in text
    assert f"[{accuracy['low']:.3f}, {accuracy['high']:.3f}]" in text
    assert f"{summary['ahead']['bad']['p']:.4f}" in text
    assert "AUC of the good minus AUC of" in text
