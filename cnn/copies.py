"""Few images made many, as in 2017: copies of each, turned, shifted and slanted, drawn once and for all.

Today's augmentation draws new variants at every step, and stores none. The pipeline of 2017 drew its copies first,
wrote them as JPEGs, and read them back. A file was named after its source and a random number below 10,000. Where a
name came up twice, the later copy overwrote the earlier one; so it is here, with a dictionary for the disk.
"""

from collections.abc import Callable

import jax
import numpy as np

from cnn import images
from cnn.augment import compiled, named
from cnn.slides import Slides
from cnn.training import keys_of


def draw_copies(
    originals: Slides,
    *,
    each: int,
    size: tuple[int, int],
    seed: int,
    batch: int = 32,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Slides, int]:
    """The originals and their copies as one data set, each in the group of its source; and how many copies were lost.

    Args:
        originals: of the size at which copies are drawn.
        each: copies of each class, spread evenly over its images.
        size: (height, width) to which copies and originals are resized in the end.
        progress: called with the number of copies drawn so far and in all.
    Returns:
        data, its groups being the names of the sources; lost.
    """
    key = keys_of(seed).drawing
    rng = np.random.Generator(np.random.PCG64(seed))
    draw = compiled(named("seed"))
    disk: dict[str, tuple[np.ndarray, int]] = {}  # name -> image, source
    total = each * len(originals.classes)
    for label in range(len(originals.classes)):
        members = np.flatnonzero(originals.labels == label)
        order = np.concatenate([rng.permutation(members) for _ in range(-(-each // len(members)))])[:each]
        for start in range(0, each, batch):
            sources = order[start : start + batch]
            filled = np.resize(sources, batch)  # batches of one size: one compilation
            batch_key = jax.random.fold_in(jax.random.fold_in(key, label), start)
            copies = np.asarray(draw(batch_key, originals.images[filled]))
            for source, copy in zip(sources, np.round(copies * 255).astype(np.uint8)):
                name = f"{originals.names[source]}/{rng.integers(10_000)}"
                read_back = images.decode_image(images.encode_jpeg(copy), name)
                disk[name] = images.resize(read_back, size), source
            progress(label * each + start + len(sources), total)
    lost = total - len(disk)
    for source, image in enumerate(originals.images):
        disk[originals.names[source]] = images.resize(image, size), source
    sources = np.array([source for _, source in disk.values()])
    data = Slides(
        images=np.stack([image for image, _ in disk.values()]),
        labels=originals.labels[sources],
        groups=tuple(originals.names[source] for source in sources),
        names=tuple(disk),
        classes=originals.classes,
    )
    return data, lost
