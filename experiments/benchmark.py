# %% [markdown]
"""Is it fast? The same work here, in Flax's layers, Keras, PyTorch and albumentations, on this machine, now.

    pip install -e '.[bench]' && python -m experiments.benchmark

Five pieces of work around the network of 2017 (batch 32, 120 x 160, float32): a training step, the forward pass alone,
two augmentations of 240 x 320 images, and the whole job: from 58 images in memory to an epoch of 640 augmented ones.
Every peer has a process of its own; they take turns, round by round, so that a slow moment of the machine hits all of
them. Before anything is timed, all that train have computed a loss and its gradients from the same weights, and agree.

Beside the peers stands the machine: how fast it multiplies matrices and copies memory, in the same rounds, and so how
long the work must take at least (`peers/limits.py`). Each figure is also told as a share of that limit.

On a GPU a step is one of 48 that are asked for in a row, since a GPU works on while the next step is being asked for
(Keras' `train_on_batch` waits each time); the images lie there already. This project takes 16 steps in a call, as it
does when it trains. `--precision` says how exactly all peers multiply there.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cnn import command_line
from experiments.peers.processes import PEERS, Entry, Peer, start

TASKS = {
    "step": "a training step",
    "forward": "forward only",
    "move": "flips and an affine map",
    "move_and_blur": "flips, affine map, blur",
    "epoch": "the whole job, one epoch",
}


# %%
@dataclass(frozen=True, kw_only=True)
class Settings(command_line.Common):
    """Time a training step, the forward pass, augmentation and the whole job beside other libraries."""

    rounds: int = 5
    """How often every peer has its turn; the median counts."""
    tasks: tuple[Literal["step", "forward", "move", "move_and_blur", "epoch"], ...] = tuple(TASKS)
    """Which work to time."""
    peers: tuple[Literal[tuple(PEERS)], ...] = tuple(PEERS)
    """Which peers to time beside this project."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """How exactly a GPU multiplies, for all peers; see the option of experiments.train."""

    def __post_init__(self):
        super().__post_init__()
        command_line.at_least(1, rounds=self.rounds, tasks=len(self.tasks))


if __name__ == "__main__":
    SETTINGS = command_line.parse(Settings)  # before the slow imports

# %%
import tempfile

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from cnn import figures, models, progress, reports, runs, synthetic
from cnn.errors import UserError
from experiments.peers import BATCH, EPOCH, LARGE, SIZE, limits

REPEATS = {"step": 4, "forward": 6, "move": 4, "move_and_blur": 4, "epoch": 1, "matmul": 4, "copy": 4}
TIMES = {"cpu": {}, "gpu": {"step": 48, "forward": 48, "move": 48, "move_and_blur": 48, "matmul": 4, "copy": 16}}


# %%
def inputs(seed: int) -> dict[str, np.ndarray]:
    """What all peers get, drawn; see `experiments/peers/__init__.py`."""
    network = models.seed((*SIZE, 3), 2, key=jax.random.key(seed))
    drawn, large = (synthetic.draw_slides(n, seed=seed, size=size) for n, size in ((58, SIZE), (32, LARGE)))
    kernels = [np.asarray(layer.kernel[...]) for layer in network.layers if hasattr(layer, "kernel")]
    arrays = {f"kernel{i}": kernel for i, kernel in enumerate(kernels)}
    rng = np.random.default_rng(seed)  # biases that are not 0, so that one left out would be noticed
    arrays |= {f"bias{i}": 0.1 * rng.standard_normal(k.shape[-1]).astype(np.float32) for i, k in enumerate(kernels)}
    arrays |= {
        "noise": rng.integers(0, 256, (4, *SIZE, 3), np.uint8),
        "noise_labels": np.array([0, 1, 1, 0], np.int32),
    }
    arrays |= {"images": drawn.images[:BATCH], "labels": drawn.labels[:BATCH], "large": large.images}
    return arrays | {"originals": drawn.images, "classes": drawn.labels}


# %% [markdown]
# Are they the same? From the same weights and images, without dropout, every peer's loss and each of its gradients must
# be ours, to a ten-thousandth of the gradient's norm. The images are four of noise: of two pixels that are equal but
# for rounding, which is the larger is chance, and in 32 images of tissue there are some that decide a gradient's third
# digit, between any two of the peers.


# %%
def check_same(peers: dict[str, Peer], folder: Path) -> dict[str, float]:
    """The largest relative distance of each peer's loss and gradients from those of `cnn`; UserError beyond 1e-4."""
    found = {}
    trained = [name for name, peer in peers.items() if "step" in peer.entry.does("gpu")]
    paths = {name: folder / f"{number}.npz" for number, name in enumerate(trained)}
    for name, path in paths.items():  # all at once: nothing is timed yet, and compiling takes long
        peers[name].send(do="gradients", to=str(path))
    for name, path in paths.items():
        answer = peers[name].answer()
        with np.load(path) as arrays:
            found[name] = [np.float64(answer["loss"]), *(arrays[f"arr_{i}"] for i in range(len(arrays.files)))]
    distances = {}
    for name, values in found.items():
        ours = found["cnn"]
        # np.max and not max, which passes over a NaN
        distances[name] = float(
            np.max([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(values, ours, strict=True)])
        )
        if not distances[name] < 1e-4:
            raise UserError(f"{name} computes another loss or gradient than cnn: they differ by {distances[name]:.1e}")
    return distances


