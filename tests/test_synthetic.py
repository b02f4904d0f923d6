"""Drawn tissue: form says all and colour nothing, and both are shown. Next: test_training.py.

A network that tells these images apart has learned shapes, because there is nothing else to learn: the colours of an
image are drawn before its class is known, and imposed on the scene pixel by pixel.
"""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cnn import synthetic
from cnn.appearance import STAINS
from cnn.errors import UserError
from cnn.synthetic import draw_slides
from tests.checkers import assert_equal_arrays


@pytest.fixture(scope="module")
def slides():
    """Four hundred images of 60 x 80 pixels."""
    return draw_slides(400, seed=1, size=(60, 80))


def histogram(image: np.ndarray) -> np.ndarray:
    """What a classifier of colours sees: 16 bins of red, green and blue, and seven percentiles of haematoxylin."""
    bins = [np.histogram(image[..., channel], 16, (0, 256))[0] / image[..., channel].size for channel in range(3)]
    density = -np.log(np.maximum(image / 255, 1 / 255)).reshape(-1, 3)
    haematoxylin = (density @ np.linalg.inv(STAINS))[:, 0]
    return np.concatenate([*bins, np.percentile(haematoxylin, [5, 10, 25, 50, 75, 90, 95])])


@pytest.mark.parametrize("strength", [0.05, 0.5])
def test_a_histogram_of_colours_cannot_tell_the_classes_apart(slides, strength):
    features = np.stack([histogram(image) for image in slides.images])
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=5000))
    folds = StratifiedKFold(4, shuffle=True, random_state=0)
    scores = cross_val_predict(classifier, features, slides.labels, cv=folds, method="predict_proba")[:, 1]
    area = roc_auc_score(slides.labels, scores)
    assert area <= 0.65, f"colour tells the classes apart: AUC {area:.3f}"


def test_neither_can_the_share_of_white_nor_the_brightness(slides):
    for name, score in (("white", (slides.images > 200).all(-1)), ("brightness", slides.images.mean(-1))):
        area = roc_auc_score(slides.labels, score.mean((1, 2)))
        assert 0.4 < area < 0.6, f"{name} tells the classes apart: AUC {area:.3f}"


def test_the_same_look_gives_both_classes_the_same_histogram():
    # the grain of +-2 grey values is random: without it, and with the same look, the sorted pixels are equal exactly
    def generator(purpose: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([7, purpose]))

    class NoGrain:
        """A generator whose normal numbers are all 0."""

        def __init__(self):
            self.rng = generator(3)

        def normal(self, *arguments, size=None):
            shape = size if size is not None else arguments[2]
            return self.rng.normal(size=shape) if len(shape) == 2 else np.zeros(shape)

        def random(self, shape):
            return self.rng.random(shape)

    look = synthetic.draw_look(generator(0), generator(1))
    fields = [field(generator(2), look, (60, 80)) for field in (synthetic.benign_field, synthetic.malignant_field)]
    benign, malignant = (synthetic.colour(NoGrain(), field, look).reshape(-1, 3) for field in fields)
    assert (benign != malignant).mean() > 0.5, "the scenes are the same"
    for channel in range(3):
        assert_equal_arrays(np.sort(benign[:, channel]), np.sort(malignant[:, channel]), "the histograms", rtol=0)


def test_nuclei_are_few_and_large_in_one_class_and_many_and_small_in_the_other():
    from scipy.ndimage import label

    slides = draw_slides(24, seed=2)
    largest = []
    for image in slides.images:
        nuclei = image[..., 0] < 0.55 * np.median(image[..., 0])  # red light is what haematoxylin takes away
        pieces, _ = label(nuclei)
        sizes = np.bincount(pieces.ravel())[1:]
        largest.append(np.percentile(sizes[sizes >= 5], 90))
    benign, malignant = (np.array(largest)[slides.labels == i] for i in (0, 1))
    assert benign.max() < np.median(malignant)


def test_the_first_ten_of_twenty_are_the_same_as_ten():
    ten, twenty = draw_slides(10, seed=3, size=(24, 32)), draw_slides(20, seed=3, size=(24, 32))
    assert np.array_equal(ten.images, twenty.images[:10])
    assert ten.names == twenty.names[:10]


def test_the_seed_decides_the_images():
    assert np.array_equal(draw_slides(4, seed=3, size=(24, 32)).images, draw_slides(4, seed=3, size=(24, 32)).images)
    assert not np.array_equal(
        draw_slides(4, seed=3, size=(24, 32)).images, draw_slides(4, seed=4, size=(24, 32)).images
    )


def test_every_group_holds_both_classes_and_has_a_stain_of_its_own():
    slides = draw_slides(40, seed=0, size=(24, 32), groups=5)
    means = {}
    for group in sorted(set(slides.groups)):
        members = [i for i, name in enumerate(slides.groups) if name == group]
        assert slides.labels[members].tolist().count(0) == slides.labels[members].tolist().count(1) == 4
        means[group] = slides.images[members].reshape(-1, 3).mean(0)
    spread = np.std(list(means.values()), axis=0)
    assert len(means) == 5
    assert spread.max() > 3, f"all groups have one stain: {means}"


@pytest.mark.parametrize("size", [(16, 16), (60, 80), (130, 90)])
def test_any_size_from_16_pixels_can_be_drawn(size):
    slides = draw_slides(2, seed=0, size=size)
    assert (slides.images.shape, slides.images.dtype) == ((2, *size, 3), np.uint8)
    assert (slides.labels.dtype, slides.classes) == (np.int32, ("benign", "malignant"))
    assert slides.images.std() > 10


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"number": 1}, "drawn tissue: got number 1, wants at least 2"),
        ({"size": (12, 40)}, "drawn tissue: got image size 12, wants at least 16"),
        ({"groups": 0}, "drawn tissue: got groups 0, wants at least 1"),
    ],
)
def test_what_cannot_be_drawn_is_said(options, sentence):
    with pytest.raises(UserError, match=sentence):
        draw_slides(**{"number": 4, "seed": 0} | options)
