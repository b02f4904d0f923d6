"""Where images wait for their turn: in memory, or in a file if they are too many for it.

A file that is mapped into memory is used like any array. The system reads the pages that are asked for, and forgets
them again when memory is short; so a training that asks for one batch at a time needs memory for one batch.
"""

import errno
import os
import tempfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cnn.errors import UserError

SHARE = 0.25  # of the machine's memory: images that take more wait in a file


def memory(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """The machine's memory in bytes, whoever uses it, or what a container may have of it, as Linux tells in `limit`."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 33
    try:
        return min(machine, int(limit.read_text()))
    except (OSError, ValueError):  # there is no such file, or it says "max"
        return machine


def _take_room(file: BinaryIO, size: int) -> None:
    """Takes so many bytes of the disk now, where the system can: a page for which there is no room, once it is written,
    ends the process without a word."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system that keeps no room for anybody
            raise


def room_for(number: int, size: tuple[int, int], folder: Path | None = None, most: int | None = None) -> np.ndarray:
    """An array for (number, height, width, 3) uint8: in memory, or in a file if it takes more than `most` bytes.

    Args:
        folder: where to make the file, which nobody else sees and which goes away with the array; the system's folder
            for temporary files unless given.
        most: a quarter of the machine's memory unless given.
    Raises:
        UserError: if there is no room for the file.
    """
    shape, bytes_ = (number, *size, 3), number * size[0] * size[1] * 3
    if bytes_ <= (SHARE * memory() if most is None else most):
        return np.empty(shape, np.uint8)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            _take_room(file, bytes_)
            return np.memmap(file, np.uint8, "w+", shape=shape)
    except OSError as error:
        where = folder or tempfile.gettempdir()
        otherwise = "set TMPDIR to a folder on a larger disk, or give --cache FOLDER, if there is that option"
        remedy = "give --cache a folder on a larger disk" if folder else otherwise
        raise UserError(
            f"{where}: has no room for the {bytes_ / 1e9:.1f} GB of pixels that are too many for the memory "
            f"({error.strerror}); {remedy}"
        ) from None


class Chosen:
    """Some of the images, in the order of `indices`, without a copy: each is fetched when it is asked for.

    >>> letters = Chosen(np.array(["a", "b", "c", "d"]), np.array([3, 0, 2]))
    >>> len(letters), letters[1:].tolist(), letters[np.array([2, 0])].tolist()
    (3, ['a', 'c'], ['c', 'd'])
    """

    def __init__(self, images: np.ndarray, indices: np.ndarray):
        self.images, self.indices = images, np.asarray(indices)
        self.shape, self.dtype = (len(indices), *images.shape[1:]), images.dtype

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, which) -> np.ndarray:
        """The images at `which`, a slice or an array of places among the chosen ones, as an array in memory."""
        return self.images[self.indices[which]]
