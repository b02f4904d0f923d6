"""Baselines: what colours, white and the day of a photograph say without any network. Next: test_squares.py."""

import numpy as np
import pytest

from cnn.baselines import PERCENTILES, group_rate, histogram, regress, share_of_white
from cnn.dyes import STAINS


def image(*pixels: tuple[int, int, int]) -> np.ndarray:
    """One row of pixels."""
    return np.array([pixels], np.uint8)


WHITE, PINK, NIGHT = (201, 255, 220), (200, 100, 150), (0, 0, 0)


def test_the_share_of_white_by_hand():
    # white is above 200 in all three: (200, 255, 255) is not
    images = np.stack([image(WHITE, WHITE, PINK, (200, 255, 255)), image(PINK, PINK, PINK, NIGHT)])
    assert share_of_white(images).tolist() == [0.5, 0.0]


def test_a_histogram_by_hand():
    features = histogram(image(PINK, PINK, NIGHT, WHITE))
    assert features.shape == (3 * 16 + 7,)
    red, green, blue = features[:48].reshape(3, 16)
    # bins of 16: 200 and 201 are in bin 12, 0 in bin 0; 100 in 6 and 255 in 15; 150 in 9 and 220 in 13
    assert (red[12], red[0], red.sum()) == (0.75, 0.25, 1.0)
    assert (green[6], green[0], green[15]) == (0.5, 0.25, 0.25)
    assert (blue[9], blue[0], blue[13]) == (0.5, 0.25, 0.25)


def test_its_last_seven_numbers_are_percentiles_of_haematoxylin():
    amounts = np.linspace(0, 1, 101)
    light = np.exp(-amounts[:, None] * STAINS[0])
    features = histogram(np.round(light * 255).astype(np.uint8)[None])
    np.testing.assert_allclose(features[48:], np.array(PERCENTILES) / 100, atol=0.02)


def test_a_histogram_of_tissue_does_not_see_white():
    mixed, tissue = image(PINK, NIGHT, WHITE, WHITE), image(PINK, NIGHT)
    assert np.array_equal(histogram(mixed, tissue_only=True), histogram(tissue))
    assert not np.array_equal(histogram(mixed), histogram(tissue))
    assert np.array_equal(histogram(image(WHITE), tissue_only=True), histogram(image(WHITE))), "nothing else is there"


def test_regression_learns_which_way_a_feature_points():
    features, labels = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1])
    p = regress(features, labels, np.array([[-5.0], [1.5], [8.0]]), strength=1.0)
    assert p[0] < 0.1 < 0.9 < p[2]
    assert p[1] == pytest.approx(0.5)
    assert np.all(np.diff(regress(features, 1 - labels, np.array([[0.0], [3.0]]), strength=1.0)) < 0)


def test_a_weak_penalty_follows_the_data_further():
    features, labels = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1])
    weak, strong = (regress(features, labels, np.array([[3.0]]), strength=c)[0] for c in (10.0, 0.01))
    assert weak > 0.95 > 0.6 > strong > 0.5


def test_the_rate_of_a_group_by_hand():
    groups, labels = np.array(["a", "a", "b", "b"]), np.array([1, 1, 0, 1])
    assert group_rate(groups, labels, np.array(["a", "b", "c"])).tolist() == [1.0, 0.5, 0.75]


def test_the_unit_of_a_feature_does_not_matter():
    features, labels, new = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1]), np.array([[2.5]])
    want = regress(features, labels, new, strength=1.0)
    assert regress(features / 1000, labels, new / 1000, strength=1.0) == pytest.approx(want, rel=1e-4)
