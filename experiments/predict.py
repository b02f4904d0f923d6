"""Classify new images with a trained network.

    python -m experiments.predict RUN IMAGE...      RUN is the folder that a training wrote

It prints one line an image. With --out it first writes them to a folder, as predictions.csv and as pictures.
"""

from dataclasses import dataclass
from pathlib import Path

from cnn import command_line

SHOWN = 60  # images at most in one picture
EMPTY = 0.98  # share of white in an image that shows next to no tissue


@dataclass(frozen=True, kw_only=True)
class Settings(command_line.Common):
    """Classify images with the network of a finished run. No medical device: the README says what it can know."""

    run: command_line.Positional[Path]
    """Folder that a training wrote."""
    images: command_line.Positional[tuple[Path, ...]]
    """Images (TIFF, JPEG, PNG), or folders of them."""
    out: Path | None = None
    """Folder to write predictions.csv and pictures to; must not exist yet. Default: nothing is written."""
    skip_bad: bool = False
    """Leave out files that cannot be used as images, and name them, instead of stopping."""
    batch: int = 4
    """Images at a time."""

    def __post_init__(self):
        super().__post_init__()
        command_line.at_least(1, batch=self.batch)


if __name__ == "__main__":
    SETTINGS = command_line.parse(Settings)  # before the slow imports

import jax
from rich.table import Table

from cnn import baselines, figures, models, progress, reports, runs, slides, weights
from cnn.errors import UserError, counted


def main(settings: Settings) -> list[tuple[str, str, float]]:
    """Runs the job and returns (name, predicted class, probability of the positive class) for each image."""
    config = runs.read_config(settings.run)
    if "network" not in config:
        kind = config.get("experiment", "something else")
        raise UserError(f"{settings.run}: is a run of {kind}, which keeps no network; give the folder of a train run")
    device = command_line.choose_device(settings.device)
    paths = ", ".join(map(str, settings.images[:3])) + (", ..." if len(settings.images) > 3 else "")
    print(command_line.first_line("predict", device, f"{paths}; network of {settings.run}"))
    runs.check_new(settings.out)
    try:
        described, positive, views, reading = (config[name] for name in ("network", "positive", "views", "reading"))
        size, classes = tuple(described["image_size"]), tuple(described["classes"])
        make, index = models.MODELS[described["model"]], classes.index(positive)
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{settings.run / 'config.json'}: is damaged, or of another version of this project; train again"
        ) from None
    network = make((*size, 3), len(classes), key=jax.random.key(0))
    parameters = weights.load_weights(settings.run / "weights.npz", network)
    skipped = [] if settings.skip_bad else None
    images, names = slides.read_unlabelled(settings.images, size=size, skipped=skipped, **reading)
    probabilities = reports.predict(network, parameters, images, settings.batch, views=views)

    rows = [(name, classes[p.argmax()], float(p[index])) for name, p in zip(names, probabilities)]
    table = Table()
    for column in ("image", "class", f"probability of {positive}"):
        table.add_column(column, overflow="fold")  # a long path goes on in the next line, and keeps its end
    for name, predicted, probability in rows:
        table.add_row(name, predicted, f"{probability:.3f}")
    console = progress.terminal()
    if settings.out:  # before anything is shown, since whoever reads only the first line may close the pipe
        folder = runs.create_folder("predict", settings.out)
        runs.write_csv(folder / "predictions.csv", ("name", "class", f"probability of {positive}"), rows)
        captions = [
            f"{reports.shortened(Path(name).name)}\n{predicted}: {p.max():.0%}"
            for (name, predicted, _), p in zip(rows, probabilities)
        ]
        first = f", the first {SHOWN}" if len(images) > SHOWN else ""
        title = f"{counted(len(images), 'image')} and what the network says{first}"
        figures.gallery(folder / "predictions.png", images[:SHOWN], captions[:SHOWN], title)
        reports.draw_attention(folder / "attention.png", network, parameters, images[:6], captions[:6])
    console.print(table)
    for error in skipped or ():
        console.print(f"left out: {error}", style="yellow", soft_wrap=True)
    blank = [name for name, white in zip(names, baselines.share_of_white(images)) if white > EMPTY]
    if blank:
        more = f" and {len(blank) - 3} more" if len(blank) > 3 else ""
        console.print(
            f"note: at least {EMPTY:.0%} of these is white, and no answer means anything: {', '.join(blank[:3])}{more}",
            style="yellow",
            soft_wrap=True,
        )
    if settings.out:
        reports.print_files(console, folder)
    else:
        console.print("nothing was written; --out FOLDER keeps this table, and pictures", soft_wrap=True)
    return rows


if __name__ == "__main__":
    with command_line.one_sentence():
        main(SETTINGS)
