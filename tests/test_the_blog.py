"""The erratum: what was wrong with the 87 % of 2017, each point a computation to do again.

The figures are those of the blog post and its notebook: 885 of 1,009 test images right, [[415, 93], [31, 470]] with the
true classes in rows, BENIGN first. Having come here, one can read such a figure and ask the right questions: of which
class, of how many slides, and was any of them seen in training?
"""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from cnn import images
from cnn.copies import draw_copies
from cnn.evaluation import judge, mistakes
from cnn.optimizer import make_optimizer
from cnn.slides import Slides
from experiments import reproduce_blog
from experiments.reproduce_blog import leaky_split

#                 called BENIGN   called MALIGNANT
#   BENIGN             415               93
#   MALIGNANT           31              470           malignant is what the test is to find: positive
TN, FP, FN, TP = 415, 93, 31, 470
LABELS, CALLED = np.repeat([0, 0, 1, 1], [TN, FP, FN, TP]), np.repeat([0, 1, 0, 1], [TN, FP, FN, TP])


def judged(positive: int) -> dict:
    """Our own figures of the 1,009 answers, with one class or the other as the positive one."""
    return judge(LABELS, np.eye(2)[CALLED], ("BENIGN", "MALIGNANT"), positive)


# The wrong class


def test_the_accuracy_of_2017_is_885_of_1009():
    assert (TN + TP, TN + FP + FN + TP) == (885, 1009)
    assert round(885 / 1009, 6) == 0.877106
    assert judged(1)["accuracy"]["value"] == 885 / 1009
    assert judged(1)["confusion_matrix"] == [[415, 93], [31, 470]]


def test_its_precision_and_recall_are_those_of_benign():
    # the post says "precision 93.04 %, recall 81.7 %"; 93.05 rounded, 93.04 cut off
    assert (TN + FN, TN + FP) == (446, 508)
    assert math.floor(1e4 * 415 / 446) / 100 == 93.04
    assert round(100 * 415 / 508, 1) == 81.7
    of_benign = judged(0)
    assert (of_benign["ppv"]["k"], of_benign["ppv"]["n"]) == (415, 446)
    assert (of_benign["sensitivity"]["k"], of_benign["sensitivity"]["n"]) == (415, 508)


@pytest.mark.parametrize(
    ("name", "k", "n", "value"),
    [
        ("ppv", 470, 470 + 93, 0.8348),  # precision: of 563 called malignant
        ("sensitivity", 470, 470 + 31, 0.9381),  # recall: of 501 malignant
        ("specificity", 415, 415 + 93, 0.8169),  # of 508 benign
        ("npv", 415, 415 + 31, 0.9305),  # of 446 called benign
    ],
)
def test_what_it_should_have_said_of_malignant(name, k, n, value):
    got = judged(1)[name]
    assert (got["k"], got["n"]) == (k, n)
    assert got["value"] == k / n
    assert round(k / n, 4) == value


def test_the_figures_that_weigh_both_classes():
    precision, recall, specificity = 470 / 563, 470 / 501, 415 / 508
    f1 = 2 * precision * recall / (precision + recall)
    assert f1 == pytest.approx(2 * 470 / (2 * 470 + 93 + 31))
    matthews = (470 * 415 - 93 * 31) / math.sqrt(563 * 501 * 508 * 446)
    got = [f1, (recall + specificity) / 2, matthews]
    assert [round(value, 4) for value in got] == [0.8835, 0.8775, 0.7602]
    theirs = [metrics.f1_score, metrics.balanced_accuracy_score, metrics.matthews_corrcoef]
    assert got == pytest.approx([figure(LABELS, CALLED) for figure in theirs])


def test_malignant_tissue_that_was_missed_counts_31_and_false_alarms_93():
    wrong = mistakes(LABELS, np.eye(2)[CALLED])
    assert (LABELS[wrong] == 1).sum() == 31
    assert (LABELS[wrong] == 0).sum() == 93


# The leak


def copies_of(sources: int, copies: int) -> Slides:
    """So many images without content, copies of so many sources in turn; every other source is malignant."""
    groups = tuple(f"slide{i % sources}" for i in range(copies))
    labels = np.array([i % sources % 2 for i in range(copies)], np.int32)
    return Slides(np.zeros((copies, 1, 1, 3), np.uint8), labels, groups, groups, ("benign", "malignant"))


def test_the_split_of_5045_images_is_4036_and_1009_and_then_3228_and_808():
    assert (math.ceil(0.2 * 5045), 5045 - 1009) == (1009, 4036)  # the smaller part is rounded up
    assert (math.ceil(0.2 * 4036), 4036 - 808) == (808, 3228)
    parts, _ = leaky_split(copies_of(58, 5045), seed=0)
    assert {name: len(chosen) for name, chosen in parts.items()} == {"training": 3228, "validation": 808, "test": 1009}
    assert sorted(np.concatenate(list(parts.values()))) == list(range(5045))


