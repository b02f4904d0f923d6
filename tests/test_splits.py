"""Splits: every class in every part, and no group in two. Next: test_folds.py."""

import itertools
import re

import numpy as np
import pytest

from cnn import splits
from cnn.errors import UserError
from cnn.splits import split_as_before, split_by_group, split_by_image
from tests.test_slides import drawn

TEN = drawn("bbbmmm" * 8 + "bbmm" + "bbbbbb", "".join(c * 6 for c in "ABCDEFGH") + "I" * 4 + "J" * 6)  # as UCSB's


def test_a_split_by_group_covers_all_images_parts_no_group_and_has_both_classes_everywhere():
    tested = []
    for seed in range(40):
        parts = split_by_group(TEN, seed=seed)
        assert list(parts) == ["training", "validation", "test"]
        np.testing.assert_array_equal(np.sort(np.concatenate([*parts.values()])), np.arange(58))
        for a, b in itertools.combinations(parts.values(), 2):
            assert not {TEN.groups[i] for i in a} & {TEN.groups[i] for i in b}
        for part in parts.values():
            assert set(TEN.labels[part]) == {0, 1}
            np.testing.assert_array_equal(part, np.sort(part))
        assert {len(parts["test"]), len(parts["validation"])} <= {10, 12}
        tested.append("".join(sorted({TEN.groups[i] for i in parts["test"]})))
    assert set("".join(tested)) == set("ABCDEFGHIJ")  # no group is always left out
    assert len(set(tested)) > 15  # of the 45 pairs


def test_a_split_by_image_keeps_the_classes_in_proportion_and_copies_together():
    parts = split_by_image(TEN, test=0.25, validation=0.1, seed=3)
    np.testing.assert_array_equal(np.sort(np.concatenate([*parts.values()])), np.arange(58))
    for name, fraction in (("test", 0.25), ("validation", 0.1)):
        np.testing.assert_allclose(np.bincount(TEN.labels[parts[name]]), fraction * np.array([32, 26]), atol=1.5)
    assert sum(len({TEN.groups[i] for i in part}) for part in parts.values()) > 10  # groups are parted
    copies = drawn("ab" * 20, "x" * 40)
    copies.images[:20] = 9
    for seed in range(10):
        assert sum(part[0] < 20 for part in split_by_image(copies, seed=seed).values()) == 1  # all 20 in one part


def test_six_images_in_three_groups_are_split_one_group_a_part():
    for seed in range(10):
        parts = split_by_group(drawn("ababab", "xxyyzz"), seed=seed)
        assert sorted(part.tolist() for part in parts.values()) == [[0, 1], [2, 3], [4, 5]]


def test_without_validation_two_groups_are_enough_and_the_seed_decides():
    parts = [split_by_group(drawn("abab", "xxyy"), test=0.5, validation=0, seed=seed) for seed in (*range(9), 0)]
    assert all(part["validation"].size == 0 for part in parts)
    assert {part["test"].tobytes() for part in parts} == {np.array([0, 1]).tobytes(), np.array([2, 3]).tobytes()}
    np.testing.assert_array_equal(parts[0]["test"], parts[-1]["test"])


def test_a_class_of_one_group_cannot_be_in_training_and_in_test():
    for letters, groups in (("abaa", "xxyy"), ("abab", "xyxx")):
        with pytest.raises(UserError, match=r"cannot be split among training and test with every class"):
            split_by_group(drawn(letters, groups), test=0.5, validation=0, seed=0)


def test_where_not_every_cut_gives_validation_both_classes_one_is_found_that_does():
    scarce = drawn("ab" * 4 + "a" * 4, "AABBCCDDEFGH")  # four groups of both classes, four of one
    for seed in range(30):
        assert set(scarce.labels[split_by_group(scarce, test=0.2, validation=0.2, seed=seed)["validation"]]) == {0, 1}


def test_a_run_that_goes_on_keeps_its_split_and_learns_from_new_groups():
    before = {"training": ["0", "1", "2"], "validation": ["3"], "test": ["4", "5"]}
    same = split_as_before(drawn("ababab", "vvwxyz"), before)
    assert {part: found.tolist() for part, found in same.items()} == {
        "training": [0, 1, 2],
        "validation": [3],
        "test": [4, 5],
    }
    more = split_as_before(drawn("abababab", "vvwxyzyn"), before)  # 6 is of the group y, and 7 of a new one
    assert {part: found.tolist() for part, found in more.items()} == {
        "training": [0, 1, 2, 7],
        "validation": [3],
        "test": [4, 5, 6],
    }


def test_an_image_that_joins_two_parts_or_a_part_without_images_is_refused():
    before = {"training": ["0", "1"], "validation": [], "test": ["2", "3"]}
    assert split_as_before(drawn("abab", "wwxy"), before)["validation"].size == 0
    with pytest.raises(UserError, match=r"^the group 'w' is in test and in training now; begin a new run$"):
        split_as_before(drawn("abab", "wxwy"), before)
    with pytest.raises(UserError, match=r"^no image is left of the 2 for test; give them too, or begin a new run$"):
        split_as_before(drawn("ab", "wx"), before)


IMPOSSIBLE = {"abab xxyy": "2 groups (2 of a, 2 of b)", "aabb xyzz": "3 groups (2 of a, 1 of b)", "ab xx": "1 group ("}


@pytest.mark.parametrize("letters", IMPOSSIBLE)
def test_a_split_that_cannot_hold_every_class_says_how_many_groups_there_are(letters):
    with pytest.raises(UserError, match=re.escape(f"the {IMPOSSIBLE[letters]}") + ".* cannot be split.*; add groups"):
        split_by_group(drawn(*letters.split()), seed=0)


@pytest.mark.parametrize(("test", "validation"), [(0, 0.2), (0.5, 0.5), (0.2, -0.1), (float("nan"), 0.2)])
def test_fractions_that_leave_nothing_are_refused(test, validation):
    with pytest.raises(UserError, match=f"^test {test} and validation {validation} are no fractions"):
        split_by_image(TEN, test=test, validation=validation, seed=0)


def test_a_group_in_two_parts_is_a_defect_and_stops_the_run(monkeypatch):
    monkeypatch.setattr(splits, "_cut", lambda rest, *_: (rest, rest))
    with pytest.raises(AssertionError, match="a group is in two parts of a split"):
        split_by_group(TEN, seed=0)


def test_a_small_part_is_as_small_as_asked():
    parts = split_by_image(drawn("ab" * 100, "x" * 200), test=0.05, validation=0.05, seed=0)
    assert [len(part) for part in parts.values()] == [180, 10, 10]
