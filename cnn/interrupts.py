"""Being told to stop: Ctrl-C, or a machine that shuts down. What is being done is finished first, then saved."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Between entry and exit, notes SIGINT (Ctrl-C) and SIGTERM instead of obeying at once; a second one ends at once.

    >>> with Interrupts() as interrupts:
    ...     os.kill(os.getpid(), signal.SIGTERM)
    ...     interrupts.exit_status  # 128 + the number of the signal, as shells have it
    143
    """

    exit_status: int | None = None  # None: nobody has asked to stop

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.exit_status is not None:
            os._exit(128 + number)
        self.exit_status = 128 + number
        os.write(2, b"finishing this step, then saving; once more to stop at once\n")  # print is not safe in here

    def __enter__(self) -> "Interrupts":
        self._before = {}
        if threading.current_thread() is threading.main_thread():  # Python hands signals to no other
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Terminated(KeyboardInterrupt):
    """SIGTERM, where `interruptible` listens: a machine that shuts down, or a scheduler whose time is up."""


@contextmanager
def interruptible(how_to_go_on: str) -> Iterator[None]:
    """Turns Ctrl-C and SIGTERM, where there is nothing to be finished or saved, into one line that says how to go on.

    The exit status is 130, or 143 of SIGTERM.
    """

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    listens = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, terminate) if listens else None
    try:
        yield
    except KeyboardInterrupt as told:
        print(f"interrupted; what is done is kept. To go on: {how_to_go_on}", file=sys.stderr)
        sys.exit(143 if isinstance(told, Terminated) else 130)
    finally:
        if listens:
            signal.signal(signal.SIGTERM, before)
