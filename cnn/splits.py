"""Splitting slides honestly: one part to learn from, one to choose the epoch by, one to be judged, once.

What is split is groups, not images: an image of a slide of which others were learned from has half been seen already.
"""

import hashlib
import warnings
from fractions import Fraction

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from cnn.errors import UserError, counted
from cnn.slides import Slides

ATTEMPTS = 30  # shuffles tried before a split is called impossible


def split_by_group(slides: Slides, *, test: float = 0.2, validation: float = 0.2, seed: int) -> dict[str, np.ndarray]:
    """Sorted indices {"training": .., "validation": .., "test": ..} of all images, such that no group is in two parts.

    test, validation: fractions of all images, met roughly: whole groups are drawn, and a large one counts as one. Every
    class is in training and test, and in validation where the groups allow it; else UserError. The same seed gives the
    same split.
    """
    return _split(slides, np.unique(slides.groups, return_inverse=True)[1], "group", test, validation, seed)


def split_as_before(slides: Slides, before: dict[str, list[str]]) -> dict[str, np.ndarray]:
    """The split of a run that goes on, {part: names}, as indices: each image stays in the part in which it was.

    An image that is new is where the others of its group are, and among those to learn from if the group is new: what a
    network has learned from, or was judged by, must not change places.

    Raises:
        UserError: if a group is in two parts now, or a part has lost all its images.
    """
    part_of = {name: part for part, names in before.items() for name in names}
    parts_of = {group: set() for group in slides.groups}
    for name, group in zip(slides.names, slides.groups):
        if name in part_of:
            parts_of[group].add(part_of[name])
    for group, parts in parts_of.items():
        if len(parts) > 1:
            raise UserError(f"the group {group!r} is in {' and in '.join(sorted(parts))} now; begin a new run")
    now = np.array([min(parts_of[group], default="training") for group in slides.groups])
    found = {part: np.flatnonzero(now == part) for part in before}
    for part, names in before.items():
        if names and not len(found[part]):
            raise UserError(f"no image is left of the {len(names)} for {part}; give them too, or begin a new run")
    return found


def split_by_image(slides: Slides, *, test: float = 0.2, validation: float = 0.2, seed: int) -> dict[str, np.ndarray]:
    """As `split_by_group`, but it parts groups: too good to be true where images of one group resemble each other.

    Images that are equal to the last bit stay together all the same.
    """
    return _split(slides, pictures(slides.images), "image", test, validation, seed)


def pictures(images: np.ndarray) -> np.ndarray:
    """A number for each image, (images,), that copies of one picture share: those that are equal to the last bit."""
    digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    return np.unique(digests, return_inverse=True)[1]


def _split(slides: Slides, groups: np.ndarray, kind: str, test: float, validation: float, seed: int) -> dict:
    """The first of some shuffled splits that has every class in every part, or at least in training and test."""
    if not (test > 0 and validation >= 0 and test + validation < 1):
        raise UserError(f"test {test} and validation {validation} are no fractions that leave something for training")
    generator, found = np.random.Generator(np.random.PCG64(seed)), None
    for _ in range(ATTEMPTS):
        rest, last = _cut(np.arange(len(slides)), slides.labels, groups, test, generator)
        training, middle = _cut(rest, slides.labels, groups, validation / (1 - test), generator)
        held = [len(set(slides.labels[part])) == len(slides.classes) for part in (training, last, middle)]
        if held[0] and held[1] and (found is None or held[2]) and (len(middle) or not validation):
            found = {"training": training, "validation": middle, "test": last}
            if held[2] or not validation:
                break
    if found is None:
        counts = [f"{len(set(groups[slides.labels == i]))} of {name}" for i, name in enumerate(slides.classes)]
        there = f"the {counted(len(set(groups)), kind)} ({', '.join(counts)}) cannot be split"
        among = "training, validation and test" if validation else "training and test"
        raise UserError(f"{there} among {among} with every class in training and in test; add {kind}s")
    if sum(len(set(groups[part])) for part in found.values()) != len(set(groups)):
        raise AssertionError(f"a {kind} is in two parts of a split")
    return found


def _cut(rest: np.ndarray, labels: np.ndarray, groups: np.ndarray, fraction: float, generator) -> tuple:
    """Parts the indices `rest` into most of them and about `fraction`.

    scikit-learn cuts k parts in which the classes are mixed alike, by whole groups if images share one. As many of them
    as come near the fraction are taken together: 0.4 is 2 of 5.
    """
    count = len(set(groups[rest]))
    most = min(count, np.bincount(labels[rest]).max(), 100)
    if fraction == 0 or most < 2:
        return rest, rest[:0]
    m, k = Fraction(min(max(fraction, 1 / most), 1 - 1 / most)).limit_denominator(int(most)).as_integer_ratio()
    kind = StratifiedKFold if count == len(rest) else StratifiedGroupKFold
    folding = kind(k, shuffle=True, random_state=int(generator.integers(2**32)))
    with warnings.catch_warnings(action="ignore"):  # of classes with fewer members than folds
        folds = [fold for _, fold in folding.split(rest, labels[rest], groups[rest])]
    cut = np.sort(np.concatenate([folds[i] for i in generator.permutation(k)[:m]]))
    return np.delete(rest, cut), rest[cut]
