"""The main job: from a folder of images to a trained and judged network.

    python -m experiments.train                     drawn tissue, no download
    python -m experiments.train --data FOLDER       your own images, a sub-folder for each class

The images are split first, whole groups together (a slide, a patient), and only then augmented: no test image has a
relative among the training images. The network is trained on one part, the epoch to keep is chosen by the second, and
the third is looked at once, at the end.
"""

from dataclasses import dataclass

from cnn import command_line


@dataclass(frozen=True, kw_only=True)
class Settings(command_line.Recipe):
    """Train a network on a folder of images, or on drawn tissue, and judge it on images of groups it has never seen."""

    epochs: int = 40
    """Epochs at most."""
    patience: int = 10
    """Epochs without a lower validation loss after which training stops."""
    per_epoch: int = 320
    """Images drawn an epoch, each augmented anew; at least every training image once."""

    def __post_init__(self):
        super().__post_init__()
        command_line.at_least(1, epochs=self.epochs, patience=self.patience, per_epoch=self.per_epoch)


if __name__ == "__main__":
    SETTINGS = command_line.parse(Settings)  # before the slow imports

from rich.console import Console

from cnn import evaluation, models, progress, recipe, reports, runs, slides, training


def main(settings: Settings) -> dict:
    """Runs the job and returns what metrics.json holds."""
    device = command_line.choose_device(settings.device)
    console = Console()
    drawn = f"{settings.drawn} images of drawn tissue, seed {settings.seed}"
    print(command_line.first_line("train", device, str(settings.data or drawn)), flush=True)

    runs.check_new(settings.out)

    # 1. The images, and which of them serve for what.
    with progress.bar(console, "reading images", 0) as advance:
        data = recipe.read_slides(settings, advance)
    positive = data.classes[evaluation.positive_class(data.classes, settings.positive)]  # a wrong name is told at once
    parts = slides.split_by_group(data, seed=settings.seed)
    for name, chosen in parts.items():
        counts = ", ".join(f"{(data.labels[chosen] == i).sum()} {label}" for i, label in enumerate(data.classes))
        groups = len({data.groups[i] for i in chosen})
        console.print(f"{name:<10} {len(chosen):>5} images of {groups} groups: {counts}", highlight=False)

    # 2. The network.
    keys = training.keys_of(settings.seed)
    network = recipe.network(settings, len(data.classes), keys.weights)
    console.print(progress.network_table(models.table(network, (*settings.size, 3)), f"the network: {settings.model}"))

    # 3. The run's folder, and what the network is about to see.
    folder = runs.create_folder("train", settings.out)
    runs.write_config(
        folder,
        "train",
        settings,
        device,
        network={"model": settings.model, "image_size": settings.size, "classes": data.classes},
        views=settings.takes_any_size,
        reading={"fit": settings.fit, "filter": settings.filter},
        positive=positive,
    )
    augmentation = recipe.augmentation(settings)
    reports.draw_samples(folder / "samples.png", data.subset(parts["training"]), augmentation, keys.drawing)

    # 4. Training.
    per_epoch, steps = recipe.steps(settings, len(parts["training"]))
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
        optimizer=recipe.optimizer(settings, steps),
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
        positive=positive,
        batch=settings.use_batch,
        per_epoch=per_epoch,
        views=settings.takes_any_size,
    )
    console.print(reports.judgement_table(metrics["splits"]))
    reports.print_files(console, folder)
    print(f"to use it: python -m experiments.predict {folder} IMAGE...")
    return metrics


if __name__ == "__main__":
    with command_line.one_sentence():
        main(SETTINGS)
