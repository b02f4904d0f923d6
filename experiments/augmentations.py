# %% [markdown]
"""What does the drawn tissue look like, and what does each augmentation do to an image?

    python -m experiments.augmentations                  drawn tissue
    python -m experiments.augmentations --image FILE     an image of your own

It writes augmentations.png, a row for each augmentation: the image itself on the left, and five random variants; and,
where no image is given, tissue.png, some drawn tissue of either class.
"""

from dataclasses import dataclass
from pathlib import Path

from cnn import command_line


# %%
@dataclass(frozen=True, kw_only=True)
class Settings(command_line.Common):
    """Draw what each augmentation does to one image."""

    image: Path | None = None
    """The image. Default: drawn tissue."""
    image_size: tuple[int, int] = (120, 160)
    """Height and width to which it is resized."""

    def __post_init__(self):
        super().__post_init__()
        command_line.at_least(1, image_size=min(self.image_size))


if __name__ == "__main__":
    SETTINGS = command_line.parse(Settings)  # before the slow imports

# %%
from functools import partial

import jax
import numpy as np

from cnn import appearance, augment, figures, geometry, images, progress, reports, runs, synthetic, training

# %% [markdown]
# Each is a pure function of a key and an image. The limits here are wider than in training, so that one sees something.

# %%
ROWS = {
    "horizontal flip": partial(geometry.random_flip_horizontal, probability=0.5),
    "vertical flip": partial(geometry.random_flip_vertical, probability=0.5),
    "rotation, black corners": partial(geometry.random_rotation, max_degrees=50.0, sampling="nearest"),
    "rotation, mirrored edges": partial(geometry.random_rotation, max_degrees=180.0, fill="reflect"),
    "shift": partial(geometry.random_shift, max_fraction=0.2, fill="edge"),
    "shear": partial(geometry.random_shear, max_degrees=20.0, fill="reflect"),
    "zoom": partial(geometry.random_zoom, max_factor=1.5, fill="reflect"),
    "Gaussian blur": partial(appearance.random_blur, max_sigma=3.0),
    "brightness, contrast": partial(appearance.random_brightness_and_contrast, max_brightness=0.2, max_contrast=0.4),
    "stain": partial(appearance.random_stain, max_scale=0.4, max_offset=0.1),
    'all: "seed" (2017)': augment.named("seed"),
    'all: "default"': augment.named("default"),
}


# %%
def main(settings: Settings) -> Path:
    """Draws the picture and returns its path."""
    device, console = command_line.choose_device(settings.device), progress.terminal()
    print(command_line.first_line("augmentations", device, str(settings.image or "drawn tissue")), flush=True)
    runs.check_new(settings.out)
    if settings.image:
        image = images.resize(images.read_image(settings.image), settings.image_size)
    else:
        tissue = synthetic.draw_slides(8, seed=settings.seed, size=settings.image_size)
        image = tissue.images[0]
    folder = runs.create_folder("augmentations", settings.out)
    runs.write_config(folder, "augmentations", settings, device)
    shown, captions = [], []
    copies = np.stack([image] * 5)
    # A key for each row, or all would have the same luck.
    keys = jax.random.split(training.keys_of(settings.seed).drawing, len(ROWS))
    for key, (name, augmentation) in zip(keys, ROWS.items()):
        variants = augment.compiled(augmentation)(key, copies)
        shown += [np.float32(image) / 255, *np.asarray(variants)]
        captions += [name, *[""] * len(variants)]
    path = folder / "augmentations.png"
    figures.gallery(path, np.stack(shown), captions, "The image (left), and five random variants of it", columns=6)
    if not settings.image:
        order = np.argsort(tissue.labels, kind="stable")  # benign in the first row
        names = [tissue.classes[label] for label in tissue.labels[order]]
        figures.gallery(folder / "tissue.png", tissue.images[order], names, "Drawn tissue", columns=4)
    reports.print_files(console, folder)
    return path


if __name__ == "__main__":
    with command_line.one_sentence():
        main(SETTINGS)
