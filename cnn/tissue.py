"""Drawn tissue: a schematic of H&E-stained breast tissue from a seed, in which form says everything and colour nothing.

    benign      ducts: a white lumen, lined by one even layer of small nuclei, in pink collagen
    malignant   crowded, uneven, large nuclei in sheets and cords; no lumen, only irregular cracks

On real slides a colour histogram alone can tell much of the answer, so a network that learns colours looks clever. Here
that is impossible by construction. What an image may look like in colour (its stain, its share of white and of nuclei)
is drawn first, without knowing the class. Then the scene is drawn as one field, from empty (low) to nucleus (high), and
its pixels are *ranked*: the lowest share becomes white, the highest share nuclei, the rest shades of pink. So every
image gets exactly the colours that were drawn for it, whatever its class, and a camera's noise on top; only where they
lie differs.

Lengths are in units of which an image is 120 high: at 120 x 160 one unit is one pixel.
"""

import math
import sys
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from cnn.dyes import STAINS

BEND = 2.4  # how far a point is moved at most, so that nothing is straight
CAMERA = np.array([NormalDist(0, 2).inv_cdf((i + 0.5) / 256) for i in range(256)], np.float32)  # its noise, of 255
FAR = 12.0  # what counts as the distance to an ellipse too far away to matter
LINING, SMALL, THIN = 4.0, 14.6, 11.5  # from a lumen to its nuclei's middle; mean area of these nuclei; of thin ones

# What makes noise smooth: a Gaussian of deviation 0.9 around a circle of 64 points, and the first of them once more.
# The squares of each one's weights sum to 1, so that the deviation of what it is applied to stays.
SMOOTH = np.exp(-((((np.arange(65)[:, None] - np.arange(64) + 32) % 64 - 32) / 0.9) ** 2) / 2)
SMOOTH = (SMOOTH / np.linalg.norm(SMOOTH, axis=1, keepdims=True)).astype(np.float32)


class Look(NamedTuple):
    """All that decides an image's colours, drawn without knowing its class."""

    white: float  # share of the pixels that are empty
    nuclei: float  # share of the pixels that are nuclei
    stains: np.ndarray  # (2, 3): optical density of red, green, blue for haematoxylin and eosin
    brightness: float  # of bare glass, from 0 to 1


class Scene(NamedTuple):
    """Where things are: each (height, width), about the distance to the nearest edge, negative inside."""

    empty: np.ndarray
    cells: np.ndarray
    nuclei: np.ndarray


def draw_image(number: int, *, seed: int, size: tuple[int, int], groups: int) -> np.ndarray:
    """Image `number` of a seed, (height, width, 3) uint8, of the class and group that `label_and_group` says.

    It depends on (seed, number), and on its group's stain, which depends on (seed, group).
    """
    label, group = label_and_group(number, groups)
    look = draw_look(_generator(seed, 0, number), draw_stain(_generator(seed, 1, group)))
    return draw_one(label, _generator(seed, 2, number), size, look)


def label_and_group(number: int, groups: int) -> tuple[int, int]:
    """The class, 0 benign and 1 malignant by turns, and the group, two by two, of image `number`."""
    return number % 2, number // 2 % groups


def _generator(seed: int, *purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, *purpose]))


def draw_one(label: int, rng: np.random.Generator, size: tuple[int, int], look: Look) -> np.ndarray:
    """An image (height, width, 3) uint8 of class `label` (0 benign, 1 malignant) in the colours of `look`."""
    y, x = coordinates(rng, size)
    turn = rng.uniform(0, np.pi)  # across the fibres of the collagen
    scene = (benign_scene, malignant_scene)[label](rng, look, y, x, turn)
    light = colour(structure(rng, scene, y, x, turn), look)
    camera = CAMERA.take(np.frombuffer(rng.bytes(light.size), np.uint8)).reshape(light.shape)
    return np.clip(np.round(255 * light + camera), 0, 255).astype(np.uint8)


