# %% [markdown]
"""What can the slides say? Every image judged by networks that have not seen it, beside what needs no network at all.

    python -m experiments.cross_validate --data FOLDER --jobs 2        your slides
    python -m experiments.cross_validate                               drawn tissue, where colours say nothing

Two questions are asked: about another image from slides like these (stratified folds, several cuts), and about a group
(a slide, a day, a stain) never seen before (one group left out at a time). To both, the network answers beside the
share of white, a histogram of colours, and the group's name alone, on the same folds; and once more after training on
shuffled labels, where it must be at chance. Nothing is chosen by looking at the images that are judged: the recipe is
fixed, thresholds are learned from training images.
"""

from dataclasses import dataclass
from pathlib import Path

from cnn import command_line


# %%
@dataclass(frozen=True, kw_only=True)
class Settings(command_line.Recipe):
    """Cross-validate a network and its baselines: honest figures from few slides."""

    data: Path | None = None
    """Folder with a sub-folder of images (TIFF, JPEG, PNG) for each class, or of UCSB files. Default: drawn tissue."""
    drawn: int = 120
    """How many images of tissue to draw where no --data is given."""
    group_pattern: str | None = None
    """Regular expression whose first group, in an image's path, names what must not be split apart (slide, patient)."""
    positive: str | None = None
    """The class to find; all others count as negative. Default: malignant, else the last in alphabetical order."""
    folds: int = 4
    """Into how many parts the images are cut."""
    seeds: int = 5
    """How many such cuts, each with networks of its own."""
    tissue_only: bool = False
    """Judge squares of tissue, not whole images, so that the amount of white says nothing: morphology alone."""
    jobs: int = 1
    """Networks trained at a time, each on an equal share of the processors."""
    resume: Path | None = None
    """Folder of an interrupted run, to go on where it stopped. Give the same options as before."""

    def __post_init__(self):
        super().__post_init__()
        command_line.at_least(2, folds=self.folds)
        command_line.at_least(1, seeds=self.seeds, jobs=self.jobs)
        command_line.at_least(20, drawn=self.drawn)


if __name__ == "__main__":
    SETTINGS = command_line.parse(Settings)  # before the slow imports

# %%
import dataclasses

import numpy as np
from rich.console import Console
from rich.table import Table

from cnn import baselines, evaluation, figures, folds, honest, jobs, progress, recipes, reports, runs, slides, training
