"""The cache: decoded once, decoded anew when a file changes, and never in the way. Next: test_slides.py."""

import os
from pathlib import Path

import numpy as np
import pytest

from cnn import slides
from cnn.cache import kept
from cnn.errors import UserError
from cnn.images import write_png
from cnn.slides import Slides, read_folder


def write(path: Path, value: int) -> None:
    """A picture of one grey, 2 x 4 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, np.full((2, 4, 3), value, np.uint8))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes of two pictures."""
    for value, name in enumerate(("a/1.png", "a/2.png", "b/3.png", "b/4.png"), 1):
        write(tmp_path / "in" / name, value)
    return tmp_path / "in"


@pytest.fixture
def decodings(monkeypatch) -> list:
    """The paths that were decoded."""
    seen, decode = [], slides.decode_image
    monkeypatch.setattr(slides, "decode_image", lambda data, path: seen.append(path.name) or decode(data, path))
    return seen


def read(folder: Path, **options) -> Slides:
    return read_folder(folder, **{"size": (2, 4), "cache": folder.parent / "cache"} | options)


def test_what_was_decoded_once_is_not_decoded_again_and_is_the_same(folder, decodings):
    first, again, without = read(folder), read(folder), read(folder, cache=None)
    assert sorted(decodings) == sorted(2 * ["1.png", "2.png", "3.png", "4.png"])  # by the first, and without a cache
    for other in (again, without):
        assert np.array_equal(first.images, other.images)
        assert (first.names, first.groups, first.labels.tolist()) == (other.names, other.groups, other.labels.tolist())


def test_a_file_that_changes_is_decoded_anew_even_if_its_date_does_not(folder, decodings):
    read(folder)
    path = folder / "a" / "2.png"
    before = path.stat()
    write(path, 9)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    decodings.clear()
    assert read(folder).images[1, 0, 0, 0] == 9
    assert decodings == ["2.png"]


def test_a_file_that_moves_is_not_decoded_anew(folder, decodings):
    read(folder)
    (folder / "a" / "2.png").rename(folder / "a" / "0.png")
    decodings.clear()
    assert read(folder).names[0] == "a/0.png"
    assert decodings == []


def test_another_size_or_filter_is_another_image(folder, decodings):
    read(folder)
    for options in ({"size": (1, 2)}, {"filter": "box"}, {"fit": "pad"}):
        decodings.clear()
        read(folder, **options)
        assert len(decodings) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-30],
        lambda data: b"",
        lambda data: data.replace(b"\x02" * 8, b"\x03" * 8),
        lambda data: data.replace(b"digest", b"digesu"),  # another array
        lambda data: data.replace(b"PK\x01\x02", b"PK\x01\x02\xff\xff\xff")[: len(data)],
    ],
)
def test_a_damaged_entry_is_decoded_anew_and_mended(folder, decodings, damage):
    read(folder)
    for path in (folder.parent / "cache").iterdir():
        path.write_bytes(damage(path.read_bytes()))
    decodings.clear()
    assert read(folder).images[:, 0, 0, 0].tolist() == [1, 2, 3, 4]
    assert "2.png" in decodings
    decodings.clear()
    read(folder)
    assert decodings == []


def test_a_bad_file_is_as_bad_with_a_cache(folder):
    (folder / "a" / "1.png").write_text("no picture")
    for _ in range(2):
        with pytest.raises(UserError, match="1 of 4 files cannot be used"):
            read(folder)
    assert len(list((folder.parent / "cache").iterdir())) == 3


def test_a_cache_that_cannot_be_written_is_told_before_anything_is_read(folder):
    (folder.parent / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"^--cache: .*cache cannot be made \(File exists\); name another folder$"):
        read(folder)


def test_a_full_disk_costs_the_cache_and_not_the_image(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cnn.cache.np.savez", full)
    made = kept(tmp_path, b"data", (1,), ("image",), lambda: {"image": np.ones(3)})
    assert made["image"].tolist() == [1, 1, 1]
    assert list(tmp_path.iterdir()) == []
