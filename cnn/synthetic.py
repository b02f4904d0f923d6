"""Drawn tissue: a schematic of H&E-stained breast tissue from a seed, in which form says everything and colour nothing.

    benign      ducts: a white lumen, lined by one even layer of small nuclei, in pink collagen
    malignant   crowded, uneven, large nuclei in sheets and cords; no lumen, only irregular gaps

On real slides a colour histogram alone can tell much of the answer, so a network that learns colours looks clever. Here
that is impossible by construction. What an image may look like in colour (its stain, its share of white and of nuclei)
is drawn first, without knowing the class. Then the scene is drawn as one field, from empty (low) to nucleus (high), and
its pixels are *ranked*: the lowest share becomes white, the highest share nuclei, the rest shades of pink. So every
image gets exactly the colours that were drawn for it, whatever its class; only where they lie differs.

Lengths are in pixels of an image 120 high, and scale with the height.
"""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from cnn.appearance import STAINS
from cnn.errors import UserError
from cnn.slides import Slides

CLASSES = ("benign", "malignant")


class Look(NamedTuple):
    """All that decides an image's colours, drawn without knowing its class."""

    white: float  # share of the pixels that are empty
    nuclei: float  # share of the pixels that are nuclei
    stains: np.ndarray  # (2, 3): optical density of red, green, blue for haematoxylin and eosin
    brightness: float


class Nucleus(NamedTuple):
    """An ellipse: centre, half-axes and the angle of the long one (radians from the x axis)."""

    y: float
    x: float
    long: float
    short: float
    angle: float


def draw_slides(number: int, *, seed: int, size: tuple[int, int] = (120, 160), groups: int = 10) -> Slides:
    """Draws so many images, half of them benign, in groups that each have a stain of their own.

    Image i depends on (seed, i) and its group's stain on (seed, group) alone: the first ten of 400 are the same as ten.

    Args:
        number: at least 2.
        seed: 0 or more.
        size: height and width in pixels, at least 16.
        groups: at least 1; each holds both classes.
    Raises:
        UserError: for a number, size or groups below these limits.
    """
    for name, value, least in (("number", number, 2), ("image size", min(size), 16), ("groups", groups, 1)):
        if value < least:
            raise UserError(f"drawn tissue: got {name} {value}, wants at least {least}")
    labels = np.arange(number) % 2
    in_group = np.arange(number) // 2 % groups
    images = np.stack([_draw_one(seed, i, labels[i], in_group[i], size) for i in range(number)])
    return Slides(
        images=images,
        labels=labels.astype(np.int32),
        groups=tuple(f"group{group:02d}" for group in in_group),
        names=tuple(f"group{in_group[i]:02d}/{CLASSES[labels[i]]}-{i:04d}" for i in range(number)),
        classes=CLASSES,
    )


def _generator(seed: int, *purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, *purpose]))


def _draw_one(seed: int, i: int, label: int, group: int, size: tuple[int, int]) -> np.ndarray:
    look = draw_look(_generator(seed, 0, i), _generator(seed, 1, group))
    field = (benign_field, malignant_field)[label](_generator(seed, 2, i), look, size)
    return colour(_generator(seed, 3, i), field, look)


def draw_look(rng: np.random.Generator, group_rng: np.random.Generator) -> Look:
    """The colours of one image: shares from its own generator, the stain mostly from its group's."""
    vectors = STAINS[:2] + group_rng.normal(0, 0.035, (2, 3))
    vectors = np.maximum(vectors, 0.02) / np.linalg.norm(vectors, axis=1, keepdims=True)
    strengths = group_rng.uniform((1.0, 0.75), (1.5, 1.25)) * rng.uniform(0.92, 1.08, 2)
    return Look(
        white=rng.uniform(0.08, 0.20),
        nuclei=rng.uniform(0.10, 0.17),
        stains=vectors * strengths[:, None],
        brightness=group_rng.uniform(0.93, 1.0) * rng.uniform(0.98, 1.0),
    )


# ------------------------------------------------------------------------------------------------------------ the scene
# A field is (height, width) float: about 0 in empty space, 1 in collagen, 2 in the body of a cell, 3 in a nucleus.


