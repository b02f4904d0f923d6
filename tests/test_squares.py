"""Squares of tissue: where there is least white, and apart from one another if possible. Next: test_evaluation.py."""

import numpy as np
import pytest

from cnn.baselines import share_of_white
from cnn.errors import UserError
from cnn.squares import tissue_squares

PINK, WHITE = (200, 100, 150), (240, 240, 240)


def half_white(height: int, width: int) -> np.ndarray:
    """Tissue on the left, white on the right; each pixel's red says in which column it is."""
    image = np.full((height, width, 3), PINK, np.uint8)
    image[:, width // 2 :] = WHITE
    return image


def test_squares_without_white_come_first():
    image = half_white(4, 16)  # columns 0 to 7 are tissue: squares of 4 at 0, 2 and 4; at 6 half is white
    squares = tissue_squares(image, size=4, number=5)
    assert share_of_white(squares).tolist() == [0, 0, 0, 0.5, 1]


def test_squares_are_places_of_the_image_that_overlap_by_half_at_most():
    image = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)  # nothing is white: order of the grid
    squares = tissue_squares(image, size=4, number=9)
    corners = [tuple(square[0, 0]) for square in squares]
    # top left first: steps of 2; its neighbours across share half and are taken, those across and down a quarter
    assert corners == [tuple(image[y, x]) for y in (0, 2, 4) for x in (0, 2, 4)]


def test_the_far_edges_are_not_forgotten_and_do_not_crowd():
    image = half_white(4, 9)[:, ::-1].copy()  # tissue in the last 4 columns: squares at 0, 2, 4 and at the edge, 5
    image[:, :, 0] = 210 + np.arange(9)  # red says which column it is
    squares = tissue_squares(image, size=4, number=4)
    assert [int(square[0, 0, 0]) - 210 for square in squares] == [5, 2, 0, 4], "4 shares 3 of 4 columns with 5"


def by_definition(image: np.ndarray, size: int, number: int) -> list[tuple[int, int]]:
    """Top and left of the squares, pixel by pixel: the whitest last, and at the end those that share more than half."""
    tops, lefts = (sorted({*range(0, n - size, size // 2), n - size}) for n in image.shape[:2])
    squares = {(top, left): image[top : top + size, left : left + size] for top in tops for left in lefts}
    pixels = {(y, x): {(y + i, x + j) for i in range(size) for j in range(size)} for y, x in squares}
    order = sorted(squares, key=lambda place: share_of_white(squares[place][None])[0])
    chosen = []
    for place in order:
        if all(2 * len(pixels[place] & pixels[other]) <= size * size for other in chosen):
            chosen.append(place)
    return (chosen + [place for place in order if place not in chosen])[:number]


@pytest.mark.parametrize("seed", range(8))
def test_squares_are_those_of_the_definition_where_white_lies_anywhere(seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(199, 203, (*rng.integers(6, 15, 2), 3), np.uint8)  # white is above 200
    places = by_definition(image, 4, 6)
    squares = tissue_squares(image, size=4, number=len(places))
    assert np.array_equal(squares, np.stack([image[y : y + 4, x : x + 4] for y, x in places]))


def test_an_image_of_one_square_gives_it_as_often_as_asked():
    squares = tissue_squares(half_white(4, 4), size=4, number=3)
    assert squares.shape == (3, 4, 4, 3)
    assert (squares == half_white(4, 4)).all()


def test_an_image_smaller_than_a_square_is_refused():
    with pytest.raises(UserError, match="an image of 4 x 16 pixels is smaller than squares of 5"):
        tissue_squares(half_white(4, 16), size=5, number=1)
