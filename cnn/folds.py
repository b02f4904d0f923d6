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


def stratified_folds(labels: np.ndarray, number: int, seed: int) -> list[Fold]:
    """Cuts images into `number` folds at random, with the classes of each as in the whole.

    Args:
        labels: (images,) int.
        number: from 2 to the size of the smallest class.
        seed: another seed, another cut.
    Raises:
        UserError: if a class has fewer images than there are folds.
    """
    _check(number, np.bincount(labels), "images of the smallest class")
    cut = StratifiedKFold(number, shuffle=True, random_state=seed).split(labels, labels)
    return checked([Fold(*fold) for fold in cut], len(labels))


def group_folds(labels: np.ndarray, groups: tuple[str, ...], number: int, seed: int) -> list[Fold]:
    """Cuts whole groups into `number` folds, with the classes of each as nearly as in the whole as groups allow.

    Raises:
        UserError: if there are fewer groups, in all or of one class, than folds.
    """
    codes = np.unique(groups, return_inverse=True)[1]
    _check(number, np.array([len(set(codes[labels == label])) for label in set(labels.tolist())]), "groups of a class")
    cut = StratifiedGroupKFold(number, shuffle=True, random_state=seed).split(labels, labels, codes)
    return checked([Fold(*fold) for fold in cut], len(labels), groups)


def one_group_out(labels: np.ndarray, groups: tuple[str, ...]) -> list[Fold]:
    """One fold for each group, in alphabetical order: all of its images are judged, all others learned from.

    Raises:
        UserError: if leaving a group out leaves one class only.
    """
    codes = np.unique(groups, return_inverse=True)[1]
    _check(2, np.array([len(set(codes[labels == label])) for label in set(labels.tolist())]), "groups of a class")
    return checked([Fold(*fold) for fold in LeaveOneGroupOut().split(labels, groups=codes)], len(labels), groups)


def _check(number: int, sizes: np.ndarray, what: str) -> None:
    if sizes.min() < 2:
        raise UserError(f"folds: there is only {sizes.min()} of the {what}, and without it none would be left")
    if number < 2 or sizes.min() < number:
        raise UserError(f"--folds: got {number}, wants from 2 to {sizes.min()}, the number of {what}")


def checked(folds: list[Fold], number: int, groups: tuple[str, ...] | None = None) -> list[Fold]:
    """The folds, if they are honest; a leak is a defect of ours, and must never become a figure.

    Raises:
        AssertionError: if an image is judged other than once, or an image or a group is on both sides of a fold.
    """
    if sorted(np.concatenate([fold.test for fold in folds])) != list(range(number)):
        raise AssertionError("an image is judged other than once")
    for fold in folds:
        names = [{groups[i] for i in part} if groups else set(part.tolist()) for part in fold]
        if names[0] & names[1]:
            raise AssertionError(f"{min(names[0] & names[1])} is on both sides of a fold")
    return folds