# ------------------------------------------------------------------------------------------- the colours, without class


def draw_stain(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A group's stain: densities (2, 3) of haematoxylin and eosin, their hue and strength varied, and a brightness."""
    vectors = np.maximum(STAINS[:2] + rng.normal(0, 0.03, (2, 3)), 0.02)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors * rng.uniform((1.0, 0.65), (1.5, 1.2))[:, None], rng.uniform(0.92, 1.0)


def draw_look(rng: np.random.Generator, stain: tuple[np.ndarray, float]) -> Look:
    """The look of one image: its shares of white and of nuclei, and its group's stain, a little changed."""
    white, nuclei = rng.uniform((0.08, 0.13), (0.17, 0.19)).tolist()
    return Look(white, nuclei, stain[0] * rng.uniform(0.92, 1.08, (2, 1)), stain[1] * rng.uniform(0.98, 1.0))


def colour(field: np.ndarray, look: Look) -> np.ndarray:
    """Gives a field exactly the colours of a look: (height, width) -> (height, width, 3) light, from 0 to 1.

    The pixel of rank q (0 the lowest, 1 the highest) gets fixed amounts of haematoxylin and eosin, so all fields of one
    size get one histogram. Light is brightness * exp(-amounts @ stains) (Beer, Lambert; Ruifrok and Johnston 2001).
    """
    white, nuclei, soft = look.white, 1 - look.nuclei, 0.022
    ranks = [0.0, white - soft, white + soft, 0.6 * white + 0.4 * nuclei, nuclei - soft, nuclei + soft, 1.0]
    # to the edge of empty space (two ranks), over collagen and the bodies of cells, to the edge of nuclei (two ranks)
    amounts = [[0.00, 0.02, 0.05, 0.09, 0.36, 0.80, 1.45], [0.00, 0.02, 0.30, 0.50, 0.62, 0.45, 0.50]]
    rank = np.linspace(0, 1, field.size)
    density = np.stack([np.interp(rank, ranks, amount) for amount in amounts], axis=-1) @ look.stains
    light = np.empty((field.size, 3), np.float32)
    light[np.argsort(field, axis=None)] = look.brightness * np.exp(-density.astype(np.float32))
    return light.reshape(*field.shape, 3)


# ------------------------------------------------------------------------------------------------- the tools of drawing


def noise(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Noise at the places y, x (any shape): mean 0, deviation about 1, smooth over a length of 1, repeated after 48."""
    lattice = SMOOTH @ rng.standard_normal((64, 64), np.float32) @ SMOOTH.T
    return between(lattice, y * (64 / 48), x * (64 / 48))


def between(lattice: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A lattice at places between its points, by the four around each (bilinear); it repeats beyond its edges.

    It is (65, 65), and its last row and column are the first ones again, so that every place lies between two. The same
    as scipy's `map_coordinates(order=1, mode="grid-wrap")`, which takes six times as long: 1.4 ms for 120 x 160.
    """
    top, left = np.floor(y), np.floor(x)
    down, right = y - top, x - left
    first = (top.astype(np.intp) & 63) * 65 + (left.astype(np.intp) & 63)  # & 63: the remainder, below zero too

    def across(number: np.ndarray) -> np.ndarray:
        here = lattice.take(number)
        return here + right * (lattice.take(number + 1) - here)

    upper, lower = across(first), across(first + 65)
    return upper + down * (lower - upper)


def coordinates(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The place y, x of each pixel, each (height, width), bent a little: in tissue nothing is straight."""
    y, x = ((np.mgrid[: size[0], : size[1]] + 0.5) * 120 / size[0]).astype(np.float32)
    bend_y, bend_x = (BEND * np.clip(noise(rng, y / 14, x / 14) / 2, -1, 1) for _ in range(2))
    return y + bend_y, x + bend_x


def relative_radius(ellipse: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """0 in the centre of an ellipse, 1 on its edge; `ellipse` is y, x, two half-axes, and the first's angle to x."""
    ellipse = ellipse.astype(y.dtype)
    dy, dx, c, s = y - ellipse[0], x - ellipse[1], np.cos(ellipse[4]), np.sin(ellipse[4])
    along, across = dx * (c / ellipse[2]) + dy * (s / ellipse[2]), dy * (c / ellipse[3]) - dx * (s / ellipse[3])
    return np.sqrt(along * along + across * across)


def distance_to_ellipses(ellipses: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """About the distance to the nearest of (number, 5) ellipses: (height, width), negative inside, FAR if it is far."""
    height, width = y.shape
    distance = np.full(y.size, FAR, y.dtype)
    if len(ellipses):
        unit = height / 120  # in pixels
        reach = int(np.ceil((ellipses[:, 2].max() + 3 + BEND) * unit))  # only a window around each is looked at
        rows, columns = (ellipses[:, i, None] * unit + np.arange(-reach, reach + 1) for i in (0, 1))  # (number, window)
        rows, columns = np.clip(rows, 0, height - 1).astype(int), np.clip(columns, 0, width - 1).astype(int)
        pixels = (rows * width)[:, :, None] + columns[:, None]  # (number, window, window)
        radius = relative_radius(ellipses.T[:, :, None, None], y.take(pixels), x.take(pixels))
        near = (radius - 1) * np.sqrt(ellipses[:, 2] * ellipses[:, 3]).astype(y.dtype)[:, None, None]
        np.minimum.at(distance, pixels.ravel(), near.ravel())  # NumPy is nine times as fast with one axis
    return distance.reshape(height, width)


def thin_nuclei(rng: np.random.Generator, room: np.ndarray, y, x, turn: float, number: int) -> np.ndarray:
    """Thin nuclei along the collagen, (number, 5), where `room` (height, width) is true: both classes have them."""
    places = np.flatnonzero(room)
    chosen = rng.choice(places, min(number, places.size), replace=False)
    halves = rng.uniform((3.0, 0.9), (4.0, 1.2), (chosen.size, 2))
    angle = turn + np.pi / 2 + rng.normal(0, 0.25, chosen.size)
    return np.column_stack([y.ravel()[chosen], x.ravel()[chosen], halves, angle])


def place_ducts(rng: np.random.Generator, look: Look, frame: np.ndarray) -> np.ndarray:
    """Lumens, (number, 5), about as large and many as the look asks for; some are cut by the border of the frame."""
    # Per unit of area, k ducts of radius r give k pi r^2 of white, and k 2 pi (r + 4) / 4.5 small nuclei.
    ratio = look.white / (0.92 * look.nuclei) * 2 * SMALL / 4.5  # which is r^2 / (r + 4)
    radius = (ratio + np.sqrt(ratio**2 + 4 * LINING * ratio)) / 2
    wide = frame + 1.4 * radius
    number = max(1, round(look.white / (np.pi * radius**2) * wide.prod()))
    radii, centres = radius * rng.uniform(0.75, 1.25, number), rng.uniform(0, wide, (number, 2))
    far = radii[:, None] + radii + 19  # from centre to centre, at least
    np.fill_diagonal(far, 0)
    for _ in range(40):  # those that overlap push each other away
        distance = np.sqrt(((centres[:, None] - centres) ** 2).sum(-1)) + 1e-9
        push = np.maximum(far / distance - 1, 0)  # of two ducts: overlap / distance
        moved = centres + 0.4 * (push.sum(1, keepdims=True) * centres - push @ centres)
        centres = np.minimum(np.maximum(moved, 0), wide)
    halves = radii * (1 + np.outer([1, -1], rng.uniform(0.02, 0.25, number)))
    return np.column_stack([centres - 0.7 * radius, *halves, rng.uniform(0, np.pi, number)])


def line_ducts(rng: np.random.Generator, ducts: np.ndarray, pitch: float) -> np.ndarray:
    """Small nuclei, (count, 5), in one even layer around each lumen, `pitch` apart and pointing outwards."""
    long, short = ducts[:, 2:4].T * (1 + LINING / np.sqrt(ducts[:, 2] * ducts[:, 3]))
    t = np.linspace(0, 2 * np.pi, 200)
    steps = np.hypot(long[:, None] * np.diff(np.cos(t)), short[:, None] * np.diff(np.sin(t)))
    arc = np.cumsum(np.pad(steps, ((0, 0), (1, 0))), axis=1)  # (ducts, 200): how far it is from t = 0
    counts = np.maximum(np.round(arc[:, -1] / pitch), 1).astype(int)
    duct = np.repeat(np.arange(len(ducts)), counts)  # whose each nucleus is
    place = np.concatenate([np.arange(count) / count for count in counts])  # 0 to 1 is once around
    place += rng.uniform(-0.1, 0.1, duct.size) / counts[duct]
    way = np.arange(len(ducts))[:, None] + arc / arc[:, -1:]  # around the first, then around the second, ..
    t = np.interp(duct + place, way.ravel(), np.tile(t, len(ducts)))
    long, short, (y, x, _, _, turn) = long[duct], short[duct], ducts[duct].T
    u, v, c, s = long * np.cos(t), short * np.sin(t), np.cos(turn), np.sin(turn)
    outwards = np.arctan2(np.sin(t) / short, np.cos(t) / long) + turn
    halves = rng.uniform((2.5, 1.6), (2.9, 1.85), (duct.size, 2))
    return np.column_stack([y + u * s + v * c, x + u * c - v * s, halves, outwards])


def benign_scene(rng: np.random.Generator, look: Look, y: np.ndarray, x: np.ndarray, turn: float) -> Scene:
    """Ducts: their lumens are the white, and their one layer of nuclei is most of the nuclei."""
    frame = np.array([120.0, 120 * y.shape[1] / y.shape[0]])
    ducts = place_ducts(rng, look, frame)
    radius = np.stack([relative_radius(duct, y, x) for duct in ducts])  # (ducts, height, width)
    grown = float(np.clip(np.quantile(radius.min(0), look.white), 0.7, 1.3))
    ducts[:, 2:4] *= grown  # now they hold the white
    lumen = ((radius / grown - 1) * np.sqrt(ducts[:, 2] * ducts[:, 3]).astype(y.dtype)[:, None, None]).min(0)
    wanted = look.nuclei * frame.prod()
    length = (np.abs(lumen - LINING) < 1).mean() / 2 * frame.prod()  # of the linings, as far as they are seen
    pitch = np.clip(length * SMALL / (0.94 * wanted), 3.9, 5.5)
    few = round(np.clip((wanted - length / pitch * SMALL) / THIN, 6, 24))
    nuclei = np.concatenate([line_ducts(rng, ducts, pitch), thin_nuclei(rng, lumen > 12, y, x, turn, few)])
    return Scene(lumen, lumen - 2 * LINING, distance_to_ellipses(nuclei, y, x))


def place_crowd(rng: np.random.Generator, region: np.ndarray, y, x, area: float, wanted: float) -> np.ndarray:
    """Large, uneven nuclei, (number, 5), crowded in `region` (height, width), until they cover the area wanted."""
    places = np.flatnonzero(region)
    tries = rng.choice(places, min(places.size, int(area / 15) + 1), replace=False)
    cy, cx, long = y.ravel()[tries], x.ravel()[tries], rng.uniform(3.9, 7.0, tries.size)
    short = long * rng.uniform(0.55, 0.95, tries.size)
    mean, free, kept, covered = (long + short) / 2, np.ones(tries.size, bool), [], 0.0
    for i in range(tries.size):
        if covered >= wanted:
            break
        if free[i]:
            kept.append(i)
            covered += 0.95 * np.pi * long[i] * short[i]  # they overlap a little
            free &= (cy - cy[i]) ** 2 + (cx - cx[i]) ** 2 > (0.72 * (mean + mean[i])) ** 2
    return np.column_stack([cy, cx, long, short, rng.uniform(0, np.pi, tries.size)])[kept]


def malignant_scene(rng: np.random.Generator, look: Look, y: np.ndarray, x: np.ndarray, turn: float) -> Scene:
    """Sheets and cords of crowded cells; the white is cracks between them."""
    area = 120 * 120 * y.shape[1] / y.shape[0]
    # Cells are in the highest part of a field of winding bands (cords) and blobs (sheets).
    across = x * math.cos(turn) + y * math.sin(turn)
    cords = np.cos(2 * np.pi * across / rng.uniform(26, 44) + 1.5 * noise(rng, y / 24, x / 24))
    cords_and_sheets = cords + rng.uniform(0.2, 1.5) * noise(rng, y / 26, x / 26)
    region = cords_and_sheets > np.quantile(cords_and_sheets, 1 - look.nuclei / 0.65)  # 65 % of it become nuclei
    body = distance_to_ellipses(place_crowd(rng, region, y, x, area, look.nuclei * area - 9 * THIN), y, x)
    # Cracks are where a field is near zero, wide or narrow as another one says, and never in a cell.
    crack = np.abs(noise(rng, y / 20, x / 20)) + 0.3 * noise(rng, y / 30, x / 30) + 0.12 * noise(rng, y / 5, x / 5)
    outside = np.append(crack[body > 3], crack.max())
    edge = np.quantile(outside, min(look.white * y.size / outside.size, 1))
    empty = np.maximum(14 * (crack - edge), 3 - body)
    thin = thin_nuclei(rng, ~region & (np.minimum(body, empty) > 4), y, x, turn, 9)
    return Scene(empty, body - 3, np.minimum(body, distance_to_ellipses(thin, y, x)))


def structure(rng: np.random.Generator, scene: Scene, y: np.ndarray, x: np.ndarray, turn: float) -> np.ndarray:
    """The field, (height, width): 0 or less where empty, about 1 in collagen, 2 in a cell, 3 in a nucleus."""
    soft = 1.3 * max(1, 120 / len(y))  # edges are a little wider than a pixel
    empty, cells, nuclei = (np.clip(0.5 - distance / soft, 0, 1) for distance in scene)  # 1 inside, 0 outside
    across = x * math.cos(turn) + y * math.sin(turn) + 6 * noise(rng, y / 30, x / 30)
    along, grain = y * math.cos(turn) - x * math.sin(turn), noise(rng, y / 1.6, x / 1.6)
    collagen = 1 + 0.22 * noise(rng, across / 2.2, along / 16) + 0.15 * noise(rng, y / 14, x / 14) + 0.04 * grain
    cell = 1.75 + 0.1 * grain + 0.3 * np.clip(1 - scene.nuclei / 4, 0, 1)
    nucleus = 3 + 0.15 * grain + 0.07 * noise(rng, y / 7, x / 7) + 0.25 * np.clip(-scene.nuclei / 4, 0, 1)
    field = collagen + (cell - collagen) * cells
    field = field * (1 - empty) + 0.02 * np.minimum(scene.empty, 0)
    return field + (nucleus - field) * nuclei


# SEED HEIGHT WIDTH GROUPS FIRST END STEP: writes the bytes of images FIRST, FIRST + STEP, .. to END
if __name__ == "__main__":
    SEED, HEIGHT, WIDTH, GROUPS, *NUMBERS = map(int, sys.argv[1:])
    DRAWN = [draw_image(i, seed=SEED, size=(HEIGHT, WIDTH), groups=GROUPS) for i in range(*NUMBERS)]
    sys.stdout.buffer.write(b"".join(image.tobytes() for image in DRAWN))
