"""Files: which are read at all, what is refused undecoded, and how one is written. Next: test_images.py."""

import os
import re

import numpy as np
import pytest

from cnn import files
from cnn.errors import ImageError
from cnn.files import is_image_name, whole
from cnn.images import read_image, write_png
from tests.test_images import PICTURE


def test_what_is_no_plain_file_is_refused_without_opening_it(tmp_path, monkeypatch):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")  # to open it would be to wait for a writer
    (tmp_path / "lost.png").symlink_to("nowhere.png")
    (tmp_path / "large.png").write_bytes(b"12345678901")
    monkeypatch.setattr(files, "MOST_BYTES", 10)
    for name, reason in {
        "folder.png": "is a folder, not a file; rename it",
        "pipe.png": "is a pipe, a socket or a device, not a file; take it out",
        "lost.png": "leads to a file that cannot be opened (No such file or directory); check its name",
        "absent.png": "cannot be opened (No such file or directory); check its name",
        "nul\0.png": "cannot be opened (embedded null byte); check its name",
        "large.png": "has 11 bytes, more than 1 GiB; cut it into tiles",
    }.items():
        with pytest.raises(ImageError, match="^" + re.escape(f"{tmp_path / name}: {reason}")):
            read_image(tmp_path / name)


def test_names_in_any_script_and_links_are_read(tmp_path):
    write_png(tmp_path / "Gewebe ñ 組織.PNG", PICTURE)
    (tmp_path / "link.tif").symlink_to("Gewebe ñ 組織.PNG")  # the contents decide what it is
    np.testing.assert_array_equal(read_image(str(tmp_path / "link.tif")), PICTURE)
    assert [is_image_name(name) for name in ("組織.TIFF", "a.jpeg", ".a.png", "._a.tif", "a.gif")] == [1, 1, 0, 0, 1]


def test_a_file_that_could_not_be_finished_leaves_the_one_before_it(tmp_path, monkeypatch):
    path, kept = tmp_path / "a.csv", []
    monkeypatch.setattr(os, "fsync", lambda number: kept.append(os.path.getsize(number)))
    with whole(path) as file:
        file.write("first")
        assert not path.exists(), "before it is whole, nothing has its name"
    with pytest.raises(TypeError, match="not bytes"), whole(path) as file:
        file.writelines(["sec", b"ond"])
    assert path.read_text() == "first"
    with whole(path, "wb") as file:
        file.write(b"third one")
    assert path.read_bytes() == b"third one"
    assert kept == [5, 9], "its bytes are on the disk before its name is"
    assert sorted(found.name for found in tmp_path.iterdir()) == ["a.csv"]
