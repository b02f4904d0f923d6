"""Folds: every image is judged once, by a network that has not seen it, or anything of its group.

A single test set of 12 images says next to nothing. Cross-validation trains k networks, each without one fold, and asks
each about the fold that it lacks: 58 images give 58 honest answers. How the folds are cut decides what is asked:

    stratified_folds    images at random, each class in every fold alike: "another image from slides like these?"
    one_group_out       a whole group at a time: "an image of a slide, a day, a stain never seen before?"
"""

from typing import NamedTuple

import numpy as np
from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold, StratifiedKFold

from cnn.errors import UserError


class Fold(NamedTuple):
    """Sorted indices of the images to learn from and of those to be judged; no image is in both."""

    training: np.ndarray
    test: np.ndarray


def stratified_folds(labels: np.ndarray, number: int, seed: int, same: np.ndarray | None = None) -> list[Fold]:
    """Cuts images into `number` folds at random, with the classes of each as in the whole.

    Args:
        labels: (images,) int.
        number: from 2 to the number of different images of the smallest class.
        seed: another seed, another cut.
        same: a number an image, which copies of one picture share (`splits.pictures`); they stay together. Unless given
            there are none.
    Raises:
        UserError: if a class has fewer different images than there are folds.
    """
    same = np.arange(len(labels)) if same is None else same
    _check(number, of_each_class(labels, same), "different image")
    if len(np.unique(same)) == len(labels):
        cut = StratifiedKFold(number, shuffle=True, random_state=seed).split(labels, labels)
    else:
        cut = StratifiedGroupKFold(number, shuffle=True, random_state=seed).split(labels, labels, same)
    return checked([Fold(*fold) for fold in cut], len(labels), same)


def group_folds(labels: np.ndarray, groups: tuple[str, ...], number: int, seed: int) -> list[Fold]:
    """Cuts whole groups into `number` folds, with the classes of each as nearly as in the whole as groups allow.

    Raises:
        UserError: if there are fewer groups, in all or of one class, than folds.
    """
    codes = np.unique(groups, return_inverse=True)[1]
    _check(number, of_each_class(labels, codes), "group")
    cut = StratifiedGroupKFold(number, shuffle=True, random_state=seed).split(labels, labels, codes)
    return checked([Fold(*fold) for fold in cut], len(labels), groups)


def one_group_out(labels: np.ndarray, groups: tuple[str, ...]) -> list[Fold]:
    """One fold for each group, in alphabetical order: all of its images are judged, all others learned from.

    Raises:
        UserError: if leaving a group out leaves one class only.
    """
    codes = np.unique(groups, return_inverse=True)[1]
    _check(2, of_each_class(labels, codes), "group")
    return checked([Fold(*fold) for fold in LeaveOneGroupOut().split(labels, groups=codes)], len(labels), groups)


def of_each_class(labels: np.ndarray, codes: np.ndarray) -> list[int]:
    """How many different codes there are among the images of each class."""
    return [len(set(codes[labels == label])) for label in np.unique(labels)]


def _check(number: int, sizes: list[int], unit: str) -> None:
    least = min(sizes)
    if least < 2:
        raise UserError(f"folds: a class has only {least} {unit}, and without it none would be left; add another")
    if number < 2:
        raise UserError(f"--folds: got {number}, wants at least 2")
    if least < number:
        raise UserError(f"--folds: got {number}, and a class has only {least} {unit}s; give {least} or fewer")


def checked(folds: list[Fold], number: int, groups: tuple | np.ndarray | None = None) -> list[Fold]:
    """The folds, if they are honest; a leak is a defect of ours, and must never become a figure.

    Raises:
        AssertionError: if an image is judged other than once, or an image or a group is on both sides of a fold.
    """
    if sorted(np.concatenate([fold.test for fold in folds])) != list(range(number)):
        raise AssertionError("an image is judged other than once")
    for fold in folds:
        names = [set(part.tolist()) if groups is None else {groups[i] for i in part} for part in fold]
        if names[0] & names[1]:
            raise AssertionError(f"{min(names[0] & names[1])} is on both sides of a fold")
    return folds
