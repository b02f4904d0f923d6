"""Squares of tissue, cut out of an image where there is least white.

How much white an image shows can give its class away, though it says more about how a core was cut than about its
cells. Whoever looks only at squares full of tissue has to judge the cells.
"""

import numpy as np

from cnn.errors import UserError
from cnn.stains import WHITE


def tissue_squares(image: np.ndarray, *, size: int, number: int) -> np.ndarray:
    """The squares with the least white, (number, size, size, 3), of an image (height, width, 3) uint8.

    Squares lie on a grid of half their size, the last of a row or column at the edge. They are taken in order of their
    share of white (`baselines.share_of_white`), top left first among equals, and none that overlaps one before by more
    than half, as long as there are such; if there are fewer than `number`, they are taken again from the first.

    Raises:
        UserError: if the image is smaller than a square.
    """
    height, width = image.shape[:2]
    if min(height, width) < size:
        raise UserError(f"squares: an image of {height} x {width} pixels is smaller than squares of {size}")
    white = np.zeros((height + 1, width + 1), int)  # white[y, x]: how many white pixels lie above y and left of x
    white[1:, 1:] = (image > WHITE).all(-1).cumsum(0).cumsum(1)
    tops, lefts = ([*range(0, end - size, max(1, size // 2)), end - size] for end in (height, width))
    places = [(top, left) for top in tops for left in lefts]
    share = [white[y + size, x + size] - white[y, x + size] - white[y + size, x] + white[y, x] for y, x in places]
    order = [places[i] for i in np.argsort(share, kind="stable")]
    chosen, left_over = [], []
    for place in order:
        shared = [max(0, size - abs(place[0] - y)) * max(0, size - abs(place[1] - x)) for y, x in chosen]
        (chosen if max(shared, default=0) <= size * size / 2 else left_over).append(place)
    taken = [(chosen + left_over)[i % len(order)] for i in range(number)]
    return np.stack([image[y : y + size, x : x + size] for y, x in taken])
