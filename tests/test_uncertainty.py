"""Uncertainty: how much a figure moves when its images are drawn again. Next: test_comparison.py.

By hand: positive images score 0.9, 0.6 and 0.4, the others 0.5 and 0.1. Of the 6 pairs, 5 are in order: AUC 5/6.
"""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from cnn import uncertainty
from cnn.errors import UserError
from cnn.uncertainty import (
    accuracy,
    area_of_ranks,
    auc,
    bootstrap,
    counts_that_give,
    difference,
    paired_permutation,
    ranks,
    resamples,
)

POSITIVE = np.array([True, True, True, False, False])
SCORES = np.array([0.9, 0.6, 0.4, 0.5, 0.1])
ALL = np.ones((1, 5))


def test_every_resample_holds_as_many_images_as_there_are():
    weights = resamples(58, 1000, seed=0)
    assert weights.shape == (1000, 58)
    assert (weights.sum(axis=1) == 58).all()
    # an image is missing from a resample with probability (1 - 1/58)^58 = 0.3647
    assert (weights == 0).mean() == pytest.approx((1 - 1 / 58) ** 58, abs=0.01)
    assert np.array_equal(weights, resamples(58, 1000, seed=0))
    assert not np.array_equal(weights, resamples(58, 1000, seed=1))


def test_groups_are_drawn_whole():
    weights = resamples(5, 200, seed=0, groups=("a", "b", "a", "a", "c"))
    assert np.array_equal(weights[:, 0], weights[:, 2])
    assert np.array_equal(weights[:, 0], weights[:, 3])
    assert (weights[:, [0, 1, 4]].sum(axis=1) == 3).all(), "three groups are drawn"


def test_the_area_under_the_curve_by_hand_and_in_resamples():
    area = auc(POSITIVE, SCORES)
    assert area(ALL)[0] == 5 / 6
    # the image with 0.4 twice, the one with 0.9 not at all: pairs of 0.6, 0.4, 0.4 with 0.5, 0.1: 4 of 6 in order
    assert area(np.array([[0.0, 1, 2, 1, 1]]))[0] == 4 / 6
    assert np.isnan(area(np.array([[0.0, 0, 0, 3, 2]]))[0]), "without a positive image there is no pair"
    assert auc(POSITIVE, np.full(5, 0.3))(ALL)[0] == 0.5, "ties count half"


def test_a_resample_is_what_scikit_learn_makes_of_repeated_images():
    rng = np.random.default_rng(0)
    positive, scores = rng.random(30) < 0.4, rng.integers(0, 10, (3, 30)) / 10
    for weights in resamples(30, 20, seed=1):
        again = np.repeat(np.arange(30), weights.astype(int))
        expected = np.mean([roc_auc_score(positive[again], row[again]) for row in scores])
        assert auc(positive, scores)(weights[None])[0] == pytest.approx(expected)
        expected = np.mean([((row > 0.5) == positive)[again].mean() for row in scores])
        assert accuracy((scores > 0.5) == positive)(weights[None])[0] == pytest.approx(expected)


def test_the_interval_of_a_proportion_is_near_that_of_the_binomial():
    # 51 of 58: the bootstrap of a mean has the binomial's own spread, sqrt(p (1 - p) / n)
    correct = np.arange(58) < 51
    got = bootstrap(accuracy(correct), 58, seed=3)
    spread = 1.96 * math.sqrt(51 / 58 * 7 / 58 / 58)
    assert got["value"] == 51 / 58
    assert got["low"] == pytest.approx(51 / 58 - spread, abs=0.02)
    assert got["high"] == pytest.approx(51 / 58 + spread, abs=0.02)


def test_the_interval_is_the_one_of_scipy():
    rng = np.random.default_rng(0)
    correct = rng.random(40) < 0.8
    theirs = stats.bootstrap((correct,), np.mean, n_resamples=9999, method="percentile", rng=rng).confidence_interval
    ours = bootstrap(accuracy(correct), 40)
    assert ours["low"] == pytest.approx(theirs.low, abs=0.026)  # a step is 1/40
    assert ours["high"] == pytest.approx(theirs.high, abs=0.026)


def test_the_interval_holds_the_middle_95_of_100_resamples(monkeypatch):
    monkeypatch.setattr(uncertainty, "resamples", lambda *_: np.arange(1001.0)[:, None] / 1000)
    got = bootstrap(lambda weights: weights[:, 0], 1)
    assert (got["low"], got["high"]) == (pytest.approx(0.025), pytest.approx(0.975))


def test_resamples_of_one_class_are_left_out_of_the_interval():
    got = bootstrap(auc(POSITIVE, SCORES), 5)  # 0.6^5 + 0.4^5: a resample in eleven has one class only
    assert 0 <= got["low"] < 5 / 6 < got["high"] == 1


def test_images_that_come_in_groups_say_less():
    # ten groups of six, all right or all wrong: ten answers, not sixty
    correct, groups = np.repeat([1, 1, 1, 1, 1, 1, 1, 1, 0, 0], 6), tuple(np.repeat(list("abcdefghij"), 6))
    by_image, by_group = bootstrap(accuracy(correct), 60), bootstrap(accuracy(correct), 60, groups=groups)
    assert by_image["value"] == by_group["value"] == 0.8
    ratio = (by_group["high"] - by_group["low"]) / (by_image["high"] - by_image["low"])
    assert ratio == pytest.approx(math.sqrt(6), rel=0.15)


