"""The erratum: what was wrong with the 87 % of 2017, each point a computation that one can do again.

The figures are those of the blog post and its notebook: 885 of 1,009 test images right, [[415, 93], [31, 470]] with the
true classes in rows, BENIGN first.
"""

import math

import numpy as np
import pytest
from rich.console import Console

from cnn import synthetic
from cnn.evaluation import judge
from cnn.slides import Slides
from experiments.reproduce_blog import Settings, leaky_split, multiply

TN, FP, FN, TP = 415, 93, 31, 470  # malignant is positive


def test_the_accuracy_of_2017_is_885_of_1009():
    assert (TN + TP, TN + FP + FN + TP) == (885, 1009)
    assert round(885 / 1009, 6) == 0.877106


def test_its_precision_and_recall_are_those_of_the_wrong_class():
    # the post says 93.04 % and 81.7 %: of the images called BENIGN, and of the BENIGN ones
    assert round(TN / (TN + FN), 4) == round(415 / 446, 4) == 0.9305
    assert round(TN / (TN + FP), 3) == round(415 / 508, 3) == 0.817


def test_what_it_should_have_said_of_malignant():
    labels = np.repeat([0, 0, 1, 1], [TN, FP, FN, TP])
    predicted = np.repeat([0, 1, 0, 1], [TN, FP, FN, TP])
    got = judge(labels, np.eye(2)[predicted], ("BENIGN", "MALIGNANT"), 1)
    assert got["confusion_matrix"] == [[415, 93], [31, 470]]
    assert (got["ppv"]["k"], got["ppv"]["n"], round(got["ppv"]["value"], 4)) == (470, 470 + 93, 0.8348)
    assert (got["sensitivity"]["k"], got["sensitivity"]["n"], round(got["sensitivity"]["value"], 4)) == (
        470,
        501,
        0.9381,
    )
    assert round(got["specificity"]["value"], 4) == 0.8169
    assert round(got["npv"]["value"], 4) == 0.9305
    precision, recall, specificity = 470 / 563, 470 / 501, 415 / 508
    assert round(2 * precision * recall / (precision + recall), 4) == 0.8835  # F1
    assert round((recall + specificity) / 2, 4) == 0.8775  # balanced accuracy
    matthews = (TP * TN - FP * FN) / math.sqrt((TP + FP) * (TP + FN) * (TN + FP) * (TN + FN))
    assert round(matthews, 4) == 0.7602


def test_one_slide_is_nearly_two_points():
    assert round(100 / 58, 2) == 1.72


def labelled(copies: int, sources: int = 58) -> Slides:
    """So many images without content, copies of so many sources in turn."""
    groups = tuple(f"slide{i % sources}" for i in range(copies))
    labels = np.array([i % sources % 2 for i in range(copies)], np.int32)
    return Slides(np.zeros((copies, 1, 1, 3), np.uint8), labels, groups, groups, ("benign", "malignant"))


def test_the_split_of_5045_images_is_3228_and_808_and_1009():
    parts, _ = leaky_split(labelled(5045), seed=0)
    assert {name: len(chosen) for name, chosen in parts.items()} == {"training": 3228, "validation": 808, "test": 1009}
    assert sorted(np.concatenate(list(parts.values()))) == list(range(5045))


def test_every_test_image_has_its_source_in_training():
    # 2,500 copies of 32 benign slides are 78 each, of 26 malignant ones 96: the chance that all 78 of a slide avoid
    # training, when a fifth is set aside for the test, is below 0.2^(78 - 1)
    assert (2500 // 32, 2500 // 26) == (78, 96)
    assert 0.2**77 < 1e-53
    _, siblings = leaky_split(labelled(5045), seed=0)
    assert siblings == 1009


def test_without_copies_there_is_no_leak():
    _, siblings = leaky_split(labelled(58), seed=0)
    assert siblings == 0


def expected_collisions(draws: int, names: int) -> float:
    """How many of so many draws are lost when a name that comes up twice overwrites: draws - names that came up."""
    return draws - names * (1 - (1 - 1 / names) ** draws)


def test_some_20_copies_were_overwritten():
    # 2,500 draws among 32 slides x 10,000 numbers, and among 26 x 10,000
    expected = expected_collisions(2500, 32 * 10_000) + expected_collisions(2500, 26 * 10_000)
    assert expected == pytest.approx(21.7, abs=0.1)
    rng = np.random.default_rng(0)
    lost = [
        sum(2500 - len(np.unique(rng.integers(0, slides * 10_000, 2500))) for slides in (32, 26)) for _ in range(200)
    ]
    assert np.mean(lost) == pytest.approx(expected, abs=1.5)
    assert np.std(lost) == pytest.approx(math.sqrt(expected), abs=1.5)  # about 5; 58 + 5,000 - 5,045 = 13 were lost


def test_the_notebook_shows_a_picture_that_was_not_misclassified():
    # It looks for images called 0 that are 1. Predictions have shape (n, 1), so np.where gives rows *and columns*, and
    # the column index 0 is taken for image 0.
    predicted, truth = np.array([[1], [0], [0]]), np.array([1, 1, 0])  # image 0 is right; image 1 is the mistake
    notebook = np.intersect1d(np.where(predicted == 0), np.where(truth == 1))
    assert notebook.tolist() == [0, 1]
    assert np.flatnonzero((predicted[:, 0] == 0) & (truth == 1)).tolist() == [1]


def test_copies_are_drawn_evenly_and_overwritten_ones_are_counted(tmp_path):
    drawn = synthetic.draw_slides(6, seed=0, size=(24, 32))
    settings = Settings(data=tmp_path, draws=40, batch=16, drawing_size=(24, 32), image_size=(12, 16))
    data, lost = multiply(drawn, settings, Console(quiet=True))
    assert len(data) == 6 + 2 * 40 - lost
    assert data.images.shape[1:] == (12, 16, 3)
    per_source = {name: data.groups.count(name) for name in drawn.names}
    assert all(13 - lost <= count - 1 <= 14 for count in per_source.values())  # 40 draws of 3 slides
    for name, label in zip(drawn.names, drawn.labels):
        assert {int(data.labels[i]) for i in range(len(data)) if data.groups[i] == name} == {int(label)}