def test_that_a_test_image_has_no_sibling_in_training_is_as_good_as_impossible():
    # 2,500 copies of 32 benign slides are 78 each, of 26 malignant ones 96; with the slide itself 79 and 97
    assert (2500 // 32, 2500 // 26) == (78, 96)
    # a test image of a benign slide has 78 siblings. All of them in the test: 1008 / 5044 * 1007 / 5043 * ...
    all_in_the_test = math.prod((1008 - i) / (5044 - i) for i in range(78))
    assert 0.2**78 < 1e-54
    assert all_in_the_test < 0.2**78
    # in the test or in validation, which the weights do not see either: (1008 + 808) / 5044 * ..., still never
    assert math.prod((1816 - i) / (5044 - i) for i in range(78)) < 0.36**78 < 1e-34


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_test_image_has_its_source_in_training(seed):
    data = copies_of(58, 5045)
    parts, siblings = leaky_split(data, seed)
    assert siblings == len(parts["test"]) == 1009
    assert {data.groups[i] for i in parts["test"]} <= {data.groups[i] for i in parts["training"]}


def test_without_copies_there_is_no_leak():
    parts, siblings = leaky_split(copies_of(58, 58), seed=0)
    assert (len(parts["test"]), siblings) == (12, 0)


def test_the_picture_of_the_leak_shows_test_images_with_siblings_in_rows_of_one_length(tmp_path, monkeypatch):
    pixels = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((2, 2, 3), np.uint8)
    data = Slides(pixels, np.zeros(6, np.int32), tuple("xxyxzz"), tuple("abcdef"), ("benign", "malignant"))
    shown = {}
    monkeypatch.setattr(
        reproduce_blog.figures, "gallery", lambda path, *what, columns: shown.update(what=what, columns=columns)
    )
    parts = {"test": np.array([2, 0, 4]), "training": np.array([1, 3, 5])}  # image 2 is the only one of its slide
    reproduce_blog.draw_leak(tmp_path / "leak.png", data, parts, siblings=3)
    images, captions, _ = shown["what"]
    assert [int(image[0, 0, 0]) for image in images] == [0, 1, 3, 255, 4, 5, 255, 255]
    assert captions[1:4] == ["in training", "in training", ""]
    assert shown["columns"] == 4


def test_one_slide_of_58_is_nearly_two_points_of_accuracy():
    assert round(100 / 58, 2) == 1.72


# The lost images


def test_some_20_copies_were_overwritten():
    # A file's name is its source and a number below 10,000. n copies of a source have n (n - 1) / 2 pairs, and each
    # pair has the same number once in 10,000: 32 sources with 78 copies, 26 with 96.
    pairs = 32 * 78 * 77 / 2 + 26 * 96 * 95 / 2
    assert pairs / 10_000 == pytest.approx(21.5, abs=0.1)
    # exactly: each source loses n - (how many of the 10,000 numbers come up)
    sources = np.repeat([78, 79, 96, 97], [28, 4, 22, 4])
    assert (sources[:32].sum(), sources[32:].sum()) == (2500, 2500)
    expected = sum(n - 10_000 * (1 - (1 - 1 / 10_000) ** n) for n in sources)
    assert expected == pytest.approx(21.5, abs=0.1)
    rng = np.random.default_rng(0)
    lost = [sum(n - len(np.unique(rng.integers(0, 10_000, n))) for n in sources) for _ in range(200)]
    assert np.mean(lost) == pytest.approx(expected, abs=4 * math.sqrt(expected / 200))
    assert np.std(lost) == pytest.approx(math.sqrt(expected), abs=1)  # rare and independent: Poisson, 21 +- 5
    # 58 + 5,000 - 5,045 = 13 were lost in 2017: fewer than expected, and not surprisingly few
    assert np.mean(np.array(lost) <= 13) > 0.01


def test_drawn_copies_overwrite_each_other_and_the_lost_ones_are_counted():
    # 4 slides, 600 draws a class, 300 each: 4 * 300 * 299 / 2 / 10,000 = 17.9 are expected to be lost
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 12, 3), np.uint8)
    originals = Slides(pixels, np.array([0, 0, 1, 1], np.int32), tuple("abcd"), tuple("abcd"), ("benign", "malignant"))
    calls = []
    data, lost = draw_copies(
        originals, each=600, size=(4, 6), seed=0, batch=100, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(100 * i, 1200) for i in range(1, 13)]
    assert 17.9 - 4 * math.sqrt(17.9) < lost < 17.9 + 4 * math.sqrt(17.9)
    assert len(data) == len(set(data.names)) == 4 + 2 * 600 - lost
    assert data.images.shape == (len(data), 4, 6, 3)
    assert data.images.dtype == np.uint8
    assert sum(300 - (data.groups.count(name) - 1) for name in "abcd") == lost  # drawn evenly, and the slide itself
    for name, label, image in zip("abcd", originals.labels, originals.images):
        siblings = [i for i in range(len(data)) if data.groups[i] == name]
        assert set(data.labels[siblings]) == {label}
        assert np.array_equal(data.images[data.names.index(name)], images.resize(image, (4, 6)))
        assert len({data.images[i].tobytes() for i in siblings}) > 0.9 * len(siblings), "each copy is another variant"


