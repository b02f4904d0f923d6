"""Drawn tissue: form says all and colour nothing, and both are shown. Next: test_optimizer.py.

A network that tells these images apart has learned shapes, because there is nothing else to learn: the colours of an
image are drawn before its class is known, and imposed on the scene pixel by pixel.
"""

import numpy as np
import pytest
from scipy.ndimage import label, map_coordinates
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cnn import tissue
from cnn.dyes import STAINS
from cnn.errors import UserError
from cnn.synthetic import draw_slides
from cnn.tissue import LINING, THIN, Look, between

BENIGN, MALIGNANT = 0, 1


@pytest.fixture(scope="module")
def slides():
    """Four hundred images as the main job draws them."""
    return draw_slides(400, seed=1)


def generator(purpose: int) -> np.random.Generator:
    """Independent random numbers for each purpose."""
    return np.random.Generator(np.random.PCG64([7, purpose]))


def draw_scene(kind: int, number: int) -> tuple[Look, tissue.Scene, np.ndarray]:
    """A look, and the scene and the field of a class drawn for it: 120 x 160, from the random numbers of `number`."""
    look = tissue.draw_look(generator(number), tissue.draw_stain(generator(1000)))
    rng = generator(2000 + number)
    y, x = tissue.coordinates(rng, (120, 160))
    scene = (tissue.benign_scene, tissue.malignant_scene)[kind](rng, look, y, x, 0.7)
    return look, scene, tissue.structure(rng, scene, y, x, 0.7)


# ------------------------------------------------------------------------------------------- colour says nothing at all


def histogram(image: np.ndarray) -> np.ndarray:
    """What a classifier of colours sees: 16 bins of red, green and blue, and seven percentiles of haematoxylin."""
    bins = [np.histogram(image[..., channel], 16, (0, 256))[0] / image[..., channel].size for channel in range(3)]
    density = -np.log(np.maximum(image / 255, 1 / 255)).reshape(-1, 3)
    haematoxylin = (density @ np.linalg.inv(STAINS))[:, 0]
    return np.concatenate([*bins, np.percentile(haematoxylin, [5, 10, 25, 50, 75, 90, 95])])


