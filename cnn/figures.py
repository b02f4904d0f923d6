"""Numbers and images to PNGs. The only file that knows matplotlib.

Each function draws one figure and writes it to `path`. Colours are Okabe and Ito's, for colour-blind readers too.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure

from cnn.errors import counted
from cnn.training import Epoch

matplotlib.rcParams["text.parse_math"] = False  # a file may be named "a$b_c$.tif": that is no formula
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"


def _save(figure: Figure, path: Path) -> Path:
    # Without the library's version in the file the same figure gives the same bytes. Squeezed at level 3 of 9, not 6, a
    # page of images is there in 1.0 s, not 1.6, and takes a tenth more room.
    figure.savefig(path, dpi=130, metadata={"Software": None}, pil_kwargs={"compress_level": 3})
    return path


def curves(path: Path, history: list[Epoch], best: int) -> Path:
    """Loss and accuracy against the epoch, in training and validation; a line marks the epoch that is kept."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    epochs = [epoch.number for epoch in history]
    for axes, name, unit in (
        (loss_axes, "loss", "cross-entropy (nats an image)"),
        (accuracy_axes, "accuracy", "accuracy (%)"),
    ):
        scale = 100 if name == "accuracy" else 1
        marker = "o" if len(history) < 40 else None
        training = [getattr(epoch, name) * scale for epoch in history]
        validation = [getattr(epoch, f"validation_{name}") * scale for epoch in history]
        axes.plot(epochs, training, color=BLUE, marker=marker, markersize=4, label="training (augmented, with dropout)")
        axes.plot(epochs, validation, color=ORANGE, marker=marker, markersize=4, label="validation")
        axes.axvline(best, color=GREY, linestyle=":", label=f"weights kept: epoch {best}")
        axes.set(xlabel="epoch", ylabel=unit, title=name.capitalize())
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(0.5, len(history) + 0.5)
        axes.grid(alpha=0.3)
    loss_axes.set_ylim(bottom=0)
    accuracy_axes.set_ylim(0, 102)
    loss_axes.legend(fontsize=8)
    return _save(figure, path)


def _percent(rate: dict) -> str:
    if rate["value"] is None:
        return f"{rate['k']}/{rate['n']}"
    return f"{rate['k']}/{rate['n']} = {rate['value']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}]"


def confusion(path: Path, splits: dict[str, dict]) -> Path:
    """A confusion matrix for each split, as `evaluation.judge` gives it, with accuracy, sensitivity and specificity."""
    figure = Figure(figsize=(4.2 * len(splits), 4.6), layout="constrained")
    for axes, (name, judged) in zip(np.atleast_1d(figure.subplots(1, len(splits))), splits.items()):
        matrix = np.array(judged["confusion_matrix"])
        shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(matrix.shape):
            dark = shares[row, column] > 0.5
            text = f"{matrix[row, column]}\n{shares[row, column]:.0%}"
            axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black", fontsize=12)
        ticks = range(len(judged["classes"]))
        axes.set_xticks(ticks, judged["classes"])
        axes.set_yticks(ticks, judged["classes"], rotation=90, va="center")
        axes.set(ylabel="true class")
        lines = [f"{key} {_percent(judged[key])}" for key in ("accuracy", "sensitivity", "specificity")]
        axes.set_xlabel("predicted class\n\n" + "\n".join(lines), fontsize=8.5)
        axes.set_title(f"{name.capitalize()}: {counted(judged['n'], 'image')}")
    figure.suptitle(f"Confusion matrices (positive: {judged['positive']}; 95 % Wilson intervals)", fontsize=11)
    return _save(figure, path)