def measure(peers: dict[str, Peer], kind: str, settings: Settings, console: Console) -> tuple[dict, dict]:
    """Seconds by (peer, task), a list of all that counted; and of the first call, which compiles."""
    machine = [("cnn", "matmul"), ("cnn", "copy")]
    work = [
        (name, task) for task in settings.tasks for name, peer in peers.items() if task in peer.entry.does(kind)
    ] + machine
    seconds, first = {pair: [] for pair in work}, {}
    with progress.bar(console, "measuring", settings.rounds) as advance:
        for number in range(1, settings.rounds + 1):
            for name, task in work:
                times = TIMES[kind].get(task, 1)
                repeats = max(REPEATS[task], 4) if kind == "gpu" else REPEATS[task]  # an epoch is short there
                if number == 1 or repeats > 1:  # others have used the caches since its last turn
                    warm = peers[name].ask(do=task, repeats=1, times=times)
                    first.setdefault((name, task), warm["calls"][0])
                seconds[name, task] += peers[name].ask(do=task, repeats=repeats, times=times)["seconds"]
            advance(number, settings.rounds, "rounds")
    return seconds, first


# %%
def summary(seconds: dict, first: dict, memory: dict[str, float], kind: str, settings: Settings) -> dict:
    """What benchmark.json holds: for every task and peer the median, images a second, and the ratios."""
    medians = {pair: float(np.median(values)) for pair, values in seconds.items()}
    probe = limits.PROBES[kind]
    rate, bandwidth = 2 * probe.side**3 / medians["cnn", "matmul"], 2 * 4 * probe.long / medians["cnn", "copy"]
    counted, tasks = limits.counted(), {}
    for task in settings.tasks:
        own = {name: medians[name, task] for name, other in medians if other == task}
        fastest_peer = min((value for name, value in own.items() if name != "cnn"), default=None)
        images = EPOCH if task == "epoch" else BATCH
        least, bound = limits.least(counted[task], rate, bandwidth)
        tasks[task] = {
            name: {
                "seconds": value,
                "quartiles": [float(q) for q in np.quantile(seconds[name, task], (0.25, 0.75))],
                "first_call_seconds": first[name, task],
                "images_per_second": images / value,
                "speed_of_fastest_peer": fastest_peer and fastest_peer / value,
                "share_of_limit": least / value,
                "bound_by": bound,
            }
            for name, value in sorted(own.items(), key=lambda item: item[1])
        }
    machine = {"matmul_flops_per_second": rate, "copy_bytes_per_second": bandwidth}
    work = {task: counted[task]._asdict() for task in settings.tasks}
    return {"machine": machine, "counted": work, "tasks": tasks, "peak_mb": memory}


