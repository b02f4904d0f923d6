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
        # of the 2^5 ways to exchange five groups two are as extreme: p is no less than 1/16
        assert ahead["p"] == pytest.approx(1 / 16, abs=0.02)
    images = tuple(map(str, range(30)))
    assert summarize(summary["scores"], POSITIVE, images, "good", ("bad",))["ahead"]["bad"]["p"] < 0.01


def test_a_method_is_not_ahead_of_itself(summary):
    twice = {"good": summary["scores"]["good"], "again": summary["scores"]["good"]}
    ahead = summarize(twice, POSITIVE, GROUPS, "good", ("again",))["ahead"]["again"]
    assert (ahead["value"], ahead["low"], ahead["high"], ahead["p"]) == (0, 0, 0, 1)


def test_a_perfect_method_is_not_said_to_be_perfect_for_sure():
    perfect = summarize({"all": POSITIVE[None].astype(float)}, POSITIVE, GROUPS, "all", ())["methods"]["all"]
    #   Wilson, k = n: the lower end is n / (n + 1.96^2), of 30 images and of 5 groups
    assert perfect["accuracy"]["low"] == pytest.approx(30 / (30 + 1.96**2), abs=1e-4)
    assert perfect["accuracy"]["low_groups"] == pytest.approx(5 / (5 + 1.96**2), abs=1e-4)
    assert 0.8 < perfect["auc"]["low"] < 1
    assert 0.4 < perfect["auc"]["low_groups"] < perfect["auc"]["low"], "five groups with both classes say less"
    assert perfect["auc"]["high"] == perfect["auc"]["high_groups"] == perfect["accuracy"]["high"] == 1
    wrong = summarize({"none": 1.0 - POSITIVE[None]}, POSITIVE, GROUPS, "none", ())["methods"]["none"]
    for figure in ("accuracy", "auc"):
        for end, other in (("high", "low"), ("high_groups", "low_groups")):
            assert wrong[figure][end] == pytest.approx(1 - perfect[figure][other]), "nor a hopeless one hopeless"
            assert wrong[figure][other] == 0


def printed(found: dict) -> str:
    """What a wide terminal shows."""
    console = Console(width=150, record=True, file=io.StringIO())
    for table in tables("one group out", found):
        console.print(table)
    return console.export_text()


def test_the_tables_say_counts_intervals_and_p(summary):
    text = printed(summary)
    accuracy = summary["methods"]["good"]["accuracy"]
    assert f"{accuracy['k']}/60 = {accuracy['value']:.3f}" in text
    assert f"[{accuracy['low']:.3f}, {accuracy['high']:.3f}]" in text
    assert f"{summary['ahead']['bad']['p']:.4f}" in text
    assert "AUC of the good minus AUC of" in text


def test_groups_that_are_all_right_or_all_wrong_say_less_and_the_table_says_so():
    groups, positive = tuple(np.repeat(list("abcdefghij"), 6)), np.tile([True, False], 30)
    said = np.where(np.repeat([1] * 8 + [0] * 2, 6), positive, ~positive).astype(float)
    found = summarize({"m": said[None]}, positive, groups, "m", ())
    for name in ("accuracy", "auc"):  # ten answers, not sixty
        one = found["methods"]["m"][name]
        assert (one["high_groups"] - one["low_groups"]) / (one["high"] - one["low"]) == pytest.approx(6**0.5, rel=0.2)
    accuracy = found["methods"]["m"]["accuracy"]
    assert f"[{accuracy['low_groups']:.3f}, {accuracy['high_groups']:.3f}]" in printed(found)


def test_the_p_does_not_depend_on_the_scale_of_the_scores():
    rng, positive = np.random.default_rng(0), np.arange(20) < 10
    a, b = np.clip(rng.normal(0.4 + 0.2 * positive, 0.2, (2, 20)), 0, 1), rng.random((2, 20))
    images = tuple(map(str, range(20)))
    p, again = (summarize({"a": a, "b": s}, positive, images, "a", ("b",))["ahead"]["b"]["p"] for s in (b, b / 10))
    assert 0.001 < p == again < 1


def test_one_half_is_not_called_positive():
    truth = np.array([True, False, False, False])
    found = summarize({"a": np.full((1, 4), 0.5)}, truth, tuple("wxyz"), "a", ())
    assert found["methods"]["a"]["accuracy"]["k"] == 3