def noisy(different: int) -> Slides:
    """Two slides of noise, one of each class; the same noise if `different` is 1."""
    pixels = np.random.default_rng(0).integers(0, 256, (different, 16, 16, 3), np.uint8)
    return Slides(np.resize(pixels, (2, 16, 16, 3)), np.array([0, 1], np.int32), *[("a", "b")] * 2, ("x", "y"))


def test_a_copy_has_been_a_jpeg_and_its_slide_has_not(monkeypatch):
    encode, seen = images.encode_jpeg, []
    monkeypatch.setattr(images, "encode_jpeg", lambda image: seen.append(1) or encode(np.full_like(image, 7)))
    data, _ = draw_copies(noisy(2), each=3, size=(4, 4), seed=0, batch=4)
    assert [bool((image == 7).all()) for image in data.images] == [True] * 6 + [False] * 2
    assert len(seen) == 6


def test_every_seed_and_every_class_draws_other_copies():
    one, other = (draw_copies(noisy(2), each=3, size=(16, 16), seed=seed, batch=4)[0] for seed in (0, 1))
    assert one.names != other.names
    assert not np.array_equal(one.images[0], other.images[0])
    alike, _ = draw_copies(noisy(1), each=3, size=(16, 16), seed=0, batch=4)
    assert len({image.tobytes() for image in alike.images}) == 2 * 3 + 1, "turned otherwise in each class"


def test_copies_of_each_of_three_classes_are_drawn_from_its_own_slides_and_as_bright():
    grey = np.array([60, 120, 180], np.uint8)  # one a class, so that a copy tells where it is from
    pixels = np.broadcast_to(grey[[0, 1, 1, 2]][:, None, None, None], (4, 80, 80, 3)).copy()
    originals = Slides(pixels, np.array([0, 1, 1, 2], np.int32), tuple("abcd"), tuple("abcd"), ("one", "two", "three"))
    data, lost = draw_copies(originals, each=6, size=(80, 80), seed=0, batch=6)
    assert np.bincount(data.labels).tolist() == [6 + 1, 6 + 2, 6 + 1]
    assert lost == 0
    assert [data.groups.count(name) - 1 for name in "abcd"] == [6, 3, 3, 6]
    middle = data.images[:, 32:48, 32:48].astype(float).mean(axis=(1, 2, 3))  # the corners are black
    assert np.abs(middle - grey[data.labels]).max() < 0.5, "no brighter, no darker"


# The optimizer: Keras and the paper by the same name


@pytest.mark.parametrize(("as_keras", "epsilon"), [(False, 1e-8), (True, 1e-7 / math.sqrt(1 - 0.999))])
def test_the_adam_of_keras_is_more_careful_with_small_gradients(as_keras, epsilon):
    # In the first step m = 0.1 g and v = 0.001 g^2; corrected, g and g^2: a step of 0.001 g / (|g| + epsilon). Keras
    # adds its 1e-7 to the uncorrected root, sqrt(0.001) |g|, which is as much as 3.2e-6 beside |g|.
    gradients = jnp.array([1.0, -1e-3, 1e-5, 3e-6, -1e-8])
    optimizer = make_optimizer(10, as_keras=as_keras)
    state = optimizer.init(gradients)
    first, state = optimizer.update(gradients, state, gradients)
    np.testing.assert_allclose(first, -0.001 * gradients / (np.abs(gradients) + epsilon), rtol=1e-4)
    if as_keras:  # the second: m = 0.19 g, v = 0.001999 g^2
        second, _ = optimizer.update(gradients, state, gradients)
        small = 1e-7 / math.sqrt(1 - 0.999**2)
        np.testing.assert_allclose(second, -0.001 * gradients / (np.abs(gradients) + small), rtol=1e-4)


# The wrong picture


def test_the_notebook_shows_a_picture_that_was_not_misclassified():
    # It looks for images called 0 that are 1. Predictions have shape (n, 1), so np.where gives rows *and columns*, and
    # the column index 0 is taken for image 0.
    called, truth = np.array([[1], [0], [0]]), np.array([1, 1, 0])  # image 0 is right; image 1 is the mistake
    rows, columns = np.where(called == 0)
    assert (rows.tolist(), columns.tolist()) == ([1, 2], [0, 0])
    notebook = np.intersect1d(np.where(called == 0), np.where(truth == 1))
    assert notebook.tolist() == [0, 1]
    assert mistakes(truth, np.eye(2)[called[:, 0]]).tolist() == [1]
