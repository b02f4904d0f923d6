# %% [markdown]
"""What does it cost to start, and to take more: larger batches, larger images, more of them?

    python -m experiments.cost

Each point is a training of a dozen steps in a process of its own, with the default augmentation: how long a step takes,
and how much memory the process needs for itself. The network of 2017 takes images of one size, and its first dense
layer grows with them; the one for few slides takes any size. The last row reads up to 20,000 files, whose pixels wait
in a file that is mapped into memory, as they do where they would take more than a quarter of it.
"""

from dataclasses import dataclass
from pathlib import Path

from cnn import command_line


# %%
@dataclass(frozen=True, kw_only=True)
class Settings(command_line.Common):
    """Measure time and memory of a training step against batch, image size and number of images."""

    batches: tuple[int, ...] = (4, 8, 16, 32, 64, 128)
    """Images a step, each 120 x 160."""
    sizes: tuple[int, ...] = (64, 128, 256, 512)
    """Sides of square images, 8 a step."""
    numbers: tuple[int, ...] = (1000, 5000, 20000)
    """How many files of 64 x 64 pixels to read and train on."""
    starts: int = 3
    """How often to start the main job and wait for its first step."""

    def __post_init__(self):
        super().__post_init__()
        least = {"batches": 1, "sizes": 32, "numbers": 20}
        for name, value in least.items():
            command_line.at_least(value, **{name: min(getattr(self, name), default=value)})


if __name__ == "__main__":
    SETTINGS = command_line.parse(Settings)  # before the slow imports

# %%
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

from cnn import figures, progress, reports, runs
from cnn.errors import UserError


# %%
def in_a_process(device: str, module: str, *arguments: str) -> tuple[str, str | None]:
    """Runs a module of experiments/peers: what it printed, and its last words if it failed, else None."""
    environment = os.environ | ({"JAX_PLATFORMS": "cpu"} if device == "cpu" else {})
    command = [sys.executable, "-m", f"experiments.peers.{module}", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.stdout, (done.stderr.strip().splitlines() or ["nothing"])[-1] if done.returncode else None


def point(device: str, **what) -> dict:
    """One training in a process of its own; see `experiments/peers/point.py`."""
    printed, failed = in_a_process(device, "point", json.dumps(what))
    if failed:
        raise UserError(f"the training of {what} ended early, perhaps for want of memory; its last words: {failed}")
    return what | json.loads(printed.splitlines()[-1])


def first_step(rounds: int, device: str) -> list[float]:
    """Seconds from the command of the main job to the end of its first step, as a user waits for it."""
    seconds = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as temporary:
            started = time.perf_counter()
            printed, failed = in_a_process(device, "first_step", "--out", str(Path(temporary, "run")))
            seconds.append(time.perf_counter() - started)
        if failed or "after the first step" not in printed:
            raise UserError(f"the main job ended before its first step; it said: {failed or 'nothing'}")
    return seconds


def plan(settings: Settings) -> dict[str, list[dict]]:
    """The points, by what grows in them."""
    small = {"size": [120, 160], "number": 256, "files": False}
    return {
        "batch": [{"model": m, "batch": b} | small for m in ("seed", "tissue") for b in settings.batches],
        "side": [
            {"model": m, "batch": 8, "size": [side, side], "number": 64, "files": False}
            for m in ("seed", "tissue")
            for side in settings.sizes
        ],
        "images": [
            {"model": "tissue", "batch": 32, "size": [64, 64], "number": n, "files": True} for n in settings.numbers
        ],
    }


def measure(settings: Settings, console: Console, keep: Callable[[dict], None]) -> dict[str, list[dict]]:
    """All points, measured one after the other; at the start and after each, `keep` is given those there are."""
    planned, found = plan(settings), {}
    keep(found)
    total, done = sum(map(len, planned.values())), 0
    with progress.bar(console, "measuring", total) as advance:
        for name, points in planned.items():
            found[name] = []
            for what in points:
                found[name].append(point(settings.device, **what))
                keep(found)
                done += 1
                advance(done, total, f"{what['model']}, batch {what['batch']}, {what['size'][0]} x {what['size'][1]}")
    return found


def grown(name: str, one: dict) -> int:
    """What grows in a row of points: the batch, the side, or the number of images."""
    return {"batch": one["batch"], "side": one["size"][0], "images": one["number"]}[name]


def table(found: dict[str, list[dict]]) -> Table:
    """All points, for a terminal."""
    shown = Table(title="cost of a training step, with the default augmentation", title_justify="left")
    for heading in ("network", "batch", "size", "images", "ms a step", "images/s", "memory, MB", "first step, s"):
        shown.add_column(heading, justify="left" if heading == "network" else "right")
    for points in found.values():
        for one in points:
            shown.add_row(
                *(one["model"], str(one["batch"]), f"{one['size'][0]} x {one['size'][1]}", f"{one['number']:,}"),
                *(f"{one['step_seconds'] * 1e3:,.1f}", f"{one['batch'] / one['step_seconds']:,.0f}"),
                *(f"{one['megabytes']:,.0f}", f"{one['first_step_seconds']:.1f}"),
            )
        shown.add_section()
    return shown


TITLES = {
    "batch": ("images a step (120 x 160)", "Larger batches"),
    "side": ("side of the image (pixels), 8 a step", "Larger images"),
    "images": ("number of 64 x 64 images, 32 a step", "More images, read from files"),
}


def main(settings: Settings) -> dict[str, list[dict]]:
    """Measures all points, and returns them."""
    device, console = command_line.choose_device(settings.device), progress.terminal()
    print(command_line.first_line("cost", device, "noise"), flush=True)
    folder = runs.create_folder("cost", settings.out)
    runs.write_config(folder, "cost", settings, device)
    waited = first_step(settings.starts, settings.device)
    if waited:
        seconds = float(np.median(waited))
        console.print(f"from the command to the first step of the main job: {seconds:.1f} s", highlight=False)
    found = measure(
        settings,
        console,
        lambda points: runs.write_json(folder / "cost.json", points | {"first_step_seconds": waited}),
    )
    console.print(table(found))
    for name, points in found.items():
        if points:
            rows = {}
            for one in points:
                rows.setdefault(one["model"], []).append((grown(name, one), one["step_seconds"], one["megabytes"]))
            figures.growth(folder / f"{name}.png", rows, *TITLES[name])
    reports.print_files(console, folder)
    return found


if __name__ == "__main__":
    with command_line.one_sentence():
        main(SETTINGS)
