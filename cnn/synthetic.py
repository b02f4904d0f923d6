"""Slides of drawn tissue: images of both classes in groups, drawn by all processors, without a file."""

import atexit
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from cnn.errors import UserError
from cnn.slides import Slides
from cnn.store import room_for
from cnn.tissue import draw_image, label_and_group

CLASSES = ("benign", "malignant")
ENOUGH = 32  # images that are worth a process: it takes a quarter of a second before it draws the first
_begun: dict[tuple, list[subprocess.Popen]] = {}  # drawings that `draw_slides` has not asked for yet


def draw_slides(number: int, *, seed: int, size: tuple[int, int] = (120, 160), groups: int = 10) -> Slides:
    """Draws benign and malignant images by turns, two by two in groups that each have a stain of their own.

    Of one size and number of groups, image i depends on (seed, i) alone: the first ten of 400 are the same as ten.

    `size` is height and width in pixels, at least 16 each; a `number` that is a multiple of 2 * groups fills all groups
    alike. Groups are named group03, images group03/benign-0006. An argument below its limit is a UserError.
    """
    for name, value, least in (("number", number, 2), ("size", size, 16), ("groups", groups, 1), ("seed", seed, 0)):
        if np.min(value) < least:
            raise UserError(f"drawn tissue: {name} is {value}; give at least {least}")
    images = room_for(number, size)
    workers = _begun.pop((number, seed, size, groups), None) or _begin(number, seed, size, groups)
    for i in set(range(number)) - _collect(workers, images):
        images[i] = draw_image(i, seed=seed, size=size, groups=groups)
    labels, group = zip(*(label_and_group(i, groups) for i in range(number)))
    group = tuple(f"group{g:02d}" for g in group)
    names = tuple(f"{group[i]}/{CLASSES[labels[i]]}-{i:04d}" for i in range(number))
    return Slides(images, np.array(labels, np.int32), group, names, CLASSES)


def begin_to_draw(number: int, *, seed: int, size: tuple[int, int] = (120, 160), groups: int = 10) -> None:
    """Has other processes draw what `draw_slides` will be asked for, while this one does something else."""
    _begun[number, seed, size, groups] = workers = _begin(number, seed, size, groups)
    for worker in workers:
        atexit.register(worker.kill)  # in case nobody asks


def _begin(number: int, seed: int, size: tuple[int, int], groups: int) -> list[subprocess.Popen]:
    """A process for each processor, that draws every so many images; none where one is enough, or none can be started.

    Threads would wait for each other: most of the drawing is short calls to NumPy, under Python's lock.
    """
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = min(processors, number // ENOUGH)
    home = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"OPENBLAS_NUM_THREADS": "1", **os.environ, "PYTHONPATH": home}  # its products are small
    workers = []
    try:
        for first in range(processes if processes > 1 else 0):
            asked = map(str, (seed, *size, groups, first, number, processes))
            workers.append(
                subprocess.Popen(
                    [sys.executable, "-m", "cnn.tissue", *asked],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=environment,
                    start_new_session=True,  # else Ctrl-C would reach it too, and it would say so
                )
            )
    except OSError:
        for worker in workers:
            worker.kill()
        return []
    return workers


def _collect(workers: list[subprocess.Popen], images: np.ndarray) -> set[int]:
    """Waits for the workers and fills in what they have drawn; which images: not all, if a process failed."""
    drawn = set()
    try:
        for first, worker in enumerate(workers):
            its = images[first :: len(workers)]
            done = worker.communicate()[0]
            if len(done) == its.size:
                its[...] = np.frombuffer(done, np.uint8).reshape(its.shape)
                drawn.update(range(first, len(images), len(workers)))
    finally:
        for worker in workers:
            worker.kill()
    return drawn
