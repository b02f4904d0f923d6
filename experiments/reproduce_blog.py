# %% [markdown]
"""What did the pipeline of 2017 do, and why can its 87.7 % not be believed?

    python -m experiments.reproduce_blog --data FOLDER        the 58 UCSB slides

It enlarges 58 images to about 5,040 by drawing turned, shifted and slanted copies of each, and *then* splits them at
random into training, validation and test. So every test image has dozens of siblings in training: copies of the same
slide. The network is asked about slides it knows. Step by step, as it was done:

    read and squash to 240 x 320 -> 2,500 copies a class -> JPEG and back -> 120 x 160 -> random split -> 30 epochs
"""

from dataclasses import dataclass
from pathlib import Path

from cnn import command_line


# %%
@dataclass(frozen=True, kw_only=True)
class Settings(command_line.Common):
    """Repeat the experiment of 2017, leak and all, and say what is wrong with the figure that it reports."""

    data: Path
    """Folder with the UCSB slides, or with a sub-folder of images for each class."""
    draws: int = 2500
    """Augmented copies drawn for each class."""
    epochs: int = 30
    """Epochs; the last one's weights are judged, as in 2017."""
    batch: int = 32
    """Images a step."""
    dropout: float = 0.7
    """Share of the 64 hidden features dropped in training."""
    drawing_size: tuple[int, int] = (240, 320)
    """Height and width at which copies are drawn."""
    image_size: tuple[int, int] = (120, 160)
    """Height and width that the network sees."""

    def __post_init__(self):
        super().__post_init__()
        command_line.at_least(1, draws=self.draws, epochs=self.epochs, batch=self.batch)
        command_line.at_least(1, image_size=min(self.image_size), drawing_size=min(self.drawing_size))
        command_line.at_least(0, dropout=self.dropout)
        command_line.at_most(0.99, dropout=self.dropout)


if __name__ == "__main__":
    SETTINGS = command_line.parse(Settings)  # before the slow imports

# %%
import shlex

import numpy as np
from sklearn.model_selection import train_test_split

from cnn import augment, copies, evaluation, figures, fitting, models, progress, recipe, reports, runs, slides, training
from cnn.optimizer import make_optimizer
from cnn.slides import Slides

# %% [markdown]
# Step 4, the mistake: the split is at random over all images, as if they were independent of one another.


# %%
def leaky_split(data: Slides, seed: int) -> tuple[dict[str, np.ndarray], int]:
    """64 / 16 / 20 % of all images at random, and how many test images have a sibling (a group) in training."""
    rest, test = train_test_split(np.arange(len(data)), test_size=0.2, random_state=seed)
    train, validation = train_test_split(rest, test_size=0.2, random_state=seed)
    known = {data.groups[i] for i in train}
    siblings = sum(data.groups[i] in known for i in test)
    return {"training": train, "validation": validation, "test": test}, siblings


def draw_leak(path: Path, data: Slides, parts: dict[str, np.ndarray], rows: int = 4, siblings: int = 5) -> Path:
    """Draws some test images, each beside copies of the same slide that the network is trained on."""
    shown, captions, white = [], [], np.full_like(data.images[0], 255)
    for i in parts["test"]:
        related = [j for j in parts["training"] if data.groups[j] == data.groups[i]][:siblings]
        if related and len(shown) < rows * (siblings + 1):
            missing = siblings - len(related)
            shown += [data.images[i], *data.images[related], *[white] * missing]
            captions += [f"in the test: a copy of\n{data.groups[i]}", *["in training"] * len(related), *[""] * missing]
    title = "The leak: test images (left) and siblings of theirs that the network is trained on"
    return figures.gallery(path, shown, captions, title, columns=siblings + 1)


