"""The main job up to its first training step: how long does a user wait?

    python -m experiments.peers.first_step --out FOLDER

Does what `python -m experiments.train --out FOLDER` does, in the same order, and ends when the loss of the first step
is there. Takes the options that all trainings have.
"""

import os

from cnn import command_line

if __name__ == "__main__":
    SETTINGS = command_line.parse(command_line.Recipe)  # before the slow imports, as there
    command_line.begin_to_draw(SETTINGS)

# isort: split
from cnn import fitting
from experiments import train as main_job

original = fitting.train


def until_the_first_step(*arguments, on_step, **settings):
    """`training.train`, but the process ends after one step."""

    def end(done: int, total: int, sums) -> None:
        print(f"after the first step the loss is {float(sums.loss) / sums.images:.3f}", flush=True)
        os._exit(0)

    yield from original(*arguments, on_step=end, **settings)


if __name__ == "__main__":
    fitting.train = until_the_first_step
    main_job.main(main_job.Settings(**vars(SETTINGS)))