def _frame(axes) -> None:
    """A thin line around an image, without which one would not see a white one, and no numbers at its edges."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=GREY, linewidth=0.3)


def gallery(path: Path, images: Sequence[np.ndarray], captions: list[str], title: str, columns: int = 6) -> Path:
    """Images in rows, each (height, width, 3) uint8 or float from 0 to 1, with a caption below it."""
    columns = min(columns, max(len(images), 1))
    rows = max(-(-len(images) // columns), 1)
    tallest = max((image.shape[0] / image.shape[1] for image in images), default=1)
    lines = max((caption.count("\n") + 1 for caption in captions), default=0)
    cell = 2.1
    size = max(columns * cell, 5.0), rows * (cell * tallest + 0.17 * lines + 0.1) + 0.6 if len(images) else 0.6
    figure = Figure(figsize=size, layout="constrained")
    for place, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if place < len(images):
            axes.imshow(images[place])
            _frame(axes)
            axes.set_xlabel(captions[place], fontsize=7)
        else:
            axes.axis("off")
    figure.suptitle(title, fontsize=11)
    return _save(figure, path)


def attention(path: Path, images: Sequence[np.ndarray], shares: np.ndarray, captions: list[str], title: str) -> Path:
    """Images, and below each the same in grey under a map of how much each place counts, 1 being an equal share.

    images: each (height, width, 3) uint8; shares: (number, rows, columns), 1 for an equal share.
    """
    tallest = max(image.shape[0] / image.shape[1] for image in images)
    figure = Figure(figsize=(max(2.3 * len(images) + 1, 5.0), 4.2 * tallest + 1.1), layout="constrained")
    axes = figure.subplots(2, len(images), squeeze=False)
    for (above, below), image, share, caption in zip(axes.T, images, shares, captions):
        above.imshow(image)
        above.set_title(caption, fontsize=7)
        extent = (0, image.shape[1], image.shape[0], 0)
        below.imshow(image.mean(-1), cmap="gray", vmin=0, vmax=255, extent=extent)
        drawn = below.imshow(share, cmap="inferno", alpha=0.6, vmin=0, vmax=shares.max(), extent=extent)
        for one in (above, below):
            _frame(one)
    figure.colorbar(drawn, ax=axes[1], label="times the mean weight", shrink=0.9)
    figure.suptitle(title, fontsize=11)
    return _save(figure, path)


def scores(path: Path, positive: np.ndarray, probability: np.ndarray, name: str, title: str) -> Path:
    """Every image as a dot at the probability it got for the positive class, the true classes in two rows."""
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes = figure.subplots()
    spread = np.random.default_rng(0).uniform(-0.25, 0.25, len(probability))  # equal dots must not hide each other
    for row, (chosen, label, colour) in enumerate(((~positive, f"not {name}", BLUE), (positive, name, ORANGE))):
        axes.scatter(probability[chosen], row + spread[chosen], s=18, color=colour, alpha=0.7, label=label)
    axes.axvline(0.5, color=GREY, linestyle=":")
    axes.set_yticks([0, 1], [f"not {name}", name])
    axes.set(
        xlim=(-0.02, 1.02), ylim=(-0.6, 1.6), xlabel=f"probability of {name} according to the network", title=title
    )
    axes.grid(alpha=0.3, axis="x")
    return _save(figure, path)


def intervals(
    path: Path, panels: dict[str, dict[str, dict]], xlabel: str, title: str, scale: float = 100, chance: float = 0.5
) -> Path:
    """Named figures, each {"value", "low", "high"}, as dots with their intervals, and a line where chance is.

    panels: title -> name -> figure; panels stand side by side, and have the same names.
    """
    names = list(next(iter(panels.values())))
    figure = Figure(figsize=(2.5 + 5 * len(panels), 1.4 + 0.55 * len(names)), layout="constrained")
    several = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)
    for axes, (panel, judged) in zip(several.flat, panels.items()):
        for row, name in enumerate(names):
            value, low, high = (scale * judged[name][key] for key in ("value", "low", "high"))
            axes.plot([low, high], [row, row], color=BLUE, linewidth=2.5, solid_capstyle="butt")
            axes.plot(value, row, "o", color=BLUE, markersize=8)
            axes.annotate(
                f"{value:.3g}",
                (value, row),
                (0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            )
        axes.axvline(chance * scale, color=GREY, linestyle=":")
        axes.set_yticks(range(len(names)), names)
        axes.set(ylim=(len(names) - 0.5, -0.6), xlabel=xlabel, title=panel)
        axes.grid(alpha=0.3, axis="x")
    figure.suptitle(title, fontsize=11)
    return _save(figure, path)


def reliability(path: Path, bins: list[dict], title: str) -> Path:
    """How often images of a probability are positive, beside how often they should be; see `evaluation.reliability`."""
    figure = Figure(figsize=(5.2, 5), layout="constrained")
    axes = figure.subplots()
    said, found, low, high = (np.array([one[key] for one in bins]) for key in ("said", "value", "low", "high"))
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="as often as it says")
    axes.errorbar(said, found, [found - low, high - found], color=BLUE, marker="o", capsize=3, label="the network")
    for one in bins:
        place, right = (one["said"], one["value"]), one["said"] > 0.8
        offset, side = ((-6, -12), "right") if right else ((6, -10), "left")
        axes.annotate(f"{one['k']}/{one['n']}", place, offset, textcoords="offset points", fontsize=8, ha=side)
    axes.set(
        xlim=(-0.02, 1.02), ylim=(-0.05, 1.02), xlabel="probability given", ylabel="share that is positive", title=title
    )
    axes.grid(alpha=0.3)
    axes.legend()
    return _save(figure, path)


def number_grids(path: Path, grids: list[tuple[str, np.ndarray]], title: str) -> Path:
    """Small matrices side by side, each number written in its cell: a calculation that one can follow."""
    widths = [max(grid.shape[1], 2.7) for _, grid in grids]
    figure = Figure(figsize=(0.75 * sum(widths) + 0.6 * len(grids), 4.8), layout="constrained")
    for axes, (name, grid) in zip(figure.subplots(1, len(grids), width_ratios=widths, squeeze=False).flat, grids):
        largest = max(np.abs(grid).max(), 1e-12)
        axes.imshow(grid, cmap="PuOr_r", vmin=-largest, vmax=largest, alpha=0.6)
        for row, column in np.ndindex(grid.shape):
            axes.text(column, row, f"{grid[row, column]:g}", ha="center", va="center", fontsize=12)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(name, fontsize=10)
    figure.suptitle(title, fontsize=11)
    return _save(figure, path)


def cost(path: Path, sizes: list[int], seconds: dict[str, list[float | None]], xlabel: str, title: str) -> Path:
    """Seconds against size, both on a logarithmic scale, one line for each way; None where it was not measured."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for (name, values), colour, marker in zip(seconds.items(), (GREY, BLUE, GREEN, ORANGE, "#CC79A7"), "osD^v"):
        known = [(size, value * 1e3) for size, value in zip(sizes, values) if value is not None]
        axes.plot(*zip(*known), color=colour, marker=marker, label=name)
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel="milliseconds (median)", title=title)
    axes.set_xticks(sizes, map(str, sizes))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    return _save(figure, path)