def verdict(metrics: dict, settings: Settings) -> str:
    """What is wrong with the figure, in one paragraph."""
    accuracy = metrics["splits"]["test"]["accuracy"]
    each = settings.draws * len(metrics["splits"]["test"]["classes"]) // metrics["slides"]
    return (
        f"The figure: {accuracy['k']} of {accuracy['n']} test images right, {accuracy['value']:.1%} "
        "(in 2017: 885 of 1009, 87.7 %).\n"
        f"What is wrong with it: {metrics['test_images_with_sibling_in_training']} of {accuracy['n']} test images have "
        "a sibling in training, a turned and shifted copy of the same slide: the slides were multiplied first and "
        "split afterwards. The network was not asked about new tissue: of each slide there are some "
        f"{each} copies, and it has been shown most of them. The interval is wrong too. It counts {accuracy['n']} "
        "images as if they were independent, but "
        f"there are only {metrics['slides']} slides. For a figure that means something, split before augmenting:\n"
        f"python -m experiments.train --data {shlex.quote(str(settings.data))}"
    )


# %%
def main(settings: Settings) -> dict:
    """Runs all steps and returns what metrics.json holds."""
    device, console = command_line.choose_device(settings.device), progress.terminal()
    print(command_line.first_line("reproduce_blog", device, str(settings.data)), flush=True)

    runs.check_new(settings.out)
    recipe.check_size("seed", settings.image_size)

    # Step 1: the slides, squashed from 768 x 896 to 240 x 320.
    with progress.bar(console, "reading images", 0) as advance:
        originals = slides.read_folder(settings.data, size=settings.drawing_size, progress=advance)
    positive = evaluation.positive_class(originals.classes)
    shape = (*settings.image_size, 3)
    network = models.seed(
        shape, len(originals.classes), dropout=settings.dropout, key=training.keys_of(settings.seed).weights
    )
    folder = runs.create_folder("reproduce_blog", settings.out)
    runs.write_config(
        folder,
        "reproduce_blog",
        settings,
        device,
        network={"model": "seed", "image_size": settings.image_size, "classes": originals.classes},
        views=False,
        reading={"fit": "squash", "filter": "bilinear"},
        positive=originals.classes[positive],
    )

    # Steps 2 and 3: copies are drawn with Keras' settings of 2017, saved as JPEGs, read back and shrunk.
    with progress.bar(console, "drawing copies", 0) as advance:
        data, lost = copies.draw_copies(
            originals,
            each=settings.draws,
            size=settings.image_size,
            seed=settings.seed,
            batch=settings.batch,
            progress=advance,
        )
    parts, siblings = leaky_split(data, settings.seed)
    draw_leak(folder / "leak.png", data, parts)
    console.print(f"{len(originals)} slides became {len(data)} images; {lost} copies were overwritten", highlight=False)
    console.print(" / ".join(f"{len(chosen)} {name}" for name, chosen in parts.items()), highlight=False)

    # Steps 5 and 6: the network and its training; Adam, binary cross-entropy, the last epoch's weights count.
    console.print(progress.network_table(models.table(network, shape), "the network of 2017"))
    epoch_size = len(parts["training"])
    console.print(f"training: {settings.epochs} epochs of {epoch_size} images; writing to {folder}", highlight=False)
    steps = settings.epochs * -(-epoch_size // settings.batch)
    history, last = fitting.fit(
        console,
        network,
        *((data.images[parts[name]], data.labels[parts[name]]) for name in ("training", "validation")),
        epochs=settings.epochs,
        patience=None,
        batch=settings.batch,
        optimizer=make_optimizer(steps, as_keras=True),
        augmentation=augment.named("none"),
        seed=settings.seed,
    )
    found = {
        "slides": len(originals),
        "copies_overwritten": lost,
        "test_images_with_sibling_in_training": siblings,
    }
    metrics = reports.write_report(
        folder, network, history, last, data, parts, batch=settings.batch, per_epoch=epoch_size, more=found
    )
    console.print(reports.judgement_table(metrics["splits"]))
    console.print(f"\n{verdict(metrics, settings)}\n", highlight=False, soft_wrap=True)
    reports.print_files(console, folder)
    return metrics


if __name__ == "__main__":
    with command_line.one_sentence():
        main(SETTINGS)
