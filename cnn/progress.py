"""What a terminal shows while a network trains: a bar with the time left, and a line for every finished epoch."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cnn.models import Row
from cnn.training import Epoch


class _Terminal(Console):
    """A console that does not end the program without a word where nobody reads its output any more."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def terminal() -> Console:
    """A console that shows what it is given: a file named [red] or :smile: keeps its name."""
    return _Terminal(markup=False, emoji=False)


@contextmanager
def bar(console: Console, what: str, total: int, *, lines: bool = True) -> Iterator[Callable[..., None]]:
    """A bar on a terminal, elsewhere a line a minute unless `lines` is off; yields `advance(done, total, note)`.

    `advance` may be called often.
    """
    started = said = time.monotonic()
    at_first = None  # what an interrupted run had done already took none of this one's time
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total, note="")

        def advance(done: float, total: int, note: str = "") -> None:
            nonlocal said, at_first
            at_first = done if at_first is None else at_first
            progress.update(task, completed=done, total=total, note=note)
            now = time.monotonic()
            if lines and not console.is_terminal and now - said >= 60 and done > at_first:
                left = (now - started) / (done - at_first) * (total - done) / 60
                console.print(f"{what}: {int(done)} of {total}, about {left:.0f} min left", highlight=False)
                said = now

        yield advance


def network_table(rows: Iterable[Row], title: str) -> Table:
    """The table of a network's layers, shapes, parameters and receptive fields, for a terminal."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("layer")
    for column in ("output shape", "parameters", "sees (pixels)"):
        table.add_column(column, justify="right")
    total = 0
    for row in rows:
        shape = " x ".join(map(str, row.shape))
        sees = "all" if row.receptive_field is None else f"{row.receptive_field} x {row.receptive_field}"
        table.add_row(row.layer, shape, f"{row.parameters:,}", sees)
        total += row.parameters
    table.add_section()
    table.add_row("total", "", f"{total:,}", "")
    return table


def epoch_line(epoch: Epoch, epochs: int, images: int, best: bool) -> str:
    """One epoch in words and figures; a star marks the lowest validation loss so far."""
    validation = ""
    if not math.isnan(epoch.validation_loss):
        validation = f" validation {epoch.validation_loss:.3f}, {epoch.validation_accuracy:.3f} {'*' if best else ' '}"
    return (
        f"epoch {epoch.number:>3}/{epochs}: loss {epoch.loss:.3f}, accuracy {epoch.accuracy:.3f};{validation} "
        f"{epoch.seconds:5.1f} s, {images / epoch.seconds:,.0f} images/s"
    )
