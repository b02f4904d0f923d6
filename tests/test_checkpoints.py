"""Checkpoints: what was written comes back to the bit, and what was not is never taken for it.

A disk may flip a bit, a save may be cut short, a disk may be full. In each case a run goes on from a sound checkpoint.
"""

import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from cnn.checkpoints import Checkpoint, Checkpoints, digest
from cnn.errors import UserError

LIKE = {"kernel": jnp.zeros((3, 2)), "count": jnp.zeros((), jnp.int32)}


def state(step: int) -> dict:
    """Arrays that tell the step they belong to."""
    kernel = jnp.arange(6.0).reshape(3, 2) + step + jnp.float32(1e-7)
    return {"kernel": kernel, "count": jnp.int32(step)}


def write(folder: Path, *steps: int) -> Checkpoints:
    """Checkpoints of those steps."""
    checkpoints = Checkpoints(folder)
    for step in steps:
        checkpoints.save(Checkpoint(step, state(step), {"history": [[1, 0.1 + 0.2, float("nan")]], "step": step}))
    return checkpoints


def refuse(text: str) -> None:
    """Nothing is damaged here."""
    raise AssertionError(text)


def test_what_was_saved_comes_back_to_the_bit(tmp_path):
    write(tmp_path / "c", 4, 9).close()
    found = Checkpoints(tmp_path / "c").restore(LIKE, refuse)
    assert found.step == 9
    for name, array in state(9).items():
        assert (found.arrays[name].dtype, found.arrays[name].shape) == (array.dtype, array.shape)
        assert np.asarray(found.arrays[name]).tobytes() == np.asarray(array).tobytes()
    ((epoch, loss, nothing),) = found.record["history"]
    assert (epoch, loss, found.record["step"]) == (1, 0.1 + 0.2, 9)
    assert np.isnan(nothing)


def test_three_are_kept_and_none_is_none(tmp_path):
    assert write(tmp_path / "c", 1, 2, 3, 4).steps() == [4, 3, 2]
    assert Checkpoints(tmp_path / "d").restore(LIKE, refuse) is None


def test_a_digest_tells_values_shapes_and_types_apart():
    arrays = [np.zeros(4, np.float32), np.zeros((2, 2), np.float32), np.zeros(4, np.int32), np.array([0, 0, 0, -0.0])]
    assert len({digest(array) for array in arrays}) == len(arrays)
    assert digest(arrays[0]) == digest(np.zeros(8, np.float32)[::2]), "it is about values, not about how they lie"


