"""Figures and how sure one can be of them: counts, rates, intervals, the area under the curve.

Next: test_uncertainty.py.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn.errors import UserError
from cnn.evaluation import auc, brier, difference, judge, mistakes, positive_class, rate, reliability
from tests.checkers import assert_equal_arrays


def test_a_wilson_interval_by_hand():
    # 8 of 10, z = 1.96: centre (8 + z^2/2) / (10 + z^2), half-width z / (10 + z^2) * sqrt(8 * 2 / 10 + z^2 / 4)
    z = 1.959964
    centre, half = (8 + z**2 / 2) / (10 + z**2), z / (10 + z**2) * math.sqrt(8 * 2 / 10 + z**2 / 4)
    got = rate(8, 10)
    assert (got["k"], got["n"], got["value"]) == (8, 10, 0.8)
    assert got["low"] == pytest.approx(centre - half, abs=1e-6)
    assert got["high"] == pytest.approx(centre + half, abs=1e-6)


def test_a_difference_of_rates_reaches_as_far_as_the_ends_of_both_intervals():
    first, second = rate(56, 70), rate(48, 80)
    got = difference(first, second)
    assert got["low"] == pytest.approx(0.2 - math.hypot(0.8 - first["low"], second["high"] - 0.6))
    assert got["high"] == pytest.approx(0.2 + math.hypot(first["high"] - 0.8, 0.6 - second["low"]))
    other = difference(second, first)
    assert (other["value"], other["low"], other["high"]) == pytest.approx((-got["value"], -got["high"], -got["low"]))


def test_the_interval_of_51_of_58_slides_is_17_points_wide():
    got = rate(51, 58)
    assert (round(100 * got["low"], 1), round(100 * got["high"], 1)) == (77.1, 94.0)


def test_all_right_does_not_mean_sure():
    # with k = n the lower end is n / (n + z^2): 12 of 12 leaves room for 76 %
    assert rate(12, 12)["low"] == pytest.approx(12 / (12 + 1.959964**2), abs=1e-6)
    assert rate(12, 12)["high"] == pytest.approx(1.0)


def test_of_nothing_nothing_is_said():
    assert rate(0, 0) == {"k": 0, "n": 0, "value": None, "low": None, "high": None}


def test_the_area_under_the_curve_counts_pairs_in_order():
    # positives score 0.9, 0.4; negatives 0.4, 0.1, 0.6: of 6 pairs 0.9 wins 3, 0.4 wins 1 and ties 1
    scores = np.array([0.9, 0.4, 0.4, 0.1, 0.6])
    positive = np.array([True, True, False, False, False])
    assert auc(positive, scores)["value"] == pytest.approx((3 + 1 + 0.5) / 6)


def test_both_ends_of_the_areas_interval_lie_1_96_of_their_own_standard_errors_away():
    rng = np.random.default_rng(0)
    positive = np.arange(30) < 12
    got = auc(positive, positive + rng.normal(size=30))
    for t in (got["low"], got["high"]):
        pairs = 30 / 2 - 1
        variance = t * (1 - t) / (12 * 18) * (1 + pairs * (1 - t) / (2 - t) + pairs * t / (1 + t))
        assert abs(t - got["value"]) == pytest.approx(1.959964 * math.sqrt(variance), rel=1e-5)
    assert got["low"] < got["value"] < got["high"]


def test_an_area_of_one_has_a_lower_end_below_one_and_an_area_of_zero_an_upper_end_above_it():
    positive = np.array([True, True, True, False, False, False])
    perfect, hopeless = auc(positive, positive.astype(float)), auc(positive, -positive.astype(float))
    assert perfect["value"] == perfect["high"] == 1.0
    assert 0.3 < perfect["low"] < 0.9
    assert hopeless["value"] == hopeless["low"] == 0.0
    assert hopeless["high"] == pytest.approx(1 - perfect["low"], abs=1e-6)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=20))
def test_the_area_equals_the_count_over_all_pairs(images):
    positive = np.array([p for p, _ in images])
    scores = np.array([float(s) for _, s in images])
    got = auc(positive, scores)
    if positive.all() or not positive.any():
        assert got == {"value": None, "low": None, "high": None}
    else:
        wins = [np.sign(a - b) / 2 + 0.5 for a in scores[positive] for b in scores[~positive]]
        assert got["value"] == pytest.approx(np.mean(wins))
        assert 0 <= got["low"] <= got["value"] + 1e-9
        assert got["value"] <= got["high"] + 1e-9 <= 1 + 1e-8


def test_every_rate_of_ten_images_by_hand():
    #            true: b  b  b  b  b  b  m  m  m  m     benign 0, malignant 1
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1])
    p = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.2, 0.9, 0.8, 0.7, 0.3])  # of malignant: one false alarm, one missed
    got = judge(labels, np.stack([1 - p, p], axis=1), ("benign", "malignant"), 1)
    assert got["confusion_matrix"] == [[5, 1], [1, 3]]  # rows true, columns predicted
    counts = {
        name: (got[name]["k"], got[name]["n"]) for name in ("accuracy", "sensitivity", "specificity", "ppv", "npv")
    }
    assert counts == {
        "accuracy": (5 + 3, 10),
        "sensitivity": (3, 4),
        "specificity": (5, 6),
        "ppv": (3, 4),
        "npv": (5, 6),
    }
    # 24 pairs: 0.9, 0.8 and 0.7 beat all 6; 0.3 beats 0.1, 0.2, 0.2 and ties 0.3
    assert got["auc"]["value"] == pytest.approx((6 + 6 + 6 + 3.5) / 24)
    assert (got["n"], got["positive"], got["classes"]) == (10, "malignant", ["benign", "malignant"])


def test_with_three_classes_all_but_the_positive_one_count_as_negative():
    labels = np.array([0, 1, 2, 2])
    probabilities = np.eye(3)[[1, 0, 2, 0]]  # the mix-up of 0 and 1 is an error, but no false alarm for class 2
    got = judge(labels, probabilities, ("a", "b", "c"), 2)
    assert (got["accuracy"]["k"], got["sensitivity"]["k"], got["specificity"]["k"]) == (1, 1, 2)
    assert got["confusion_matrix"] == [[0, 1, 0], [1, 0, 0], [1, 0, 1]]


def test_malignant_is_positive_wherever_it_stands_and_else_the_last_class():
    assert positive_class(("malignant", "normal")) == 0
    assert positive_class(("cat", "dog")) == 1
    assert positive_class(("cat", "dog"), "cat") == 0
    with pytest.raises(UserError, match='there is no class "cow"; wants one of cat, dog'):
        positive_class(("cat", "dog"), "cow")


def test_mistakes_come_surest_first():
    labels = np.array([0, 0, 1, 1])
    of_one = np.array([0.6, 0.1, 0.05, 0.45])  # image 0 is wrong with 0.6, 2 with 0.95, 3 with 0.55
    assert_equal_arrays(mistakes(labels, np.stack([1 - of_one, of_one], axis=1)), [2, 0, 3], "the surest mistake first")


def test_the_brier_score_by_hand():
    # (0.9 - 1)^2, (0.2 - 0)^2, (0.5 - 1)^2: 0.01 + 0.04 + 0.25 over 3
    positive = np.array([True, False, True])
    assert brier(positive, np.array([0.9, 0.2, 0.5])) == pytest.approx(0.1)
    assert brier(positive, np.full((2, 3), 0.5)) == 0.25
    assert brier(positive, np.array([1.0, 0.0, 1.0])) == 0


def test_reliability_counts_the_positive_images_of_each_fifth():
    positive = np.array([False, False, True, True, True, False])
    got = reliability(positive, np.array([0.05, 0.15, 0.19, 0.45, 1.0, 0.99]))
    assert [(one["k"], one["n"]) for one in got] == [(1, 3), (1, 1), (1, 2)]
    assert [one["said"] for one in got] == [pytest.approx(x) for x in (0.13, 0.45, 0.995)]
    assert got[0]["value"] == 1 / 3
    assert got[0]["low"] < 1 / 3 < got[0]["high"]
