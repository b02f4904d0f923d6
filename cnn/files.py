"""Which files are read as images at all, what is refused before a byte of it is decoded; and files written whole."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from cnn.errors import ImageError

# The second and third line: what slide scanners and other programs write. Some of it is TIFF inside, and is read; the
# rest is told of, since whoever put it there would miss it.
SUFFIXES = (
    *(".tif", ".tiff", ".jpg", ".jpeg", ".png"),
    *(".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".czi", ".vsi", ".dcm", ".lif", ".nd2"),
    *(".bmp", ".gif", ".webp", ".heic", ".jp2", ".jxl", ".avif", ".psd"),
)
MOST_BYTES = 2**30  # a file is read into memory at once


def is_image_name(name: str) -> bool:
    """True for a picture's suffix; names with a dot first are litter, as ._a.tif that macOS writes.

    >>> [is_image_name(name) for name in ("a.TIF", "b.svs", "._a.tif", "Thumbs.db", "desktop.ini", "notes.txt")]
    [True, True, False, False, False, False]
    """
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def read_file(path: str | os.PathLike) -> bytes:
    """The bytes of a file. Links are followed.

    Raises:
        ImageError: for a folder, for what cannot be opened or is too large, and for a pipe or a device, which is not
            even opened, since that could wait forever.
    """
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(path, "is a folder, not a file", "rename it, or name a file")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(path, "is a pipe, a socket or a device, not a file", "take it out of the folder")
        if status.st_size > MOST_BYTES:
            raise ImageError(path, f"has {status.st_size:,} bytes, more than 1 GiB", "cut it into tiles")
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = f"{'leads to a file that ' * os.path.islink(path)}cannot be opened ({error.args[-1]})"
        raise ImageError(path, reason, "check its name and the permission to read it") from None


@contextmanager
def whole(path: Path, mode: str = "w", **how) -> Iterator[IO]:
    """Opens a file to be written, as `open` does, which appears whole or not at all, even if the machine goes down."""
    temporary = path.with_name(path.name + ".part")
    with open(temporary, mode, **how) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())  # else the disk may know the new name before it has what the file holds
    os.replace(temporary, path)
