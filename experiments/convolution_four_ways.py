# %% [markdown]
"""Is a convolution one thing? It is one sum, and there are four ways to take it. Which is fast?

    python -m experiments.convolution_four_ways

The same 3 x 3 convolution by loops over the places (the definition), as one matrix product (im2col), as a product of
spectra (Fourier), and by XLA's primitive; and by the function that the layers call. First on numbers that one can
follow by hand, with the gradient; then on images of growing size, with a table and a picture of the times.
"""

from dataclasses import dataclass
from pathlib import Path

from cnn import command_line


# %%
@dataclass(frozen=True, kw_only=True)
class Settings(command_line.Common):
    """Take one convolution four ways, compare the results, and measure the time that each takes."""

    sizes: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    """Sides of the square images that are timed, in pixels."""
    loops_up_to: int = 32
    """Largest side for which the loops are timed: they are slow."""
    channels: int = 16
    """Channels in and out."""
    batch: int = 4
    """Images a convolution."""
    repeats: int = 9
    """Times that each way is measured; the median counts."""

    def __post_init__(self):
        super().__post_init__()
        command_line.at_least(3, sizes=min(self.sizes, default=0))
        command_line.at_least(1, channels=self.channels, batch=self.batch, repeats=self.repeats)


if __name__ == "__main__":
    SETTINGS = command_line.parse(Settings)  # before the slow imports

# %%
import time
from collections.abc import Callable

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from cnn import convolution, fast_convolution, figures, progress, reports, runs

WAYS = {
    "loops": convolution.convolve_loops,
    "matrix product": jax.jit(convolution.convolve_im2col),
    "Fourier": jax.jit(convolution.convolve_fft),
    "XLA": jax.jit(convolution.convolve_lax),
    "the layers'": jax.jit(fast_convolution.convolve),
}

# %% [markdown]
# A 4 x 4 image and a 3 x 3 kernel have 2 x 2 places. At the first place:
#
#     1 2 0 1     1  0 -1
#     3 1 2 0  *  2  0 -2   1*1 + 2*0 + 0*-1 + 3*2 + 1*0 + 2*-2 + 0*1 + 2*0 + 4*-1 = -1
#     0 2 4 1     1  0 -1
#     1 0 1 3
#
# The kernel is Sobel's: it answers where the image grows darker from left to right.

# %%
IMAGE = np.array([[1, 2, 0, 1], [3, 1, 2, 0], [0, 2, 4, 1], [1, 0, 1, 3]], np.float32)
KERNEL = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]], np.float32)


def worked_example(console: Console, path: Path) -> np.ndarray:
    """Prints and draws the small convolution, and the gradient of the sum of its results; returns the result."""
    images, kernel = IMAGE[None, :, :, None], KERNEL[:, :, None, None]
    result = convolution.convolve_loops(images, kernel)
    d_images, d_kernel = convolution.convolve_loops_gradient(images, kernel, np.ones_like(result))
    first = " + ".join(f"{pixel:g}*{weight:g}" for pixel, weight in zip(IMAGE[:3, :3].flat, KERNEL.flat))
    console.print(f"first place: {first} = {result[0, 0, 0, 0]:g}", highlight=False, soft_wrap=True)
    grids = [
        ("image", IMAGE),
        ("kernel", KERNEL),
        ("result: one number a place", result[0, :, :, 0]),
        ("gradient of its sum\nby the image", d_images[0, :, :, 0]),
        ("gradient of its sum\nby the kernel", d_kernel[:, :, 0, 0]),
    ]
    figures.number_grids(path, grids, "A convolution by hand, and where its gradient goes")
    for name, way in WAYS.items():
        distance = np.abs(np.asarray(way(images, kernel)) - result).max()
        console.print(f"{name:<15} differs by at most {distance:.1e}", highlight=False)
    return result[0, :, :, 0]


# %%
def median_seconds(way: Callable, images: np.ndarray, kernel: np.ndarray, repeats: int) -> float:
    """The median time of one call; a first call, which compiles, is not counted."""
    jax.block_until_ready(way(images, kernel))
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(way(images, kernel))
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))


def measure(settings: Settings, console: Console) -> dict[str, list[float | None]]:
    """Seconds for each way and size; None where the loops would take too long. Checks that all agree."""
    rng = np.random.Generator(np.random.PCG64(settings.seed))
    kernel = rng.normal(size=(3, 3, settings.channels, settings.channels)).astype(np.float32)
    seconds = {name: [] for name in WAYS}
    with progress.bar(console, "measuring", len(settings.sizes)) as advance:
        for number, size in enumerate(settings.sizes, start=1):
            images = rng.normal(size=(settings.batch, size, size, settings.channels)).astype(np.float32)
            expected = np.asarray(convolution.convolve_lax(images, kernel))
            for name, way in WAYS.items():
                if name == "loops" and size > settings.loops_up_to:
                    seconds[name].append(None)
                    continue
                np.testing.assert_allclose(way(images, kernel), expected, rtol=1e-3, atol=1e-2, err_msg=name)
                seconds[name].append(median_seconds(way, images, kernel, settings.repeats if name != "loops" else 1))
            advance(number, len(settings.sizes), f"{size} x {size}")
    return seconds


# %%
def main(settings: Settings) -> dict[str, list[float | None]]:
    """Shows the worked example, measures, and returns the seconds for each way and size."""
    device, console = command_line.choose_device(settings.device), progress.terminal()
    print(command_line.first_line("convolution_four_ways", device, "random numbers"), flush=True)
    folder = runs.create_folder("convolution_four_ways", settings.out)
    runs.write_config(folder, "convolution_four_ways", settings, device)
    worked_example(console, folder / "by_hand.png")

    seconds = measure(settings, console)
    work = f"{settings.batch} images, 3 x 3, {settings.channels} to {settings.channels} channels"
    table = Table(title=f"milliseconds, {work}", title_justify="left")
    table.add_column("way")
    for size in settings.sizes:
        table.add_column(f"{size} x {size}", justify="right")
    for name, values in seconds.items():
        table.add_row(name, *("-" if value is None else f"{value * 1e3:.2f}" for value in values))
    console.print(table)
    rows = [(name, size, value) for name in seconds for size, value in zip(settings.sizes, seconds[name])]
    runs.write_csv(folder / "times.csv", ("way", "size", "seconds"), rows)
    figures.cost(
        folder / "times.png", list(settings.sizes), seconds, "side of the image (pixels)", f"One convolution: {work}"
    )
    reports.print_files(console, folder)
    return seconds


if __name__ == "__main__":
    with command_line.one_sentence():
        main(SETTINGS)
