"""Where images wait: in memory or in a file, and chosen without a copy. Next: test_cache.py."""

import errno
import os
import re
import tempfile
import tracemalloc

import numpy as np
import pytest

from cnn import slides, store
from cnn.errors import UserError
from cnn.store import Chosen, room_for


def test_few_images_wait_in_memory_and_many_in_a_file(tmp_path):
    few, many = (room_for(10, (4, 5), tmp_path, most=most) for most in (600, 599))
    assert type(few) is np.ndarray
    assert isinstance(many, np.memmap)
    assert few.shape == many.shape == (10, 4, 5, 3)
    assert list(tmp_path.iterdir()) == [], "nobody sees the file, and nobody has to remove it"
    many[3] = 7
    assert many[3].min() == 7
    assert many[4].max() == 0


def test_more_than_a_quarter_of_the_memory_goes_to_a_file(monkeypatch, tmp_path):
    monkeypatch.setattr(store, "memory", lambda: 2400)
    assert not isinstance(room_for(10, (4, 5), tmp_path), np.memmap)
    assert isinstance(room_for(11, (4, 5), tmp_path), np.memmap)


def test_a_container_has_the_memory_that_it_is_given(tmp_path):
    machine = store.memory(tmp_path / "absent")
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "some").write_text("4294967296\n")
    assert store.memory(tmp_path / "max") == machine > 2**28
    assert store.memory(tmp_path / "some") == min(machine, 2**32)


def test_a_disk_without_room_is_one_sentence_and_no_sudden_end(tmp_path, monkeypatch):
    def refuse(file, offset, length):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    said = r"has no room for the 0\.0 GB of pixels .* \(No space left on device\); give --cache a folder on a"
    with pytest.raises(UserError, match=said):
        room_for(10, (4, 5), tmp_path, most=0)


def test_without_a_folder_the_sentence_names_the_one_for_temporary_files(monkeypatch):
    def refuse(file, offset, length):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    with pytest.raises(UserError, match=f"^{re.escape(tempfile.gettempdir())}: has no room for the 1\\.5 GB"):
        room_for(500_000_000, (1, 1), most=0)


def test_a_file_system_that_keeps_no_room_is_used_as_it_is(tmp_path, monkeypatch):
    def refuse(file, offset, length):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    assert isinstance(room_for(10, (4, 5), tmp_path, most=0), np.memmap)


def test_chosen_images_are_those_of_numpy_and_no_copy():
    images = np.arange(50 * 2 * 2 * 3, dtype=np.uint8).reshape(50, 2, 2, 3)
    indices = np.array([40, 3, 3, 17])
    chosen, copied = Chosen(images, indices), images[indices]
    assert (len(chosen), chosen.shape, chosen.dtype) == (4, copied.shape, copied.dtype)
    for which in (slice(1, 3), np.array([3, 0, 0]), 2):
        assert np.array_equal(chosen[which], copied[which])


def test_a_training_on_a_file_asks_for_no_more_memory_than_one_batch(tmp_path):
    images = room_for(4000, (32, 32), tmp_path, most=0)  # 12 MB
    tracemalloc.start()
    chosen = Chosen(images, np.arange(len(images))[::-1])
    for start in range(0, 4000, 32):
        assert chosen[start : start + 32].shape == (32, 32, 32, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


@pytest.mark.parametrize("most", [1 << 30, 0], ids=["memory", "file"])
def test_a_folder_is_read_alike_into_memory_and_into_a_file(monkeypatch, tmp_path, most):
    from PIL import Image

    for name, value in (("a/1.png", 10), ("a/2.png", 20), ("b/3.png", 30), ("b/4.png", 40)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (value, value, value)).save(path)
    (tmp_path / "a" / "0.png").write_bytes(b"no image")
    monkeypatch.setattr(slides, "room_for", lambda number, size, folder: room_for(number, size, folder, most))
    skipped = []
    data = slides.read_folder(tmp_path, size=(2, 2), skipped=skipped)
    assert len(skipped) == 1
    assert isinstance(data.images, np.memmap) == (most == 0)
    assert data.images[:, 0, 0, 0].tolist() == [10, 20, 30, 40]
    assert slides.source_digest(data) == slides.source_digest(data.subset(np.arange(4)))


def test_the_file_is_made_in_the_folder_and_all_of_its_room_is_taken_at_once(tmp_path, monkeypatch):
    folders, taken, make = [], [], tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: folders.append(dir) or make(dir=dir))
    monkeypatch.setattr(os, "posix_fallocate", lambda file, *room: taken.append(room), raising=False)
    room_for(10, (4, 5), tmp_path, most=0)
    assert (folders, taken) == ([tmp_path], [(0, 10 * 4 * 5 * 3)])
