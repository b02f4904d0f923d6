"""A folder of pictures as arrays: images, labels, groups, names and classes.

Two layouts are recognised: one sub-folder a class, or the names of the UCSB breast-cancer slides, all in one folder.
A group (a slide, a patient, a day) is what is never split: images of one slide resemble each other, so a network that
saw one of them in training has half seen the others.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cnn.cache import check_folder, kept
from cnn.errors import ImageError, UserError, printable
from cnn.files import is_image_name, read_file
from cnn.images import check_size, decode_image, resize
from cnn.store import room_for

UCSB_NAME = re.compile(r"(ytma\d+_\d{6})_(benign|malignant)\d+_ccd\.\w+$", re.IGNORECASE)
LAYOUT = "give a folder with one sub-folder of TIFF, JPEG or PNG images a class"
PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}  # no class is called so
MOST_SHOWN = 20  # files named in one error
THREADS = min(8, os.cpu_count() or 1)  # that decode; each may need memory for the largest image
Progress = Callable[[int, int], None] | None


@dataclass(frozen=True)
class Slides:
    """Labelled images of one size, in memory, or in a file if they are too many for it (see `store.room_for`).

    images: (number, height, width, 3) uint8, RGB from 0 to 255.
    labels: (number,) int32, each an index into `classes`.
    groups: one name an image: images of one group (a slide, a patient, a day) are never split apart.
    names: one name an image: its path relative to the folder, with forward slashes.
    classes: the class names in alphabetical order.
    """

    images: np.ndarray
    labels: np.ndarray
    groups: tuple[str, ...]
    names: tuple[str, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, indices: np.ndarray) -> "Slides":
        """The images at `indices`, (k,) int, in that order."""
        return Slides(
            self.images[indices],
            self.labels[indices],
            tuple(self.groups[i] for i in indices),
            tuple(self.names[i] for i in indices),
            self.classes,
        )


def read_folder(
    folder: str | os.PathLike,
    *,
    size: tuple[int, int],
    fit: str = "squash",
    filter: str = "bilinear",
    group_pattern: str | None = None,
    progress: Progress = None,
    threads: int = THREADS,
    skipped: list[ImageError] | None = None,
    cache: Path | None = None,
) -> Slides:
    """All images of a folder, brought to `size` = (height, width), sorted by name.

    The class is the sub-folder, or what a UCSB name says. The group is what `group_pattern`, a regular expression,
    finds in the relative name (its first pair of parentheses, or the whole match); without one it is the slide and day
    of a UCSB name, else the image's own name. Two copies of a picture in one class join their groups. `progress(done,
    total)` is called in the calling thread. `fit` and `filter` are those of `images.resize`.

    Raises UserError for a folder, a name or a picture that cannot be used; one error tells of all bad files, and names
    the first 20. Where a list `skipped` is given, bad files are left out instead, and their errors added to it.
    `cache`: see `cache.py`.
    """
    check_size(size, fit, filter)
    found = _classes_by_name(Path(folder))
    names, classes = sorted(found), sorted(set(found.values()))
    groups = _groups(names, group_pattern)
    paths = [Path(folder, name) for name in names]
    images, digests, good = _usable(_read_all(paths, size, fit, filter, progress, threads, cache), skipped)
    names, groups = [names[i] for i in good], [groups[i] for i in good]
    for name in classes:
        if not any(found[left] == name for left in names):
            raise UserError(f"{folder}: every image of the class {name!r} is bad; leave out --skip-bad to see why")
    labels = np.array([classes.index(found[name]) for name in names], np.int32)
    return Slides(images, labels, _join_copies(names, labels, groups, digests), tuple(names), tuple(classes))


def read_unlabelled(
    paths: list,
    *,
    size: tuple[int, int],
    fit: str,
    filter: str,
    progress: Progress = None,
    threads: int = THREADS,
    skipped: list[ImageError] | None = None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Images to classify, (number, height, width, 3) uint8, and their names, from files and folders in that order.

    A folder stands for all images in it and below, sorted; a file that is named twice is read once. The options and
    the errors are those of `read_folder`.
    """
    check_size(size, fit, filter)
    files = {}
    for path in map(Path, paths):
        inside = [path / name for name in _image_names(path)] if os.path.isdir(path) else [path]
        if not inside:
            raise UserError(f"{path}: holds no image; name TIFF, JPEG or PNG files, or folders of them")
        files |= dict.fromkeys(inside)
    if not files:
        raise UserError("no image is named; name TIFF, JPEG or PNG files, or folders of them")
    images, _, good = _usable(_read_all(list(files), size, fit, filter, progress, threads), skipped)
    names = [path.as_posix() for path in files]
    return images, tuple(names[i] for i in good)


def _list(folder: Path) -> list[str]:
    """The names in a folder, sorted, since every file system has an order of its own; without hidden ones."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith((".", "__MACOSX", "@eaDir")))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: cannot be opened as a folder ({error.args[-1]}); check its name") from None


def _image_names(folder: Path) -> list[str]:
    """Relative names of all images in a folder and below, sorted; links to folders are followed, each folder once.

    Whatever is named as an image counts, so that a folder or a pipe named x.png is reported, not passed over.
    """
    found, waiting, seen = [], [""], set()
    while waiting:
        here = waiting.pop()
        real = os.path.realpath(folder / here)
        if real not in seen:
            seen.add(real)
            inside = _list(folder / here)
            found += [here + name for name in inside if is_image_name(name)]
            folders = [here + name for name in inside if not is_image_name(name)]
            waiting += [f"{name}/" for name in reversed(folders) if os.path.isdir(folder / name)]
    return sorted(found)


def _classes_by_name(root: Path) -> dict[str, str]:
    """The class of every image in a folder, by relative name."""
    top = _list(root)
    flat = [name for name in top if is_image_name(name)]
    folders = [name for name in top if not is_image_name(name) and os.path.isdir(root / name)]
    inside = {folder: _image_names(root / folder) for folder in folders}
    filled = [folder for folder in folders if inside[folder]]
    if flat and filled:
        raise UserError(f"{root}: holds images ({flat[0]}) beside folders of images ({filled[0]}); {LAYOUT}")
    if not flat and not filled:
        raise UserError(f"{root}: holds no image; {LAYOUT}")
    for name in flat:
        if not UCSB_NAME.match(name):
            raise UserError(f"{root}: the name {name!r} does not tell its class; {LAYOUT}")
    for folder in folders:
        if filled and not inside[folder]:
            raise UserError(f"{root / folder}: this class holds no image; fill the folder, or take it away")
    if len(filled) > 1 and {folder.lower() for folder in filled} <= PARTS:
        raise UserError(
            f"{root}: its folders ({', '.join(filled)}) are parts of a split, and no classes; give a folder with one "
            "sub-folder a class: the parting is done here"
        )
    found = {name: UCSB_NAME.match(name)[2].lower() for name in flat}
    found |= {f"{folder}/{name}": folder for folder in filled for name in inside[folder]}
    if len(set(found.values())) == 1:
        raise UserError(f"{root}: holds one class only, {min(found.values())!r}, and two are needed; {LAYOUT}")
    return found


def _groups(names: list[str], pattern: str | None) -> list[str]:
    """The group that each relative name tells."""
    if pattern is None:
        return [m[1].lower() if (m := UCSB_NAME.match(name.rpartition("/")[2])) else name for name in names]
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(f"group pattern {pattern!r} is not a regular expression ({error}); correct it") from None
    groups = []
    for name in names:
        match = compiled.search(name)
        groups.append(match and match[1 if compiled.groups else 0])
        if not groups[-1]:
            raise UserError(f"group pattern {pattern!r} finds no group in {name!r}; correct it, or rename the file")
    if len(set(groups)) == 1:
        raise UserError(f"group pattern {pattern!r} puts every image in one group, {groups[0]!r}; correct it")
    return groups


def _read_all(paths, size, fit, filter, progress, threads, cache=None) -> tuple[np.ndarray, list[bytes | ImageError]]:
    """Images (number, height, width, 3) and the SHA-256 of each before resizing, or its error; decoded in threads."""
    if cache is not None:
        check_folder(cache)
    images = room_for(len(paths), size, cache)

    def decoded(data: bytes, path: Path) -> dict[str, np.ndarray]:
        image = decode_image(data, path)
        digest = hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).digest()
        return {"image": resize(image, size, fit=fit, filter=filter), "digest": np.frombuffer(digest, np.uint8)}

    def read(i: int) -> bytes | ImageError:
        if not str(paths[i]).isprintable():  # bytes that are no text, or characters that a terminal obeys
            return ImageError(printable(str(paths[i])), "has a name that cannot be printed", "rename it")
        try:
            data = read_file(paths[i])
            make = partial(decoded, data, paths[i])
            arrays = make() if cache is None else kept(cache, data, (size, fit, filter), ("image", "digest"), make)
        except ImageError as error:
            return error
        images[i] = arrays["image"]
        return arrays["digest"].tobytes()

    pool = ThreadPoolExecutor(threads)
    try:
        futures = [pool.submit(read, i) for i in range(len(paths))]
        for done, future in enumerate(as_completed(futures), 1):
            future.result()  # raises at once what is no ImageError: a defect of ours
            if progress is not None:
                progress(done, len(paths))
    finally:
        pool.shutdown(cancel_futures=True)
    return images, [future.result() for future in futures]


def _usable(
    read: tuple[np.ndarray, list[bytes | ImageError]], skipped: list[ImageError] | None
) -> tuple[np.ndarray, list[bytes], list[int]]:
    """What `_read_all` gives without the bad files, and the numbers of the good ones, (k,).

    The bad are added to `skipped`. Without that list, or if none is good, UserError names them, or the first 20.
    """
    images, results = read
    bad = [result for result in results if isinstance(result, ImageError)]
    good = [i for i, result in enumerate(results) if not isinstance(result, ImageError)]
    if bad and (skipped is None or not good):
        more = [f"  and {len(bad) - MOST_SHOWN} more"] if len(bad) > MOST_SHOWN else []
        first = f"{len(bad)} of {len(results)} files cannot be used as images:"
        raise UserError("\n".join([first, *(f"  {error}" for error in bad[:MOST_SHOWN]), *more]))
    if bad:
        skipped += bad
        for place, i in enumerate(good):  # moved up one by one: there may be no room for all of them twice
            images[place] = images[i]
    return images[: len(good)], [results[i] for i in good], good


def _join_copies(names: list[str], labels: np.ndarray, groups: list[str], digests: list[bytes]) -> tuple:
    """Groups such that copies of one picture are in one group; a copy in another class is a UserError."""
    joined = {group: group for group in groups}  # each leads to a smaller name of the same set, or to itself

    def smallest(group: str) -> str:
        while joined[group] != group:
            group = joined[group]
        return group

    first = {}
    for i, digest in enumerate(digests):
        j = first.setdefault(digest, i)
        if labels[i] != labels[j]:
            raise UserError(f"{names[j]} and {names[i]} are the same picture in two classes; keep the right one")
        low, high = sorted((smallest(groups[i]), smallest(groups[j])))
        joined[high] = low
    return tuple(smallest(group) for group in groups)


def source_digest(slides: Slides) -> str:
    """The SHA-256, 64 hexadecimal digits, of all that a run learns from: names, labels, groups, classes and images."""
    text = json.dumps([slides.names, slides.labels.tolist(), slides.groups, slides.classes, slides.images.shape])
    digest = hashlib.sha256(text.encode() + b"\n")
    digest.update(np.ascontiguousarray(slides.images))  # as it lies, without a copy of it all
    return digest.hexdigest()
