"""The main job: from a folder of images to a trained and judged network.

    python -m experiments.train                     drawn tissue, no download
    python -m experiments.train --data FOLDER       your own images, a sub-folder for each class

The images are split first, whole groups together (a slide, a patient), and only then augmented: no test image has a
relative among the training images. The network is trained on one part, the second shows how it goes on (and chooses the
epoch to keep, with --patience), and the third is looked at once, at the end.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from cnn import command_line


@dataclass(frozen=True, kw_only=True)
class Settings(command_line.Recipe):
    """Train a network on a folder of images, or on drawn tissue, and judge it on images of groups it has never seen."""

    epochs: int = 40
    """Epochs; at most, if there is --patience."""
    patience: int | None = None
    """Stop early, after so many epochs without a lower validation loss, and keep the weights of the lowest.
    Default: all epochs, and the last one's weights, as in cross_validate: one-cycle ends in small steps, and few
    validation images choose an epoch by luck."""
    per_epoch: int = 320
    """Images drawn an epoch, each augmented anew; at least every training image once."""

    allow_change: tuple[str, ...] = ()
    """With --resume: names of options that are to be others from now on, such as epochs; "data" allows other images."""
    save_every: float = 30.0
    """Seconds from one checkpoint to the next: what a run that is killed has to do again."""
    debug_nans: bool = False
    """Look at every step's loss, and if it is no finite number, say in which layer that began; slower."""

    def __post_init__(self):
        super().__post_init__()
        command_line.at_least(
            1, epochs=self.epochs, patience=1 if self.patience is None else self.patience, per_epoch=self.per_epoch
        )
        command_line.at_least(0, save_every=self.save_every)


if __name__ == "__main__":
    SETTINGS = command_line.parse(Settings)  # before the slow imports
    command_line.begin_to_draw(SETTINGS)

from rich.console import Console

from cnn import evaluation, fitting, models, progress, recipe, reports, resuming, runs, slides, splits, training
from cnn.errors import UserError, counted
from cnn.fitting import Keeper
from cnn.store import Chosen


def main(settings: Settings) -> dict:
    """Runs the job and returns what metrics.json holds."""
    settings = resuming.own_settings("train", settings)
    device = command_line.choose_device(settings.device, settings.precision)
    console = progress.terminal()
    print(command_line.first_line("train", device, settings.source), flush=True)

    resuming.check_unfinished(settings)
    runs.check_new(settings.out)

    # 1. The images, and which of them serve for what.
    data, skipped = recipe.read_slides(settings, console)
    positive = data.classes[evaluation.positive_class(data.classes, settings.positive)]  # a wrong name is told at once
    digest = slides.source_digest(data)
    if settings.resume:
        resuming.check_images(settings, digest)
        before = runs.read_config(settings.resume, "splits")["splits"]
        parts = splits.split_as_before(data, before)
        check_epochs(settings, len(before["training"]), len(parts["training"]))
    else:
        parts = splits.split_by_group(data, seed=settings.seed)
    for name, chosen in parts.items():
        counts = ", ".join(f"{(data.labels[chosen] == i).sum()} {label}" for i, label in enumerate(data.classes))
        groups = counted(len({data.groups[i] for i in chosen}), "group")
        console.print(f"{name:<10} {counted(len(chosen), 'image'):>12} of {groups}: {counts}", highlight=False)

    # 2. The network.
    network = recipe.network(settings, len(data.classes), training.keys_of(settings.seed).weights)
    console.print(progress.network_table(models.table(network, (*settings.size, 3)), f"the network: {settings.model}"))

    # 3. The run's folder: a new one, or that of the run to go on with.
    names = {name: [data.names[i] for i in chosen] for name, chosen in parts.items()}
    folder = resuming.begin_or_resume(
        "train",
        settings,
        device,
        data_digest=digest,
        skipped=skipped,
        network={"model": settings.model, "image_size": settings.size, "classes": data.classes},
        views=settings.takes_any_size,
        reading={"fit": settings.fit, "filter": settings.filter},
        positive=positive,
        splits=names,
    )
    with resuming.alone(folder):
        resuming.note_changes(settings, digest, splits=names)
        if "data" in settings.allow_change:
            resuming.tell_skipped(folder, skipped)
        resuming.unfinish(folder)
        metrics = train_and_judge(settings, console, folder, data, parts, network, positive)
    console.print(reports.judgement_table(metrics["splits"]))
    reports.print_files(console, folder)
    print(f"to use it: python -m experiments.predict {shlex.quote(str(folder))} IMAGE...")
    return metrics


def check_epochs(settings: Settings, before: int, now: int) -> None:
    """Raises UserError if an epoch of `now` training images is longer than one of as many as there were `before`."""
    was, would_be = (-(-recipe.steps(settings, images)[0] // settings.batch) for images in (before, now))
    if was != would_be:
        raise UserError(
            f"--data: with {now} training images, not {before}, an epoch would be {would_be} steps, not {was}; begin a "
            "new run"
        )


def train_and_judge(settings: Settings, console: Console, folder: Path, data, parts, network, positive: str) -> dict:
    """Steps 4 and 5, in a folder that this process has for itself."""
    augmentation = recipe.augmentation(settings)
    drawing = training.keys_of(settings.seed).drawing
    reports.draw_samples(folder / "samples.png", data, parts["training"], augmentation, settings.batch, drawing)

    # 4. Training. Ctrl-C, or a machine that shuts down, finishes the step, saves, and says how to go on.
    per_epoch, steps = recipe.steps(settings, len(parts["training"]))
    length = f"{counted(settings.epochs, 'epoch')} of {counted(per_epoch, 'image')}"
    console.print(f"training: {length}; writing to {folder}", highlight=False)
    go_on = resuming.how_to_go_on("train", settings, folder)
    keeper = Keeper(folder / "checkpoints", go_on, every=settings.save_every)
    with keeper:
        history, best = fitting.fit(
            console,
            network,
            *((Chosen(data.images, parts[name]), data.labels[parts[name]]) for name in ("training", "validation")),
            epochs=settings.epochs,
            patience=settings.patience,
            batch=settings.batch,
            use_batch=settings.use_batch,
            per_epoch=per_epoch,
            optimizer=recipe.optimizer(settings, steps),
            augmentation=augmentation,
            seed=settings.seed,
            keeper=keeper,
            debug_nans=settings.debug_nans,
            dtype=recipe.dtype(settings),
        )

    # 5. Judging, once, with the weights that are kept.
    return reports.write_report(
        folder,
        network,
        history,
        best,
        data,
        parts,
        positive=positive,
        batch=settings.use_batch,
        per_epoch=per_epoch,
        views=settings.takes_any_size,
    )


if __name__ == "__main__":
    with command_line.one_sentence():
        main(SETTINGS)