def _noise(rng: np.random.Generator, size: tuple[int, int], sigma: tuple[float, float]) -> np.ndarray:
    """Smooth noise of mean 0 and standard deviation 1, as coarse inside as its smoothness allows."""
    step = max(1, int(min(sigma) / 4))
    coarse = rng.normal(size=(size[0] // step + 2, size[1] // step + 2))
    noise = gaussian_filter(coarse, (sigma[0] / step, sigma[1] / step), mode="reflect", truncate=3)
    if step > 1:
        noise = gaussian_filter(zoom(noise, step, order=1), step / 2)
    noise = noise[: size[0], : size[1]]
    return (noise - noise.mean()) / (noise.std() + 1e-12)


def _collagen(rng: np.random.Generator, size: tuple[int, int], scale: float) -> np.ndarray:
    """Wavy pink fibres, along a direction that bends slowly, with a cleft here and there."""
    height, width = size
    y, x = np.mgrid[:height, :width] / scale
    direction = rng.uniform(0, np.pi) + 0.5 * _noise(rng, size, (25 * scale, 25 * scale))
    across = x * np.cos(direction) + y * np.sin(direction) + 3 * _noise(rng, size, (8 * scale, 8 * scale))
    clefts = np.clip(_noise(rng, size, (7 * scale, 7 * scale)) - 1.5, 0, None)
    fibres = 0.12 * np.sin(across * rng.uniform(0.8, 1.1)) + 0.10 * _noise(rng, size, (2.0 * scale, 2.0 * scale))
    return 1 + fibres - 1.5 * clefts


def _stamp(field: np.ndarray, nuclei: list[Nucleus], scale: float) -> None:
    """Raises the field to 3 inside each ellipse, with an edge as soft as the ellipse is large."""
    height, width = field.shape
    for nucleus in nuclei:
        y, x, long, short = (value * scale for value in nucleus[:4])
        reach = 1.4 * long + 1
        top, left = max(int(y - reach), 0), max(int(x - reach), 0)
        rows, columns = np.ogrid[top : min(int(y + reach) + 2, height), left : min(int(x + reach) + 2, width)]
        if not rows.size or not columns.size:
            continue
        c, s = np.cos(nucleus.angle), np.sin(nucleus.angle)
        along, across = (columns - x) * c + (rows - y) * s, (rows - y) * c - (columns - x) * s
        radius = np.sqrt((along / long) ** 2 + (across / short) ** 2)
        value = 2 + np.clip((1.2 - radius) / 0.4, 0, 1)
        part = field[rows[0, 0] : rows[-1, 0] + 1, columns[0, 0] : columns[0, -1] + 1]
        np.maximum(part, np.where(radius < 1.2, value, 0), out=part)


def _spindles(rng: np.random.Generator, field: np.ndarray, scale: float, number: int) -> list[Nucleus]:
    """A few thin nuclei in the collagen, away from everything else: both classes have them."""
    height, width = field.shape
    spindles = []
    for _ in range(number):
        y, x = rng.uniform(0, height - 1), rng.uniform(0, width - 1)
        reach = int(4 * scale) + 1
        around = field[max(int(y) - reach, 0) : int(y) + reach, max(int(x) - reach, 0) : int(x) + reach]
        if around.min() > 0.5 and around.max() < 1.5:
            spindles.append(
                Nucleus(y / scale, x / scale, rng.uniform(2.8, 4.0), rng.uniform(0.9, 1.2), rng.uniform(0, 3))
            )
    return spindles


def benign_field(rng: np.random.Generator, look: Look, size: tuple[int, int]) -> np.ndarray:
    """Ducts whose lumens make up the white, and whose one layer of nuclei makes up the nuclei."""
    height, width = size
    scale = height / 120
    area = height * width / scale**2
    field = _collagen(rng, size, scale)
    y, x = np.mgrid[:height, :width] / scale
    # k ducts of radius r: k pi r^2 of white, and k 2 pi (r + 4) / 5 nuclei of 15 square pixels each. Both are given.
    ratio = look.white * area / np.pi / (0.9 * look.nuclei * area / (2 * np.pi / 5 * 15))
    radius = (ratio + np.sqrt(ratio**2 + 16 * ratio)) / 2  # r^2 / (r + 4) = ratio
    ducts = max(1, round(look.white * area / np.pi / radius**2 * 1.25))  # some are cut by the border
    placed, nuclei = [], []
    for _ in range(60 * ducts):
        if len(placed) == ducts:
            break
        r = radius * rng.uniform(0.75, 1.25)
        cy, cx = rng.uniform(-0.3 * r, 120 + 0.3 * r), rng.uniform(-0.3 * r, width / scale + 0.3 * r)
        if any(np.hypot(cy - oy, cx - ox) < r + other + 15 for oy, ox, other in placed):
            continue
        placed.append((cy, cx, r))
        stretch, lobe, turn = rng.uniform(0.0, 0.22), rng.uniform(0.0, 0.08), rng.uniform(0, 2 * np.pi)

        def outline(angle, r=r, stretch=stretch, lobe=lobe, turn=turn):  # the lumen's radius in each direction
            return r * (1 + stretch * np.cos(2 * (angle - turn)) + lobe * np.cos(3 * angle + turn))

        distance = np.hypot(y - cy, x - cx) - outline(np.arctan2(y - cy, x - cx))  # from the lumen's edge, inside < 0
        field = np.where(distance < 8.5, np.maximum(field, 1.75 - 0.25 * np.clip(distance - 7.5, 0, 1)), field)
        field = np.where(distance < 1.0, 1.75 * np.clip((distance + 1.0) / 2.0, -3, 1) - 0.01 * r, field)
        count = round(2 * np.pi * (r + 4) / 5.0)
        for step in range(count):
            angle = 2 * np.pi * (step + rng.uniform(-0.12, 0.12)) / count + turn
            out = outline(angle) + 4.0 + rng.normal(0, 0.25)
            long, short = rng.uniform(2.4, 2.9), rng.uniform(1.65, 1.9)
            nuclei.append(Nucleus(cy + out * np.sin(angle), cx + out * np.cos(angle), long, short, angle))
    nuclei += _spindles(rng, field, scale, 14)
    _stamp(field, nuclei, scale)
    return field


def malignant_field(rng: np.random.Generator, look: Look, size: tuple[int, int]) -> np.ndarray:
    """Sheets and cords, crowded with large, uneven nuclei; the white is in irregular gaps beside them."""
    height, width = size
    scale = height / 120
    area = height * width / scale**2
    field = _collagen(rng, size, scale)
    y, x = np.mgrid[:height, :width] / scale
    # Where the cells are: the highest part of a smooth field of blobs (sheets) and winding bands (cords).
    turn = rng.uniform(0, np.pi)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    bands = np.cos(
        2 * np.pi * across / rng.uniform(36, 52) + 1.3 * _noise(rng, size, (16 * scale, 16 * scale)) + along / 60
    )
    sheets = _noise(rng, size, (20 * scale, 20 * scale))
    cells = bands + rng.uniform(0.3, 1.2) * sheets
    share = look.nuclei / 0.52  # of the image: crowded cells are about half nucleus
    edge = np.quantile(cells, 1 - share)
    # Gaps: the lowest part of another smooth field, kept out of the cells.
    gaps = _noise(rng, size, (5 * scale, 9 * scale) if rng.random() < 0.5 else (9 * scale, 5 * scale))
    gaps = gaps + 0.6 * _noise(rng, size, (2.5 * scale, 2.5 * scale)) + 2.5 * np.clip((cells - edge) * 3, -0.3, 1)
    empty = np.quantile(gaps, look.white)
    field = np.where(cells > edge, np.maximum(field, 1.75), field)
    field = np.where(gaps < empty + 0.25, np.minimum(field, 1.2 * (gaps - empty) / 0.25), field)
    nuclei, taken, covered = [], np.zeros((0, 3)), 0.0
    for _ in range(4000):
        if covered > look.nuclei * area:
            break
        cy, cx = rng.uniform(0, 120), rng.uniform(0, width / scale)
        pixel = min(int(cy * scale), height - 1), min(int(cx * scale), width - 1)
        if cells[pixel] < edge or field[pixel] < 1.5:
            continue
        long = rng.uniform(3.4, 6.8)
        short = long * rng.uniform(0.55, 0.95)
        size_here = (long + short) / 2
        if len(taken) and (np.hypot(taken[:, 0] - cy, taken[:, 1] - cx) < 0.76 * (taken[:, 2] + size_here)).any():
            continue
        taken = np.vstack([taken, (cy, cx, size_here)])
        nuclei.append(Nucleus(cy, cx, long, short, rng.uniform(0, np.pi)))
        covered += np.pi * long * short
    nuclei += _spindles(rng, field, scale, 14)
    _stamp(field, nuclei, scale)
    return field


# ----------------------------------------------------------------------------------------------------------- the colour


def colour(rng: np.random.Generator, field: np.ndarray, look: Look) -> np.ndarray:
    """Gives a field exactly the colours of a look: (height, width) -> (height, width, 3) uint8.

    The pixel of rank q (0 the lowest, 1 the highest) gets fixed amounts of haematoxylin and eosin, so the image's
    histogram depends on the look alone. Light is exp(-amounts @ stains) (Beer and Lambert).
    """
    scale = field.shape[0] / 120
    textured = field + 0.12 * _noise(rng, field.shape, (0.7 * scale, 0.7 * scale)) * np.clip(field, 0, 1)
    textured = textured + 1e-6 * rng.random(field.shape)  # no ties
    rank = np.empty(field.size)
    rank[np.argsort(textured, axis=None)] = np.linspace(0, 1, field.size)
    white, nuclei, soft = look.white, 1 - look.nuclei, 0.012
    knots = [0, white - soft, white + soft, (white + nuclei) / 2, nuclei - soft, nuclei + soft, 1]
    haematoxylin = np.interp(rank, knots, [0.00, 0.02, 0.06, 0.10, 0.30, 0.85, 1.35])
    eosin = np.interp(rank, knots, [0.01, 0.03, 0.28, 0.50, 0.62, 0.45, 0.50])
    density = np.stack([haematoxylin, eosin], axis=-1) @ look.stains
    light = look.brightness * np.exp(-density.reshape(*field.shape, 3))
    return np.clip(np.round(255 * light + rng.normal(0, 2.0, (*field.shape, 3))), 0, 255).astype(np.uint8)
