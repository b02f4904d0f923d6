"""The main job: from a folder of images to a trained and judged network.

    python -m experiments.train                     drawn tissue, no download
    python -m experiments.train --data FOLDER       your own images, a sub-folder for each class

The images are split first, whole groups together (a slide, a patient), and only then augmented: no test image has a
relative among the training images. The network is trained on one part, the epoch to keep is chosen by the second, and
the third is looked at once, at the end.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cnn import command_line


@dataclass(frozen=True, kw_only=True)
class Settings(command_line.Common):
    """Train a network on a folder of images, or on drawn tissue, and judge it on images of groups it has never seen."""

    data: Path | None = None
    """Folder with a sub-folder of images (TIFF, JPEG, PNG) for each class, or of UCSB files. Default: drawn tissue."""
    drawn: int = 500
    """How many images of tissue to draw where no --data is given."""
    group_pattern: str | None = None
    """Regular expression whose first group, in an image's path, names what must not be split apart (slide, patient)."""
    positive: str | None = None
    """The class to find. Default: malignant, else the last in alphabetical order."""
    image_size: tuple[int, int] = (120, 160)
    """Height and width, in pixels, to which every image is resized."""
    fit: Literal["squash", "pad"] = "squash"
    """How an image of another shape is fitted: squashed, or kept in shape with white beside it."""
    filter: Literal["nearest", "box", "bilinear", "bicubic", "lanczos"] = "bilinear"
    """How pixels are mixed when an image is resized."""
    model: Literal["seed", "wbc", "spanhol"] = "seed"
    """The network: of 2017, the one that was adapted from, or the one of Spanhol and others (2016)."""
    dropout: float = 0.2
    """Share of the last hidden features that is dropped in training, from 0 to less than 1."""
    augmentation: Literal["none", "seed", "default"] = "default"
    """What is done to each image before each step; see cnn/augment.py."""
    epochs: int = 24
    """Epochs at most."""
    patience: int = 10
    """Epochs without a lower validation loss after which training stops."""
    per_epoch: int = 320
    """Images drawn an epoch, each augmented anew; at least every training image once."""
    batch: int = 32
    """Images a step."""
    learning_rate: float = 5e-4
    """Adam's step size; the largest where a schedule changes it."""
    schedule: Literal["constant", "cosine", "one-cycle"] = "one-cycle"
    """How the learning rate changes over the run. It rises slowly in one-cycle: a large first step can kill ReLUs."""
    weight_decay: float = 0.0
    """What a kernel loses of itself each step, times the learning rate (AdamW); 0 is plain Adam."""

    def __post_init__(self):
        command_line.at_least(1, epochs=self.epochs, patience=self.patience, per_epoch=self.per_epoch, batch=self.batch)
        command_line.at_least(1, image_size=min(self.image_size))
        command_line.at_least(0, seed=self.seed, learning_rate=self.learning_rate, weight_decay=self.weight_decay)
        command_line.at_least(20, drawn=self.drawn)
        command_line.at_most(0.99, dropout=self.dropout)
        command_line.at_least(0, dropout=self.dropout)


if __name__ == "__main__":
    SETTINGS = command_line.parse(Settings)  # before the slow imports

import numpy as np
from rich.console import Console

from cnn import augment, evaluation, figures, models, progress, reports, runs, slides, synthetic, training


def main(settings: Settings) -> dict:
    """Runs the job and returns what metrics.json holds."""
    device = command_line.choose_device(settings.device)
    console = Console()
    drawn = f"{settings.drawn} images of drawn tissue, seed {settings.seed}"
    print(command_line.first_line("train", device, str(settings.data or drawn)), flush=True)

    runs.check_new(settings.out)

    # 1. The images, and which of them serve for what.
    if settings.data is None:
        data = synthetic.draw_slides(settings.drawn, seed=settings.seed, size=settings.image_size)
    else:
        with progress.bar(console, "reading images", 0) as advance:
            data = slides.read_folder(
                settings.data,
                size=settings.image_size,
                fit=settings.fit,
                filter=settings.filter,
                group_pattern=settings.group_pattern,
                progress=advance,
            )
    evaluation.positive_class(data.classes, settings.positive)  # a wrong name must not wait for the end to be told
    parts = slides.split_by_group(data, seed=settings.seed)
    for name, chosen in parts.items():
        counts = ", ".join(f"{(data.labels[chosen] == i).sum()} {label}" for i, label in enumerate(data.classes))
        groups = len({data.groups[i] for i in chosen})
        console.print(f"{name:<10} {len(chosen):>5} images of {groups} groups: {counts}", highlight=False)

    # 2. The network.
    keys = training.keys_of(settings.seed)
    shape = (*settings.image_size, 3)
    network = models.MODELS[settings.model](shape, len(data.classes), dropout=settings.dropout, key=keys.weights)
    console.print(progress.network_table(models.table(network, shape), f"the network: {settings.model}"))

    # 3. The run's folder, and what the network is about to see.
    folder = runs.create_folder("train", settings.out)
    runs.write_json(
        folder / "config.json",
        {
            "experiment": "train",
            "settings": settings,
            "network": {"model": settings.model, "image_size": settings.image_size, "classes": data.classes},
            "reading": {"fit": settings.fit, "filter": settings.filter},
            "positive": data.classes[evaluation.positive_class(data.classes, settings.positive)],
            **runs.environment(device),
        },
    )
    augmentation = augment.named(settings.augmentation)
    by_class = [parts["training"][data.labels[parts["training"]] == label] for label in range(len(data.classes))]
    each = max(1, 6 // len(data.classes))
    some = data.subset(np.concatenate([m[np.linspace(0, len(m) - 1, each).astype(int)] for m in by_class])[:6])
    variants = augment.batched(augmentation)(keys.drawing, training.as_light(np.tile(some.images, (3, 1, 1, 1))))
    captions = [f"{label}\n{group}" for label, group in zip([data.classes[i] for i in some.labels], some.groups)]
    figures.gallery(
        folder / "samples.png",
        np.concatenate([some.images / 255, variants]),
        captions + ["augmented"] * len(variants),
        "Training images (top row), and what the network sees of them in three different epochs",
    )

    # 4. Training.
    per_epoch = max(settings.per_epoch, len(parts["training"]))
    steps = settings.epochs * -(-per_epoch // settings.batch)
    optimizer = training.make_optimizer(
        steps,
        learning_rate=settings.learning_rate,
        schedule=settings.schedule,
        weight_decay=settings.weight_decay,
    )
    console.print(
        f"training: up to {settings.epochs} epochs of {per_epoch} images; writing to {folder}", highlight=False
    )
    history, best = progress.fit(
        console,
        network,
        *((data.images[parts[name]], data.labels[parts[name]]) for name in ("training", "validation")),
        epochs=settings.epochs,
        patience=settings.patience,
        batch=settings.batch,
        per_epoch=per_epoch,
        optimizer=optimizer,
        augmentation=augmentation,
        seed=settings.seed,
    )

    # 5. Judging, once, with the weights of the best epoch.
    metrics = reports.write_report(
        folder,
        network,
        history,
        best,
        data,
        parts,
        positive=settings.positive,
        batch=settings.batch,
        per_epoch=per_epoch,
    )
    console.print(reports.judgement_table(metrics["splits"]))
    reports.print_files(console, folder)
    print(f"to use it: python -m experiments.predict {folder} IMAGE...")
    return metrics


if __name__ == "__main__":
    with command_line.one_sentence():
        main(SETTINGS)
