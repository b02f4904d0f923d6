"""One peer in a process: reads what to do from its input, one JSON line a request, and answers with the times.

python -m experiments.peers.serve MODULE INPUTS.npz
"""

import importlib
import json
import math
import sys
import time

import numpy as np

from experiments.peers.memory import megabytes


def read_inputs(path: str) -> dict:
    """The arrays that the benchmark wrote; "weights" becomes a list of (kernel, bias)."""
    with np.load(path, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    layers = sum(name.startswith("kernel") for name in found)
    return found | {"weights": [(found[f"kernel{i}"], found[f"bias{i}"]) for i in range(layers)]}


def timed(work, repeats: int, times: int | None) -> list[float]:
    """Seconds of each of `repeats` calls, in each of which the work is asked for so many `times`, if they are given."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work() if times is None else work(times)
        seconds.append(time.perf_counter() - started)
    return seconds


def peak_megabytes() -> float:
    """The most memory that this process had, on the host. On Linux; on macOS that of who started it counts too."""
    its_own = megabytes("VmHWM")
    if not math.isnan(its_own) or sys.platform == "win32":
        return its_own
    import resource  # here: Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main(module: str, path: str) -> None:
    """Serves until its input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints must not get among the answers
    inputs = read_inputs(path)
    try:
        found = importlib.import_module(f"experiments.peers.{module}")
        peer = found.Peer(inputs)
    except ImportError as error:
        print(json.dumps({"absent": error.name or str(error)}), file=answers, flush=True)
        return
    print(json.dumps({"versions": found.VERSIONS}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "gradients":
            loss, gradients = peer.loss_and_gradients()
            np.savez(request["to"], *[np.asarray(a, np.float32) for pair in gradients for a in pair])
            answer = {"loss": float(loss)}
        elif request["do"] == "memory":
            answer = {}
        else:
            times = request.get("times", 1) if request["do"] in found.QUEUED else None
            calls = timed(getattr(peer, request["do"]), request["repeats"], times)
            answer = {"calls": calls, "seconds": [call / (times or 1) for call in calls]}  # of a call; of the work once
        answer["peak_mb"] = peak_megabytes()
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
