"""Decoded images kept on disk, for those who often train on one large folder: decoding takes longer than reading.

What is kept is found by the SHA-256 of the file's own bytes, not by its name or date. So a file that changes is decoded
anew, one that is moved or copied is not, and nothing has to be cleared by hand. A damaged entry is decoded anew, too.
"""

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cnn.errors import UserError

VERSION = 1  # another number, and nothing that was kept before is used: for when decoding itself changes


def check_folder(folder: Path) -> None:
    """Makes the folder of a cache; raises UserError if it cannot be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--cache: {folder} cannot be made ({error.strerror}); name another folder") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"--cache: {folder} cannot be written to; name another folder")


def kept(
    folder: Path, data: bytes, how: tuple, names: tuple[str, ...], make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """What `make` makes of a file, from the cache if it is there, else made and kept.

    Args:
        folder: the cache's, which exists.
        data: the file's bytes.
        how: all else that the result depends on.
        names: of the arrays.
        make: gives the arrays by name; what it raises is passed on, and nothing is kept.
    """
    key = hashlib.sha256(repr((VERSION, how)).encode() + b"\n" + data).hexdigest()
    path = folder / f"{key}.npz"
    try:
        # a zip file: each array has a checksum; opened here, because numpy leaves a damaged file open
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except Exception:  # there is none, or it is damaged: zipfile, zlib and numpy each have their own errors for that
        made = make()
    temporary = folder / f"{key}.{os.getpid()}.{threading.get_ident()}.part"  # several may make the same at once
    try:
        with open(temporary, "wb") as file:
            np.savez(file, **made)
        os.replace(temporary, path)
    except OSError:  # a full disk, for one: the images can be had without it
        temporary.unlink(missing_ok=True)
    return made