def files(folder: Path) -> list[Path]:
    """Every file of a folder that holds a byte or more."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax, on damaged files
@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_whatever_is_damaged_is_noticed_or_harmless(tmp_path, damage):
    write(tmp_path / "c", 1, 2).close()
    rng, noticed = np.random.default_rng(0), 0
    for i, path in enumerate(files(tmp_path / "c" / "2") * 2):
        copy = tmp_path / f"{damage}{i}"
        shutil.copytree(tmp_path / "c", copy)
        target = copy / path.relative_to(tmp_path / "c")
        content = bytearray(target.read_bytes())
        place = int(rng.integers(len(content)))
        if damage == "flip":
            content[place] ^= 1 << int(rng.integers(8))
        else:
            del content[place:]
        target.write_bytes(bytes(content))
        warnings = []
        checkpoints = Checkpoints(copy)
        found = checkpoints.restore(LIKE, warnings.append)
        checkpoints.close()
        want = state(1) if warnings else state(2)
        assert found.step == (1 if warnings else 2)
        for name, array in want.items():
            assert np.asarray(found.arrays[name]).tobytes() == np.asarray(array).tobytes(), f"{path} at {place}"
        if warnings:
            noticed += 1
            assert str(copy / "2") in warnings[0]
            assert "this checkpoint is damaged" in warnings[0]
            checkpoints = Checkpoints(copy)
            checkpoints.save(Checkpoint(2, state(2), {}))  # the run comes to that step again
            assert checkpoints.restore(LIKE, refuse).step == 2
            checkpoints.close()
    assert noticed > 3, "the damage hit nothing that matters"


def test_a_number_that_changed_without_a_word_is_told_by_its_digest(tmp_path, monkeypatch):
    checkpoints, warnings = write(tmp_path / "c", 1, 2), []
    read = checkpoints.manager.restore

    def flipped(step, args):
        restored = read(step, args=args)
        if step == 2:  # as Orbax does when the disk has flipped a bit: it restores it, and says nothing
            restored.arrays["['kernel']"] = np.asarray(restored.arrays["['kernel']"]) * np.float32(1 + 1e-7)
        return restored

    monkeypatch.setattr(checkpoints.manager, "restore", flipped)
    assert checkpoints.restore(LIKE, warnings.append).step == 1
    assert "this checkpoint is damaged (['kernel'] is not what was written)" in warnings[0]


def test_a_network_of_another_shape_is_refused_with_the_difference(tmp_path):
    checkpoints = write(tmp_path / "c", 1)
    for like, difference in (
        ({**LIKE, "kernel": jnp.zeros((5, 2))}, "['kernel'] is float32 (3, 2) instead of float32 (5, 2)"),
        ({"kernel": LIKE["kernel"], "other": LIKE["count"]}, "['count'] is int32 () instead of absent"),
    ):
        with pytest.raises(UserError) as error:
            checkpoints.restore(like, refuse)
        assert str(error.value) == f"{tmp_path / 'c' / '1'}: is of another network: {difference}; begin a new run"
    assert checkpoints.restore(LIKE, refuse).step == 1, "it is sound, and stays where it is"


def test_if_no_checkpoint_is_sound_that_is_said(tmp_path, monkeypatch):
    checkpoints, warnings = write(tmp_path / "c", 1, 2), []
    monkeypatch.setattr("cnn.checkpoints.digest", lambda array: "another")
    with pytest.raises(UserError, match="no checkpoint is sound; give --resume once more to train it from its first"):
        checkpoints.restore(LIKE, warnings.append)
    assert [str(tmp_path / "c" / step) in text for step, text in zip("21", warnings)] == [True, True]
    assert len(list((tmp_path / "c").glob("damaged-*"))) == 2, "nothing is deleted"


def test_a_full_disk_is_told_in_one_sentence_and_the_checkpoint_before_it_is_intact(tmp_path, monkeypatch):
    checkpoints = write(tmp_path / "c", 1)

    def full(*arguments, **options):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device [place='...']")

    with monkeypatch.context() as context:
        context.setattr(checkpoints.manager, "save", full)
        with pytest.raises(UserError) as error:
            checkpoints.save(Checkpoint(2, state(2), {}))
    assert str(error.value) == (
        f"{tmp_path / 'c'}: the checkpoint of step 2 cannot be written (the disk is full); the one of step 1 is kept; "
        "make room, and go on with --resume"
    )
    assert Checkpoints(tmp_path / "c").restore(LIKE, refuse).step == 1


def test_a_disk_without_room_for_a_checkpoint_is_not_begun_upon(tmp_path, monkeypatch):
    checkpoints = write(tmp_path / "c", 1)
    left = shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr("cnn.checkpoints.shutil.disk_usage", lambda path: left)
    with pytest.raises(UserError, match=r"\(the disk is full: 0.1 MB are left\); the one of step 1 is kept; make room"):
        checkpoints.save(Checkpoint(2, state(2), {}))
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["1"]


def test_what_else_hinders_a_save_is_named_as_it_is(tmp_path, monkeypatch):
    checkpoints = write(tmp_path / "c", 1)

    def refused(*arguments, **options):
        raise PermissionError(13, "Permission denied", "c/2")

    monkeypatch.setattr(checkpoints.manager, "save", refused)
    with pytest.raises(UserError, match=r"\(\[Errno 13\] Permission denied: 'c/2'\); .* see to that, and go on with"):
        checkpoints.save(Checkpoint(2, state(2), {}))
