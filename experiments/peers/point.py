"""One training in a process of its own, so that its memory is its own: one point of `experiments/cost.py`.

    python -m experiments.peers.point '{"model": "seed", "batch": 8, "size": [120, 160], "number": 9, "files": false}'

Prints, as JSON, the median seconds of a step, seconds until the first one was done, seconds to read the images, and the
most memory that the process had for itself (pages of a mapped file, which the system may take back at any time, are
not counted) before it learned and while it did.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import cnn  # noqa: F401 (first: it sets XLA's flags)

# isort: split
import jax
import numpy as np
import optax

from cnn import augment, images, models, slides, store, training
from experiments.peers.memory import megabytes

STEPS = 12


def own_megabytes() -> float:
    """What this process has for itself at the moment; where the system does not tell (no Linux), NaN."""
    return megabytes("RssAnon")


def written(folder: Path, number: int, size: tuple[int, int]) -> None:
    """So many PNG files of noise in two classes."""
    rng = np.random.default_rng(0)
    for name in ("benign", "malignant"):
        (folder / name).mkdir()
    for i in range(number):
        noise = rng.integers(0, 256, (*size, 3), np.uint8)
        images.write_png(folder / ("benign", "malignant")[i % 2] / f"{i:06d}.png", noise)


def main(model: str, batch: int, size: list[int], number: int, files: bool) -> dict:
    """Trains for some steps on noise; with `files` on images that are read from a folder and wait in a file."""
    size = tuple(size)
    with tempfile.TemporaryDirectory() as temporary:
        if files:
            written(Path(temporary), number, size)
        started = time.perf_counter()
        if files:
            store.SHARE = 0  # as if they took more than a quarter of the memory
            data = slides.read_folder(temporary, size=size)
            shown, labels = data.images, data.labels
        else:
            shown = np.random.default_rng(0).integers(0, 256, (number, *size, 3), np.uint8)
            labels = (np.arange(number) % 2).astype(np.int32)
        reading = time.perf_counter() - started
    before, moments, most = own_megabytes(), [], []

    def on_step(done: int, total: int, sums) -> None:
        float(sums.loss)  # waits for the step
        moments.append(time.perf_counter())
        most.append(own_megabytes())

    network = models.MODELS[model]((*size, 3), 2, key=jax.random.key(0))
    options = {"batch": batch, "per_epoch": batch * STEPS, "optimizer": optax.adam(1e-3), "seed": 0}
    options |= {"at_once": 1, "augmentation": augment.named("default")}  # on a GPU too, each step is timed
    started = time.perf_counter()
    for _ in training.train(network, (shown, labels), None, epochs=1, on_step=on_step, **options):
        pass
    return {
        "step_seconds": float(np.median(np.diff(moments)[1:])),
        "first_step_seconds": moments[0] - started,
        "reading_seconds": reading,
        "megabytes_before": before,
        "megabytes": max(most),
    }


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
