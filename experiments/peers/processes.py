"""The peers of `experiments/benchmark.py`: which there are, and how each is started, asked and ended.

`experiments/faster.py` has peers of its own: this project's step with some of what makes it fast, and without the rest.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cnn.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console


class Entry(NamedTuple):
    """One of those that are timed."""

    module: str  # in experiments/peers
    work: tuple[str, ...]  # that it can do
    environment: dict[str, str] = {}  # noqa: RUF012 (never changed)
    on_gpu: tuple[str, ...] = ()  # what it does on a GPU beside that

    def does(self, kind: str) -> tuple[str, ...]:
        """The work that it can do on a processor or a GPU; none: it has no part in this run."""
        return self.work + (self.on_gpu if kind == "gpu" else ())


# What `cnn` asks of the C library for itself (`cnn/__init__.py`): to keep freed memory for the next step. Without it
# PyTorch and Keras too would wait for fresh pages of memory at each.
KEEP = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
PEERS = {
    "cnn": Entry("ours", ("step", "forward", "move", "move_and_blur", "epoch")),
    "the obvious JAX": Entry("obvious", ("step", "forward")),
    "Flax layers": Entry("flax_layers", ("step", "forward")),
    "Keras on TensorFlow": Entry(
        "keras_layers", ("step", "forward", "move", "epoch"), KEEP | {"KERAS_BACKEND": "tensorflow"}
    ),
    "Keras on JAX": Entry("keras_layers", ("step", "forward"), KEEP | {"KERAS_BACKEND": "jax"}, ("move", "epoch")),
    "PyTorch": Entry("torch_layers", ("step", "forward", "epoch"), KEEP),
    "PyTorch, compiled": Entry("torch_layers", ("step", "forward"), KEEP | {"PEER_COMPILED": "default"}),
    "PyTorch, CUDA graphs": Entry("torch_layers", (), KEEP | {"PEER_COMPILED": "reduce-overhead"}, ("step", "forward")),
    "PyTorch, affine grid": Entry("grids", ("move",), KEEP),
    "albumentations": Entry("augmenters", ("move", "move_and_blur"), KEEP),
}


class Peer:
    """A peer in a process of its own, that is asked and answers."""

    def __init__(self, name: str, entry: Entry, path: Path, kind: str, precision: str = "float32"):
        self.name, self.entry = name, entry
        # cnn sets its own again, and what you have set for XLA, malloc and threads would hinder some and not others
        yours = ("XLA_FLAGS", "MALLOC_", "GLIBC_TUNABLES", "OMP_", "MKL_", "TF_NUM_")
        mine = {name: value for name, value in os.environ.items() if not name.startswith(yours)}
        mine |= entry.environment | {"PEER_DEVICE": kind, "PEER_PRECISION": precision}
        mine["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would ask the network for a newer version of itself
        mine |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""} if kind == "cpu" else {}
        mine["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # TensorFlow would take all of a GPU's memory
        if kind == "gpu":  # one for all: of several, not all peers would use all
            mine["CUDA_VISIBLE_DEVICES"] = mine.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (read when the peer has ended)
        command = [sys.executable, "-m", "experiments.peers.serve", entry.module, str(path)]
        self.process = subprocess.Popen(
            command, env=mine, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )

    def answer(self) -> dict:
        """Waits for the next answer; raises UserError with its last words if the peer has ended."""
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            last = (self.errors.read().strip().splitlines() or ["nothing"])[-1]
            raise UserError(f"the peer {self.name} ended; it said: {last}")
        return json.loads(line)

    def send(self, **request) -> None:
        """Sends one request; `answer` waits for what comes back."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def ask(self, **request) -> dict:
        """Sends one request, and waits for its answer."""
        self.send(**request)
        return self.answer()

    def close(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.communicate()
        self.errors.close()


def start(
    started: dict[str, Peer], entries: dict[str, Entry], settings, path: Path, kind: str, console: "Console"
) -> dict[str, str]:
    """Puts every one of `entries` that is installed into `started`, and tells which are not; returns their versions.

    Settings: those of the benchmark, with `tasks` and `precision`.
    """
    versions = {}
    for name, entry in entries.items():
        if name == "cnn" or set(entry.does(kind)) & set(settings.tasks):
            started[name] = Peer(name, entry, path, kind, settings.precision)
        else:
            console.print(f"left out: {name}, since it does none of this work on a {kind.upper()}", highlight=False)
    for name, peer in list(started.items()):
        answer = peer.answer()
        if "absent" in answer:
            advice = "" if "GPU" in answer["absent"] else " (pip install -e '.[bench]')"
            text = f"left out: {name}, since {answer['absent']} is not installed{advice}"
            console.print(text, highlight=False, soft_wrap=True)
            started.pop(name).close()
        else:
            versions |= answer["versions"]
    return versions
