"""The main job up to its first training step: how long does a user wait?

    python -m experiments.peers.first_step FOLDER

Does what `python -m experiments.train --out FOLDER` does, and ends when the loss of the first step is there.
"""

import os
import sys
from pathlib import Path

from experiments import train as main_job

# isort: split
from cnn import fitting

original = fitting.train


def until_the_first_step(*arguments, on_step, **settings):
    """`training.train`, but the process ends after one step."""

    def end(done: int, total: int, sums) -> None:
        print(f"after the first step the loss is {float(sums.loss) / sums.images:.3f}", flush=True)
        os._exit(0)

    yield from original(*arguments, on_step=end, **settings)


if __name__ == "__main__":
    fitting.train = until_the_first_step
    main_job.main(main_job.Settings(out=Path(sys.argv[1])))