def bars(path: Path, panels: dict[str, dict[str, float]], ours: str, title: str) -> Path:
    """Milliseconds as bars, shortest first, a panel for each piece of work; the bar named `ours` in another colour."""
    heights = [len(values) + 1.2 for values in panels.values()]
    figure = Figure(figsize=(8.5, 0.36 * sum(heights) + 0.6), layout="constrained")
    for axes, (name, values) in zip(
        figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False).flat, panels.items()
    ):
        names = sorted(values, key=values.get, reverse=True)
        drawn = axes.barh(names, [values[n] for n in names], color=[BLUE if n == ours else GREY for n in names])
        axes.bar_label(
            drawn, [f"{values[n]:,.0f}" if values[n] >= 100 else f"{values[n]:.3g}" for n in names], padding=3
        )
        axes.set_xlim(0, 1.12 * max(values.values()))
        axes.set_title(name, fontsize=10, loc="left")
        axes.set_xticks([])
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    return _save(figure, path)


def ladder(path: Path, values: dict[str, float], limit: float, title: str) -> Path:
    """Milliseconds as bars, in the order given, each with how many times as fast as the first it is; the last is ours.

    `limit`: what the machine's matrix rate allows, a line.
    """
    figure = Figure(figsize=(9, 0.36 * len(values) + 1.2), layout="constrained")
    axes, first = figure.subplots(), next(iter(values.values()))
    drawn = axes.barh(list(values), list(values.values()), color=[GREY] * (len(values) - 1) + [BLUE])
    axes.bar_label(drawn, [f"{value:,.0f}   {first / value:.1f} x" for value in values.values()], padding=3)
    axes.axvline(limit, color=ORANGE, linewidth=1.5, label="the least, by the machine's matrix rate")
    axes.set(xlim=(0, 1.25 * max(values.values())), xticks=[])
    axes.invert_yaxis()
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.legend(loc="lower right", fontsize=9)
    axes.set_title(title, fontsize=11, loc="left")
    return _save(figure, path)


def growth(path: Path, rows: dict[str, list[tuple[int, float, float]]], xlabel: str, title: str) -> Path:
    """Time, on a logarithmic scale, and memory against what grows: for each name, (how much, seconds, megabytes)."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    for (name, points), colour, marker in zip(rows.items(), (BLUE, ORANGE, GREEN), "osD"):
        much, seconds, megabytes = zip(*points)
        time_axes.plot(much, [value * 1e3 for value in seconds], color=colour, marker=marker, label=name)
        memory_axes.plot(much, megabytes, color=colour, marker=marker, label=name)
    ticks = sorted({point[0] for points in rows.values() for point in points})
    for axes in (time_axes, memory_axes):
        axes.set(xscale="log", xlabel=xlabel)
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    time_axes.set(yscale="log", ylabel="milliseconds a step (median)")
    _, seconds, megabytes = np.array([point for points in rows.values() for point in points]).T
    time_axes.set_ylim(600 * seconds.min(), 1600 * seconds.max())  # milliseconds, with room: not every wobble is news
    memory_axes.set(ylim=(0, 1.3 * np.nanmax([1.0, *megabytes])), ylabel="memory of the process (MB)")
    for axes in (time_axes, memory_axes):
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
    time_axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    time_axes.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    figure.suptitle(title)
    return _save(figure, path)
