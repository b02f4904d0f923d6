"""Folds: every image is judged once, and nothing that is judged was learned from. Next: test_synthetic.py."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn.errors import UserError
from cnn.folds import Fold, checked, group_folds, one_group_out, stratified_folds

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1])
GROUPS = ("a", "a", "b", "c", "a", "b", "b", "c")


def test_stratified_folds_hold_as_many_of_each_class():
    folds = stratified_folds(LABELS, 4, seed=0)
    assert [sorted(LABELS[fold.test]) for fold in folds] == [[0, 1]] * 4
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(8))
    assert all(sorted([*fold.training, *fold.test]) == list(range(8)) for fold in folds)


def test_the_seed_decides_the_cut():
    def cut(seed: int) -> list:
        return [fold.test.tolist() for fold in stratified_folds(LABELS, 4, seed)]

    assert cut(0) == cut(0)
    assert len({str(cut(seed)) for seed in range(5)}) > 1


def test_one_group_out_judges_each_group_by_the_others():
    folds = one_group_out(LABELS, GROUPS)
    assert [fold.test.tolist() for fold in folds] == [[0, 1, 4], [2, 5, 6], [3, 7]]
    assert folds[2].training.tolist() == [0, 1, 2, 4, 5, 6]


def test_two_groups_of_each_class_are_enough_and_one_is_not():
    labels, groups = np.array([0, 1, 0, 1]), ("a", "a", "b", "b")
    assert len(one_group_out(labels, groups)) == len(group_folds(labels, groups, 2, seed=0)) == 2
    with pytest.raises(UserError, match="a class has only 1 group, and without it none would be left"):
        one_group_out(labels, ("a", "a", "a", "b"))
    with pytest.raises(UserError, match="got 3, and a class has only 2 groups"):
        group_folds(labels, groups, 3, seed=0)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 100), st.integers(2, 4))
def test_no_group_is_ever_on_both_sides(seed, number):
    rng = np.random.default_rng(seed)
    groups = tuple(f"g{i}" for i in rng.integers(0, 12, 60)) + tuple(f"g{i}" for i in range(12)) * 2
    labels = np.concatenate([rng.integers(0, 2, 60), np.repeat([0, 1], 12)])
    for fold in group_folds(labels, groups, number, seed) + one_group_out(labels, groups):
        assert not {groups[i] for i in fold.training} & {groups[i] for i in fold.test}
        assert len(fold.training) + len(fold.test) == len(labels)


@pytest.mark.parametrize(
    ("folds", "groups", "what"),
    [
        ([Fold(np.array([0]), np.array([1])), Fold(np.array([1]), np.array([1]))], None, "an image is judged other"),
        ([Fold(np.array([0]), np.array([0])), Fold(np.array([0]), np.array([1]))], None, "0 is on both sides"),
        ([Fold(np.array([1]), np.array([0])), Fold(np.array([0]), np.array([1]))], ("a", "a"), "a is on both sides"),
    ],
)
def test_a_leak_is_stopped_before_it_becomes_a_figure(folds, groups, what):
    with pytest.raises(AssertionError, match=what):
        checked(folds, 2, groups)


def test_more_folds_than_there_are_images_or_groups_is_refused():
    with pytest.raises(UserError, match=r"^--folds: got 5, and a class has only 4 different images; give 4 or fewer$"):
        stratified_folds(LABELS, 5, 0)
    with pytest.raises(UserError, match=r"^--folds: got 4, and a class has only 3 groups; give 3 or fewer$"):
        group_folds(LABELS, GROUPS, 4, 0)
    with pytest.raises(UserError, match=r"^folds: a class has only 1 group, and without it none would be left"):
        one_group_out(LABELS, ("a",) * 4 + ("b",) * 4)


def test_copies_of_a_picture_stay_on_one_side_and_count_once():
    labels, same = np.tile([0, 1], 9), np.array([0, 1, 0, 1, *range(2, 16)])  # images 0 and 2 are one, and 1 and 3
    for seed in range(10):
        folds = stratified_folds(labels, 4, seed, same)
        assert not any(set(same[fold.test]) & set(same[fold.training]) for fold in folds)
        assert stratified_folds(labels, 4, seed, np.arange(18)[::-1])[0].test.tolist() == (
            stratified_folds(labels, 4, seed)[0].test.tolist()
        ), "without copies as if nothing had been said of them"
    with pytest.raises(UserError, match=r"^--folds: got 3, and a class has only 2 different images; give 2"):
        stratified_folds(np.array([0, 0, 0, 1, 1, 1]), 3, 0, np.array([0, 1, 2, 3, 4, 4]))


def test_folds_of_groups_hold_the_classes_alike_and_the_seed_decides_the_cut():
    labels, groups = np.repeat([0, 1], 12), tuple(np.repeat(list("abcdefgh"), 3))
    cuts = [group_folds(labels, groups, 2, seed) for seed in range(10)]
    assert all(np.bincount(labels[fold.test]).tolist() == [6, 6] for cut in cuts for fold in cut)
    assert len({str([fold.test.tolist() for fold in cut]) for cut in cuts}) > 2
