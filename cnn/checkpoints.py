"""Checkpoints: where a run stands, on disk, so that whatever stops it, little has to be done again.

Orbax writes them: whole or not at all, and never over the one before. What it does not notice is a bit that flips on
the disk; so the SHA-256 of each array, and of the record, is written too, and compared when the checkpoint is read. A
damaged one is named, and the one before it is taken: the run then repeats some steps, and ends with the same bytes,
since what a step does depends on the seed and its number alone.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from cnn.errors import UserError

logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax tells of every file it writes, and raises errors too
SPARE = 1 << 18  # bytes of a checkpoint that are not its arrays: names, shapes, the record
KEPT = 3  # checkpoints: the newest, and two to fall back on


class Checkpoint(NamedTuple):
    """What is saved of a run."""

    step: int
    arrays: object  # a pytree of arrays
    record: dict  # all else, as JSON can hold it


def digest(array: np.ndarray) -> str:
    """The SHA-256 of an array's dtype, shape and bytes, 64 hexadecimal digits."""
    array = np.ascontiguousarray(array)
    return hashlib.sha256(f"{array.dtype} {array.shape} ".encode() + array.tobytes()).hexdigest()


def _named(arrays: object) -> dict[str, np.ndarray]:
    """The leaves of a pytree by their place in it; every one becomes a numpy array."""
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(arrays)}


class Checkpoints:
    """The checkpoints of one run, in one folder."""

    def __init__(self, folder: Path):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEPT, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        # An asynchronous save would report a full disk one save later (measured), so saves are synchronous.
        self.folder = folder
        self.manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint, whole or not at all; the oldest of more than three is deleted afterwards.

        Raises:
            UserError: if it cannot be written, on a full disk for example; those before it are as they were.
        """
        arrays = _named(checkpoint.arrays)
        text = json.dumps({"digests": {name: digest(array) for name, array in arrays.items()}, **checkpoint.record})
        record = {"text": text, "digest": hashlib.sha256(text.encode()).hexdigest()}
        content = ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), record=ocp.args.JsonSave(record))
        # Asked before, because Orbax' threads tell of a full disk by dozens of tracebacks.
        free = shutil.disk_usage(self.folder).free
        if free < sum(array.nbytes for array in arrays.values()) + len(text) + SPARE:
            raise self._unwritten(checkpoint.step, f"the disk is full: {free / 1e6:.1f} MB are left", "make room")
        try:
            self.manager.save(checkpoint.step, args=content, force=True)
        except (OSError, ValueError) as error:
            full = "RESOURCE_EXHAUSTED" in str(error) or "No space" in str(error)
            reason = "the disk is full" if full else " ".join(str(error).split())[:200]
            raise self._unwritten(checkpoint.step, reason, "make room" if full else "see to that") from None

    def _unwritten(self, step: int, reason: str, remedy: str) -> UserError:
        before = self.manager.latest_step()
        kept = "there is none before it" if before is None else f"the one of step {before} is kept"
        return UserError(
            f"{self.folder}: the checkpoint of step {step} cannot be written ({reason}); {kept}; {remedy}, and go on "
            "with --resume"
        )

    def steps(self) -> list[int]:
        """The steps of which there is a checkpoint, the newest first."""
        return sorted(self.manager.all_steps(read=True), reverse=True)

    def restore(self, like: object, warn: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint that is sound, or None if none was written.

        Args:
            like: a pytree of arrays with the structure, shapes and dtypes of the one that was saved.
            warn: told of each checkpoint that is damaged.
        Raises:
            UserError: if there are checkpoints, and none is sound, or the newest sound one is of another network.
        """
        steps = self.steps()
        for step in steps:
            try:
                return self._read(step, like)
            except UserError:
                raise
            except Exception as error:  # a damaged file makes Orbax raise whatever its bytes lead it to
                reason = " ".join(str(error).split())[:120] or type(error).__name__
                aside = self._put_aside(step)
                warn(f"{self.folder / str(step)}: this checkpoint is damaged ({reason}), and is now {aside.name}")
        if steps:
            raise UserError(
                f"{self.folder}: no checkpoint is sound; give --resume once more to train it from its first step, or "
                "begin a new run"
            )
        return None

    def _put_aside(self, step: int) -> Path:
        """Renames a checkpoint, so that the run can save that step again when it comes to it."""
        aside = self.folder / f"damaged-{step}-{time.time_ns()}"
        (self.folder / str(step)).rename(aside)
        self.manager.reload()
        return aside

    def _read(self, step: int, like: object) -> Checkpoint:
        content = ocp.args.Composite(arrays=ocp.args.StandardRestore(), record=ocp.args.JsonRestore())
        restored = self.manager.restore(step, args=content)
        text, wanted = restored.record["text"], _named(like)
        if hashlib.sha256(text.encode()).hexdigest() != restored.record["digest"]:
            raise ValueError("its record is not what was written")
        record = json.loads(text)
        digests = record.pop("digests")
        found = {name: np.asarray(array) for name, array in restored.arrays.items()}
        wrong = [name for name in found.keys() | digests.keys() if digest(found[name]) != digests[name]]
        if wrong:
            raise ValueError(f"{min(wrong)} is not what was written")
        kinds = [{name: f"{a.dtype} {a.shape}" for name, a in arrays.items()} for arrays in (found, wanted)]
        if kinds[0] != kinds[1]:
            name = min(name for name in kinds[0] | kinds[1] if kinds[0].get(name) != kinds[1].get(name))
            difference = f"{name} is {kinds[0].get(name, 'absent')} instead of {kinds[1].get(name, 'absent')}"
            raise UserError(f"{self.folder / str(step)}: is of another network: {difference}; begin a new run")
        leaves = [jnp.asarray(found[name]) for name in wanted]
        return Checkpoint(step, jax.tree.unflatten(jax.tree.structure(like), leaves), record)

    def close(self) -> None:
        """Waits for what is being deleted, and lets go of the folder."""
        self.manager.close()
