"""One training from its start, or from where it was interrupted, to its end: shown, stopped in time, and kept."""

import sys
import time
from pathlib import Path

from flax import nnx
from rich.console import Console

from cnn.checkpoints import Checkpoint, Checkpoints
from cnn.interrupts import Interrupts
from cnn.progress import bar, epoch_line
from cnn.step import State, Sums, initial_state
from cnn.training import EarlyStopping, Epoch, Point, train


class Keeper:
    """Saves where a training stands, every so often and when it is told to stop, and finds it again.

    A context: signals are minded from entry to exit.

    Args:
        folder: where the checkpoints are, or will be.
        how_to_go_on: the command that resumes the run.
        every: seconds from one save to the next.
    """

    def __init__(self, folder: Path, how_to_go_on: str, *, every: float):
        self.checkpoints, self.how_to_go_on, self.every = Checkpoints(folder), how_to_go_on, every
        self.interrupts, self.saved_at = Interrupts(), time.monotonic()

    def __enter__(self) -> "Keeper":
        self.interrupts.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.interrupts.__exit__(*error)
        self.checkpoints.close()

    def due(self) -> bool:
        """Whether it is time to save, or to stop."""
        return self.interrupts.exit_status is not None or time.monotonic() - self.saved_at >= self.every

    def save(self, point: Point, history: list[Epoch], kept: Epoch | None) -> None:
        """Writes a checkpoint; if it was asked to stop, says how to go on and ends the process."""
        record = {
            "sums": [list(one) for one in point.sums],
            "seconds": point.seconds,
            "history": [list(epoch[:6]) for epoch in history],
            "kept": kept and list(kept[:6]),
        }
        weights = point.state.parameters if kept is None else kept.parameters
        self.checkpoints.save(Checkpoint(point.step, {"state": point.state, "kept": weights}, record))
        self.saved_at = time.monotonic()
        if self.interrupts.exit_status is not None:
            print(f"stopped after step {point.step}; all is kept. To go on: {self.how_to_go_on}", file=sys.stderr)
            sys.exit(self.interrupts.exit_status)

    def load(self, like: State, console: Console) -> tuple[Point | None, list[Epoch], Epoch | None]:
        """Where the run stood: its Point, the epochs so far and the one to keep; (None, [], None) at the beginning."""
        arrays = {"state": like, "kept": like.parameters}
        found = self.checkpoints.restore(arrays, lambda text: console.print(text, style="yellow", soft_wrap=True))
        if found is None:
            return None, [], None
        record, state, kept = found.record, found.arrays["state"], found.arrays["kept"]
        history = [Epoch(*epoch, None, None) for epoch in record["history"]]
        console.print(f"going on after step {found.step}", highlight=False)
        return (
            Point(found.step, state, [Sums(*one) for one in record["sums"]], record["seconds"]),
            history,
            record["kept"] and Epoch(*record["kept"], kept, None),
        )


def fit(
    console: Console,
    network,
    training,
    validation,
    *,
    epochs: int,
    patience: int | None,
    keeper: Keeper | None = None,
    **settings,
) -> tuple[list[Epoch], Epoch]:
    """Trains with `training.train`, shows it, and stops when `patience` epochs have brought no lower validation loss.

    Without validation images `patience` must be None. With a keeper, the run can be interrupted at any moment and goes
    on where it was saved, to the same bytes.

    Returns:
        the list of all epochs (without their parameters), and the one to keep, with its parameters: the one with the
        lowest validation loss, or the last if `patience` is None. (If a run got its `patience` on its way: the one with
        the lowest since then, or the last before.)
    """
    start, history, kept = None, [], None
    if keeper is not None:
        start, history, kept = keeper.load(initial_state(nnx.state(network), settings["optimizer"]), console)
    stopping = EarlyStopping(patience or epochs)
    by_loss = min(history, key=lambda epoch: epoch.validation_loss, default=None)
    stopping.best = by_loss if patience is None else kept
    images = settings.get("per_epoch") or len(training[0])
    shown_at, stopped = 0.0, f"stopped: no lower validation loss for {patience} epochs"
    with bar(console, "training", epochs, lines=False) as advance:  # there is a line for every epoch

        def on_step(done: int, total: int, sums: Sums) -> None:
            nonlocal shown_at
            if time.perf_counter() - shown_at < 0.25:  # reading a loss waits for its step: not every time
                return
            loss, accuracy = float(sums.loss) / sums.images, float(sums.correct) / sums.images
            speed = f"{images / history[-1].seconds:,.0f} images/s" if history else ""
            advance(done, total, f"loss {loss:.3f}  accuracy {accuracy:.2f}  {speed}")
            shown_at = time.perf_counter()

        def keep(point: Point) -> None:
            if keeper is not None:
                keeper.save(point, history, kept)

        finished = patience is not None and bool(history) and stopping.finished(history[-1])
        if finished:
            console.print(stopped, highlight=False)
        due = (lambda: False) if keeper is None else keeper.due
        rest = train(network, training, validation, epochs=epochs, on_step=on_step, start=start, pause=due, **settings)
        for event in () if finished else rest:
            if isinstance(event, Point):
                keep(event)
                continue
            finished = stopping.finished(event) and patience is not None
            console.print(epoch_line(event, epochs, images, event is stopping.best), highlight=False, soft_wrap=True)
            kept = event if patience is None else stopping.best
            history.append(event._replace(parameters=None, point=None))
            if due() or finished or event.number == epochs:
                keep(event.point)
            if finished:
                console.print(stopped, highlight=False)
                break
    return history, kept