def auc_of_colour(features: np.ndarray, labels: np.ndarray, strength: float) -> float:
    """The area under the curve of logistic regression, each image judged by one that has not seen it."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=5000))
    folds = StratifiedKFold(4, shuffle=True, random_state=0)
    scores = cross_val_predict(classifier, features, labels, cv=folds, method="predict_proba")[:, 1]
    return roc_auc_score(labels, scores)


def test_a_histogram_of_colours_cannot_tell_the_classes_apart_but_would_if_one_were_paler(slides):
    features = np.stack([histogram(image) for image in slides.images])
    for strength in (0.05, 0.5):
        area = auc_of_colour(features, slides.labels, strength)
        assert area <= 0.65, f"colour tells the classes apart: AUC {area:.3f} at C = {strength}"
    paler = slides.images.copy()
    paler[slides.labels == MALIGNANT, :6] = 240  # 5 % of each malignant image is made white
    features = np.stack([histogram(image) for image in paler])
    assert auc_of_colour(features, slides.labels, 0.5) > 0.9


def test_neither_can_the_share_of_white_nor_of_dark_nor_the_brightness(slides):
    white, dark = (slides.images > 200).all(-1), slides.images[..., 0] < 110
    for name, score in (("white", white), ("dark", dark), ("brightness", slides.images.mean(-1))):
        area = roc_auc_score(slides.labels, score.mean((1, 2)))
        assert 0.4 < area < 0.6, f"{name} tells the classes apart: AUC {area:.3f}"


def test_the_same_look_gives_both_classes_the_same_light_to_the_last_bit():
    look, _, benign = draw_scene(BENIGN, 1)
    same, _, malignant = draw_scene(MALIGNANT, 1)
    assert (look.white, look.nuclei) == (same.white, same.nuclei)
    light = [tissue.colour(field, look).reshape(-1, 3) for field in (benign, malignant)]
    assert (light[BENIGN] != light[MALIGNANT]).any(-1).mean() > 0.5, "the scenes are the same"
    for channel in range(3):
        assert np.array_equal(*(np.sort(part[:, channel]) for part in light))


def test_the_lowest_share_of_a_field_becomes_white_and_the_highest_nuclei():
    # haematoxylin takes away red only, and eosin green only: a look to read the amounts off
    look = Look(white=0.2, nuclei=0.3, stains=np.array([[1.0, 0, 0], [0, 1.0, 0]]), brightness=0.9)
    field = np.random.default_rng(0).permutation(1000).reshape(20, 50)
    light = tissue.colour(field, look)
    assert light.shape == (20, 50, 3)
    assert np.all(light[..., 2] == 0.9)  # bare glass
    assert light[field == 0] == pytest.approx(np.array([[0.9, 0.9 * np.exp(-0.02), 0.9]]), abs=0.03)
    assert light[field == 999][0, 0] == pytest.approx(0.9 * np.exp(-1.45))
    assert np.all(np.diff(light[..., 0].ravel()[np.argsort(field.ravel())]) <= 0), "higher is darker"
    assert (light[..., 1] > 0.9 * np.exp(-0.16)).mean() == pytest.approx(0.2, abs=0.005)  # half-way to collagen: 0.16
    assert (light[..., 0] < 0.9 * np.exp(-0.58)).mean() == pytest.approx(0.3, abs=0.005)  # half-way to a nucleus: 0.58


def test_the_scenes_have_the_wanted_shares_before_they_are_imposed():
    # else the ranks would eat into nuclei, or paint collagen white
    for kind in (BENIGN, MALIGNANT):
        for number in range(8):
            look, scene, _ = draw_scene(kind, number)
            assert (scene.empty < 0).mean() == pytest.approx(look.white, abs=0.01)
            assert (scene.nuclei < 0).mean() == pytest.approx(look.nuclei, rel=0.12)


# --------------------------------------------------------------------------------------------------- form says it all


def test_a_lumen_is_lined_with_nuclei_and_a_crack_is_not():
    def lined(kind: int, number: int) -> float:
        _, scene, _ = draw_scene(kind, number)
        return (scene.nuclei < 0)[np.abs(scene.empty - LINING) < 1].mean()

    assert min(lined(BENIGN, number) for number in range(8)) > 0.7
    assert max(lined(MALIGNANT, number) for number in range(8)) < 0.6


def test_nuclei_are_small_and_even_in_one_class_and_large_and_uneven_in_the_other():
    duct = np.array([40.0, 50.0, 12.0, 9.0, 0.3])
    small = np.pi * np.prod(tissue.line_ducts(generator(0), duct[None], 4.5)[:, 2:4], axis=1)
    room = np.ones((120, 160), bool)
    y, x = tissue.coordinates(generator(1), room.shape)
    large = np.pi * np.prod(tissue.place_crowd(generator(2), room, y, x, room.size, 4000)[:, 2:4], axis=1)
    assert small.max() < large.min()
    assert small.mean() == pytest.approx(tissue.SMALL, rel=0.05)
    assert small.std() / small.mean() < 0.1 < 0.3 < large.std() / large.mean()
    assert large.sum() == pytest.approx(4000 / 0.95, rel=0.05)


def test_the_largest_dark_patches_show_the_class_in_the_finished_image(slides):
    largest = []
    for image in slides.images[:40]:
        pieces, _ = label(image[..., 0] < 0.55 * np.median(image[..., 0]))  # haematoxylin takes away red
        sizes = np.bincount(pieces.ravel())[1:]
        largest.append(np.percentile(sizes[sizes >= 5], 90))
    assert roc_auc_score(slides.labels[:40], largest) > 0.9


def test_the_nuclei_of_a_duct_are_evenly_spaced_around_it():
    duct = np.array([40.0, 50.0, 12.0, 8.0, 0.3])
    nuclei = tissue.line_ducts(generator(0), duct[None], 4.5)
    gaps = np.hypot(*np.diff(nuclei[:, :2], axis=0, append=nuclei[:1, :2]).T)
    assert 0.7 * 4.5 < gaps.min() <= gaps.max() < 1.3 * 4.5
    # the middle of each lies on one ellipse, about 4 outside the lumen
    radius = tissue.relative_radius(duct, nuclei[:, 0], nuclei[:, 1])
    assert (radius - 1) * np.sqrt(12 * 8) == pytest.approx(np.full(len(nuclei), LINING))


def test_the_distance_to_a_circle_is_the_distance_from_its_centre_less_its_radius():
    y, x = np.mgrid[:120, :160] + 0.5
    circle = np.array([[30.0, 70.0, 5.0, 5.0, 0.4]])
    distance = tissue.distance_to_ellipses(circle, y, x)
    near = distance < 3
    assert distance[near] == pytest.approx((np.hypot(y - 30, x - 70) - 5)[near])
    assert near.sum() == pytest.approx(np.pi * 8**2, rel=0.05)
    assert np.all(tissue.distance_to_ellipses(circle[:0], y, x) == tissue.FAR)


def test_a_thin_nucleus_lies_along_the_collagen_where_there_is_room():
    room = np.zeros((120, 160), bool)
    room[10:20, 30:60] = True
    y, x = np.mgrid[:120, :160] + 0.5
    nuclei = tissue.thin_nuclei(generator(0), room, y, x, 0.7, 50)
    assert nuclei[:, 0].min() > 10
    assert nuclei[:, 0].max() < 20
    assert nuclei[:, 4].mean() == pytest.approx(0.7 + np.pi / 2, abs=0.15)
    assert (np.pi * nuclei[:, 2] * nuclei[:, 3]).mean() == pytest.approx(THIN, rel=0.1)
    assert len(tissue.thin_nuclei(generator(0), room & False, y, x, 0.7, 50)) == 0


# ------------------------------------------------------------------------------------------------------------- the data


def test_the_first_ten_of_twenty_are_the_same_as_ten():
    ten, twenty = draw_slides(10, seed=3, size=(24, 32)), draw_slides(20, seed=3, size=(24, 32))
    assert np.array_equal(ten.images, twenty.images[:10])
    assert ten.names == twenty.names[:10]


def test_the_seed_decides_the_images():
    first, again, other = (draw_slides(4, seed=seed, size=(24, 32)).images for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_every_group_holds_both_classes_and_has_a_stain_of_its_own():
    slides = draw_slides(40, seed=0, size=(24, 32), groups=5)
    assert slides.names[6:8] == ("group03/benign-0006", "group03/malignant-0007")
    means = {}
    for group in sorted(set(slides.groups)):
        members = [i for i, name in enumerate(slides.groups) if name == group]
        assert slides.labels[members].tolist() == [BENIGN, MALIGNANT] * (40 // 5 // 2)
        means[group] = slides.images[members].reshape(-1, 3).mean(0)
    assert len(means) == 5
    assert np.std(list(means.values()), axis=0).max() > 3, f"all groups have one stain: {means}"


@pytest.mark.parametrize("size", [(16, 16), (17, 130), (130, 16), (60, 80)])
def test_any_size_from_16_pixels_can_be_drawn(size):
    slides = draw_slides(4, seed=0, size=size)
    assert (slides.images.shape, slides.images.dtype) == ((4, *size, 3), np.uint8)
    assert (slides.labels.tolist(), slides.labels.dtype) == ([0, 1, 0, 1], np.int32)
    assert (slides.classes, slides.images.std() > 10) == (("benign", "malignant"), True)


def test_a_larger_image_shows_the_same_ducts_with_more_pixels():
    small, large = (draw_slides(2, seed=0, size=size).images[0].astype(float) for size in ((60, 80), (120, 160)))
    shrunk = large.reshape(60, 2, 80, 2, 3).mean((1, 3))
    assert np.corrcoef(small.ravel(), shrunk.ravel())[0, 1] > 0.7


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"number": 1}, "drawn tissue: number is 1; give at least 2"),
        ({"size": (12, 40)}, r"drawn tissue: size is \(12, 40\); give at least 16"),
        ({"size": (40, 15)}, r"drawn tissue: size is \(40, 15\); give at least 16"),
        ({"groups": 0}, "drawn tissue: groups is 0; give at least 1"),
        ({"seed": -1}, "drawn tissue: seed is -1; give at least 0"),
    ],
)
def test_what_cannot_be_drawn_is_said(options, sentence):
    with pytest.raises(UserError, match=sentence):
        draw_slides(**{"number": 4, "seed": 0} | options)


# ------------------------------------------------------------------------------------------------------------- noise


def test_between_four_points_of_the_lattice_lies_their_mean_and_beyond_its_edge_it_repeats():
    lattice = generator(0).normal(size=(64, 64))
    once_more = np.pad(lattice, ((0, 1), (0, 1)), mode="wrap")
    y, x = generator(1).uniform(-200, 200, (2, 30, 40))
    want = map_coordinates(lattice, [y, x], order=1, mode="grid-wrap")
    assert np.abs(between(once_more, y, x) - want).max() < 1e-12
    assert between(once_more, np.array(3.5), np.array(63.5)) == pytest.approx(lattice[3:5][:, [63, 0]].mean())


def test_noise_has_mean_0_and_deviation_1_and_repeats_after_48():
    y, x = np.mgrid[:48:0.5, :48:0.5]
    fields = np.stack([tissue.noise(generator(i), y, x) for i in range(50)])
    assert fields.mean() == pytest.approx(0, abs=0.02)
    assert fields.std() == pytest.approx(1, abs=0.15)  # between its points it is their mean, so a little less
    again = np.stack([tissue.noise(generator(i), y + 48, x - 96) for i in range(50)])
    assert np.abs(again - fields).max() < 1e-4
    assert 0.3 < (fields[:, 2:] * fields[:, :-2]).mean() < 0.8, "not smooth over a length of 1"
    assert abs((fields[:, 8:] * fields[:, :-8]).mean()) < 0.1, "smooth over a length of 4"


def test_a_group_has_one_stain_and_every_seed_others(monkeypatch):
    stains, asked, draw, generator = [], [], tissue.draw_stain, tissue._generator
    monkeypatch.setattr(tissue, "draw_stain", lambda rng: stains.append(draw(rng)) or stains[-1])
    monkeypatch.setattr(tissue, "_generator", lambda *purpose: asked.append(purpose) or generator(*purpose))
    for number, seed in ((0, 0), (5, 0), (0, 1)):
        tissue.draw_image(number, seed=seed, size=(16, 16), groups=1)
    assert np.array_equal(stains[0][0], stains[1][0])
    assert not np.array_equal(stains[0][0], stains[2][0])
    assert len(set(asked)) == 9 - 1, "three purposes an image, each with numbers of its own but for the group's stain"


def test_a_camera_adds_noise_to_bare_glass():
    look = tissue.Look(0.1, 0.15, np.zeros((2, 3)), 0.9)
    image = tissue.draw_one(0, np.random.default_rng(0), (120, 160), look)
    assert image.astype(float).std() == pytest.approx(2.02, abs=0.1)