def test_a_difference_is_taken_within_each_resample():
    # two classifiers that are right and wrong together differ by nothing, however uncertain each is
    correct = np.arange(30) % 3 > 0
    assert bootstrap(difference(accuracy(correct), accuracy(correct)), 30) == {"value": 0, "low": 0, "high": 0}
    other = correct.copy()
    other[0] = True  # one image more
    got = bootstrap(difference(accuracy(other), accuracy(correct)), 30)
    assert (got["value"], got["low"]) == (pytest.approx(1 / 30), 0)


def test_a_permutation_test_by_hand(monkeypatch):
    # 4 images, first right in all, second in none: all 16 exchanges, and 2 of them are as extreme
    first, second = np.ones((1, 4)), np.zeros((1, 4))
    every = itertools.cycle(itertools.product([0.0, 0.9], repeat=4))

    class Generator:
        def random(self, number):
            return np.array(next(every))

    monkeypatch.setattr(uncertainty.np.random, "Generator", lambda bits: Generator())
    p = paired_permutation(lambda right: float(right.mean()), first, second, draws=16)
    assert p == (1 + 2) / (1 + 16)


def test_equal_classifiers_differ_by_chance_and_unequal_ones_do_not():
    rng = np.random.default_rng(0)
    right = rng.random((2, 200)) < 0.8
    assert paired_permutation(np.mean, right[0], right[1], draws=500) > 0.05
    worse = right[0] & (rng.random(200) < 0.8)
    assert paired_permutation(np.mean, right[0], worse, draws=500) < 0.01


def test_the_repeats_of_an_image_are_exchanged_together():
    # five repeats of an answer are one answer: exchanged one by one, they would make p far too small
    rng = np.random.default_rng(0)
    right = rng.random(40) < 0.8
    worse = right & (rng.random(40) < 0.9)
    once = paired_permutation(np.mean, right, worse, draws=300)
    five = [np.tile(answers, (5, 1)) for answers in (right, worse)]
    assert paired_permutation(np.mean, *five, draws=300) == once > 0.01


def test_images_of_one_group_are_exchanged_together():
    # ten groups of six images, all right or all wrong: as sure as ten images, not sixty
    right = np.arange(10) % 5 > 0
    worse = right & (np.arange(10) % 3 > 0)
    ten = paired_permutation(np.mean, right, worse, draws=300)
    sixty = [np.repeat(answers, 6) for answers in (right, worse)]
    assert paired_permutation(np.mean, *sixty, groups=np.repeat(list("abcdefghij"), 6), draws=300) == ten > 0.1
    assert paired_permutation(np.mean, *sixty, draws=300) < 0.01


def test_it_does_not_matter_which_of_the_two_is_the_better():
    right = np.arange(40) % 5 > 0
    worse = right & (np.arange(40) % 7 > 0)
    p, exchanged = (paired_permutation(np.mean, *two, draws=300) for two in ((worse, right), (right, worse)))
    assert p == exchanged < 0.2


def test_ranks_make_scores_of_different_scales_comparable():
    assert ranks(np.array([[0.1, 0.9, 0.5, 0.5]])).tolist() == [[1, 4, 2.5, 2.5]]
    assert np.array_equal(ranks(SCORES), ranks(1000 * SCORES - 3))
    assert auc(POSITIVE, ranks(SCORES))(ALL) == auc(POSITIVE, SCORES)(ALL)


@pytest.mark.parametrize(
    ("published", "number", "counts"),
    [
        ("0.877106", 1009, [885]),
        ("87.7 %", 1009, [885]),  # 884.5 to 885.4
        ("93.04%", 446, [415]),  # 415 / 446 = 93.049...: cut off, not rounded
        ("0.985915", 71, [70]),
        ("0.87", 20, []),  # 17 of 20 are 0.85, 18 are 0.90
        ("1.00", 3, [3]),
        ("0.00", 3, [0]),
        ("1", 3, [2, 3]),  # one digit says little: 2/3 rounds to 1
        (" 0.877106\n", 1009, [885]),
        ("8.77106e-1", 1009, [885]),
    ],
)
def test_which_counts_a_published_figure_can_come_from(published, number, counts):
    assert counts_that_give(published, number) == counts


@pytest.mark.parametrize("published", ["high", "1.2", "-0.1", "101 %", "", "nan", "inf"])
def test_what_is_no_share_is_refused(published):
    with pytest.raises(UserError, match="published figure: got"):
        counts_that_give(published, 10)


def test_sums_of_ranks_give_the_area_that_pairs_give():
    rng = np.random.default_rng(3)
    for images, levels in ((9, 3), (40, 5), (40, 1000)):
        positive, scores = rng.random(images) < 0.4, rng.integers(0, levels, (4, images)) / levels
        positive[:2] = True, False
        assert area_of_ranks(positive, scores) == pytest.approx(
            auc(positive, scores)(np.ones((1, images)))[0], abs=1e-12
        )