def compare(entries: dict[str, Entry], kind: str, settings: Settings, console: Console) -> dict:
    """Starts the peers, checks that all compute the same, times them, and returns what benchmark.json holds."""
    peers = {}
    try:
        with tempfile.TemporaryDirectory() as temporary:
            np.savez(Path(temporary, "inputs.npz"), **inputs(settings.seed))
            versions = start(peers, entries, settings, Path(temporary, "inputs.npz"), kind, console)
            distances = check_same(peers, Path(temporary))
        if len(distances) > 1:
            far, text = max(distances.values()), "peers give the same loss and gradients in float32, within"
            console.print(f"{len(distances)} {text} {far:.0e}", highlight=False)
        seconds, first = measure(peers, kind, settings, console)
        memory = {name: peer.ask(do="memory")["peak_mb"] for name, peer in peers.items()}
    finally:
        for peer in peers.values():
            peer.close()
    found = summary(seconds, first, memory, kind, settings)
    return found | {"versions": versions, "distances": distances}


def table(tasks: dict) -> Table:
    """All tasks and peers, for a terminal."""
    shown = Table(
        title="medians; ratio: speed over that of the fastest peer; limit: the least time, by what bounds it",
        title_justify="left",
    )
    for heading in ("work", "who", "ms", "images/s", "ratio", "of the limit", "first call, s"):
        shown.add_column(heading, justify="left" if heading in ("work", "who") else "right")
    for task, by_peer in tasks.items():
        for i, (name, row) in enumerate(by_peer.items()):
            ratio = row["speed_of_fastest_peer"]
            shown.add_row(
                "" if i else f"{TASKS[task]} (bound by {row['bound_by']})",
                name,
                f"{row['seconds'] * 1e3:,.{1 if row['seconds'] > 0.1 else 3}f}",
                f"{row['images_per_second']:,.0f}",
                "-" if ratio is None else f"{ratio:.2f}",
                f"{row['share_of_limit']:.0%}",
                f"{row['first_call_seconds']:.1f}",
                style="bold" if name == "cnn" else None,
            )
        shown.add_section()
    return shown


def main(settings: Settings) -> dict:
    """Compares all that are asked for, and returns what benchmark.json holds."""
    device, console = command_line.choose_device(settings.device, settings.precision), progress.terminal()
    kind = "cpu" if jax.default_backend() == "cpu" else "gpu"
    if kind == "cpu" and settings.precision != "float32":
        raise UserError(f"--precision: {settings.precision} is timed on a GPU only, and this is a processor")
    device += f", {settings.precision}" if kind == "gpu" else ""
    print(command_line.first_line("benchmark", device, "drawn tissue"), flush=True)
    if settings.precision == "bfloat16" and "forward" in settings.tasks:
        settings = replace(settings, tasks=tuple(task for task in settings.tasks if task != "forward"))
        console.print("left out: forward only, since this project learns in bfloat16, but is used in float32")
    folder = runs.create_folder("benchmark", settings.out)
    runs.write_config(folder, "benchmark", settings, device)
    entries = {name: PEERS[name] for name in ("cnn", *settings.peers)}
    console.print(f"starting the peers, each in a process; writing to {folder}", highlight=False)
    result = compare(entries, kind, settings, console) | {"device": device}
    console.print(table(result["tasks"]))
    machine = result["machine"]
    runs.write_json(folder / "benchmark.json", result)
    rates = f"{machine['matmul_flops_per_second'] / 1e9:.0f} GFLOP/s, {machine['copy_bytes_per_second'] / 1e9:.1f} GB/s"
    console.print(f"the machine: matrix products at {rates}", highlight=False)
    bars = {
        TASKS[task]: {name: row["seconds"] * 1e3 for name, row in rows.items()}
        for task, rows in result["tasks"].items()
    }
    figures.bars(folder / "benchmark.png", bars, "cnn", f"Milliseconds, median of {settings.rounds} rounds: {device}")
    reports.print_files(console, folder)
    return result


if __name__ == "__main__":
    with command_line.one_sentence():
        main(SETTINGS)
