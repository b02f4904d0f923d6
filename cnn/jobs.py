"""Many independent pieces of work: several at a time, and each kept on disk once done.

Whatever stops the program, the next one goes on where it stopped: what has its file is not done again. A file appears
whole or not at all, since it is written under another name first.
"""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import jax

from cnn.errors import UserError
from cnn.runs import write_json

_shared: tuple = ()  # in a worker process: what all pieces have in common, sent once
_shares = None  # and how much of each piece is done, from 0 to 1, in memory that all processes see


def portions(jobs: int, processors: list[int], gpus: int) -> list[tuple[list[int], str]]:
    """What each process gets for itself: every so many of the processors, and of the GPUs one by turns, "" if none.

    Processes that compete for all processors slow each other down. Of several GPUs each would take a share of every
    batch, which is for one training alone on them (`devices.py`).

    >>> portions(3, [0, 1, 2, 3], gpus=2)
    [([0, 3], '0'), ([1], '1'), ([2], '0')]
    """
    return [(processors[i::jobs], str(i % gpus) if gpus else "") for i in range(jobs)]


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    """Ends this process once another has: one that was killed could not tell it to, and nobody would take its work."""
    parent.join()
    os._exit(1)


def _start_worker(free: multiprocessing.Queue, shared: tuple, shares) -> None:
    """Takes a portion for the process, before jax asks the machine for its devices; it ends when its parent does."""
    global _shared, _shares
    _shared, _shares = shared, shares
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; one of them answers
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    processors, gpu = free.get()
    if processors and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, processors)
    if gpu:
        jax.config.update("jax_cuda_visible_devices", gpu)


def _do(work: Callable, piece: tuple, place: int) -> object:
    return work(*_shared, *piece, report=lambda share: _shares.__setitem__(place, share))


def _is_done(path: Path) -> bool:
    """Whether a result is there and can be read; a damaged one is made again."""
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return True


def run(
    pieces: dict[str, tuple],
    work: Callable[..., object],
    folder: Path,
    *,
    jobs: int,
    shared: tuple = (),
    progress: Callable[[float, int], None] = lambda done, total: None,
) -> dict[str, object]:
    """Does work(*shared, *piece, report=..) for every piece that has no result in `folder` yet; all results, by name.

    Args:
        pieces: name -> arguments; a name becomes a file's.
        work: a function of a module, whose result JSON can hold. It may call report(share) with how much of its piece
            is done, from 0 to 1.
        folder: where NAME.json is kept for each piece.
        jobs: processes at a time; each gets its portion of the machine (`portions`). 1 works in this process.
        progress: called with how many pieces are done, fractions counted, and how many there are.
    """
    folder.mkdir(exist_ok=True)
    waiting = {name: piece for name, piece in pieces.items() if not _is_done(folder / f"{name}.json")}
    done = len(pieces) - len(waiting)
    progress(done, len(pieces))

    def keep(name: str, result: object) -> None:
        nonlocal done
        write_json(folder / f"{name}.json", result)
        done += 1
        progress(done, len(pieces))

    if jobs == 1:
        for name, piece in waiting.items():
            keep(name, work(*shared, *piece, report=lambda share: progress(done + share, len(pieces))))
    elif waiting:
        _in_processes(waiting, work, keep, lambda parts: progress(done + parts, len(pieces)), jobs, shared)
    return {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in pieces}


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Ctrl-C waits until the processes are started. They inherit that it is held back, and so are not hit by it while
    they import, for seconds, before `_start_worker` could say that it is not for them (elsewhere than on Windows)."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_processes(waiting: dict, work: Callable, keep: Callable, show: Callable, jobs: int, shared: tuple) -> None:
    """`work` in fresh processes: a fork would copy the threads of jax without their locks."""
    context = multiprocessing.get_context("spawn")
    jobs = min(jobs, len(waiting))
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    free = context.Queue()
    for portion in portions(jobs, usable, jax.local_device_count() if jax.default_backend() == "gpu" else 0):
        free.put(portion)
    shares = context.Array("d", len(waiting), lock=False)
    pool = ProcessPoolExecutor(jobs, context, _start_worker, (free, shared, shares))
    try:
        with _interrupts_later():
            futures = {
                pool.submit(_do, work, piece, place): (place, name)
                for place, (name, piece) in enumerate(waiting.items())
            }
        while futures:
            for future in wait(futures, timeout=0.5, return_when=FIRST_COMPLETED).done:
                place, name = futures.pop(future)
                shares[place] = 0.0  # counted as done from here on
                keep(name, future.result())
            show(sum(shares))
    except BrokenProcessPool:
        raise UserError(
            "--jobs: a process ended before its work was done, perhaps for want of memory; what is done is kept; go on "
            "with --resume and fewer --jobs"
        ) from None
    finally:
        for child in multiprocessing.active_children():  # else they would do all that is waiting, for nobody
            child.terminate()
        pool.shutdown(cancel_futures=True)
