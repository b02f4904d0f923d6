"""Many networks at one command: shown as they are trained, each kept once it is, and gone on with after Ctrl-C."""

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from cnn import jobs, resuming
from cnn.errors import counted
from cnn.interrupts import interruptible
from cnn.progress import bar


def train_many(
    console: Console,
    experiment: str,
    settings: object,
    folder: Path,
    pieces: dict[str, tuple],
    work: Callable[..., object],
    shared: tuple,
    data_digest: str,
) -> dict[str, object]:
    """Does work(*shared, *piece, report=..) for each of `pieces`, as `jobs.run` does; the results, by name.

    Args:
        settings: of the run, with `jobs` and `resume`.
        folder: the run's; results are kept in its sub-folder networks.
        data_digest: see `slides.source_digest`.
    Raises:
        UserError: if another process is at work in the folder.
    """
    console.print(
        f"{counted(len(pieces), 'network')} to train, {settings.jobs} at a time; writing to {folder}",
        highlight=False,
        soft_wrap=True,
    )
    with (
        resuming.alone(folder),
        # outside the bar, which would break a long command into lines that cannot be copied
        interruptible(resuming.how_to_go_on(experiment, settings, folder)),
        bar(console, "networks", len(pieces)) as advance,
    ):
        resuming.note_changes(settings, data_digest)
        files = {name.replace(" ", "_"): piece for name, piece in pieces.items()}
        results = jobs.run(
            files,
            work,
            folder / "networks",
            jobs=settings.jobs,
            shared=shared,
            progress=advance,
        )
    return dict(zip(pieces, results.values()))
