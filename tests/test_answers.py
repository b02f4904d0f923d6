"""Answers: each is held against its own image, and nothing that is judged was learned from.

Most of these train nothing: what a network would say is given, and where it ends up is followed.
"""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn import recipe, reports, synthetic
from cnn.command_line import Recipe
from cnn.folds import Fold
from cnn.slides import Slides
from experiments import choose_recipe, cross_validate, leakage
from tests.checkers import assert_equal_arrays
from tests.test_honest_figures import PROBABILITY, SIZE, draw_folder, rows


@pytest.fixture(scope="module")
def sixteen(tmp_path_factory) -> Path:
    """Sixteen drawn images on disk."""
    return draw_folder(tmp_path_factory.mktemp("slides"))


def test_each_candidate_is_trained_as_it_is_called_and_tells_of_the_positive_class(monkeypatch):
    seen = []

    def fit_and_ask(settings, *arguments):
        seen.append((settings.model, settings.epochs))
        return np.array([[0.9, 0.1]])

    monkeypatch.setattr(choose_recipe.recipe, "fit_and_ask", fit_and_ask)
    settings = choose_recipe.Settings(epochs=8)
    said = [choose_recipe.ask(None, None, settings, name, None, None, 0, print) for name in choose_recipe.CANDIDATES]
    assert said == [[0.1]] * 6
    changed = ["tissue-mean", "tissue-haematoxylin", "tissue-stains", "tissue-colours"]
    assert seen == [("tissue", 8), *((name, 8) for name in changed), ("tissue", 4)]


def test_an_image_is_judged_by_the_mean_over_its_squares_which_stay_on_one_side(monkeypatch):
    seen = {}

    def fit_and_ask(settings, images, labels, classes, known, asked, seed, report):
        seen.update(pixels=images.ravel().tolist(), labels=labels.tolist(), known=known.tolist(), asked=asked.tolist())
        malignant = np.array([0.2, 0.4, 0.9, 0.7])
        return np.stack([1 - malignant, malignant], axis=1)

    monkeypatch.setattr(cross_validate.recipe, "fit_and_ask", fit_and_ask)
    shown, labels = np.arange(6).reshape(3, 2, 1, 1, 1), np.array([0, 1, 1])
    ask = (shown, labels, cross_validate.Settings(), np.array([0]), np.array([1, 2]), 7)
    assert cross_validate.ask_network(*ask, False, print) == pytest.approx([0.3, 0.8])
    assert seen == {"pixels": [*range(6)], "labels": [0, 0, 1, 1, 1, 1], "known": [0, 1], "asked": [2, 3, 4, 5]}


def test_each_method_is_held_against_its_own_images_and_each_network_has_its_own_seed(sixteen, tmp_path, monkeypatch):
    seeds, shapes = {True: [], False: []}, set()

    def ask(shown, labels, settings, known, asked, seed, shuffled, report):
        seeds[shuffled].append(seed)
        shapes.add(shown.shape)
        return [0.5] * len(asked) if shuffled else (0.1 + 0.8 * labels[asked]).tolist()

    monkeypatch.setattr(cross_validate, "ask_network", ask)
    options = {"data": sixteen, "group_pattern": r"(group\d+)_", "image_size": (128, 160), "positive": "benign"}
    settings = cross_validate.Settings(**options, folds=2, seeds=3, tissue_only=True, out=tmp_path / "run")
    bins = []
    monkeypatch.setattr(cross_validate.figures, "reliability", lambda path, found, title: bins.append(found))
    found = cross_validate.main(settings)["protocols"]
    assert [sum(one["n"] for one in found) for found in bins] == [16, 16], "each image once, though asked three times"
    assert shapes == {(16, 8, 128, 128, 3)}, "squares of tissue"
    for judged in found.values():
        assert judged["methods"]["network"]["accuracy"]["value"] == 1
        assert judged["methods"]["network"]["brier"] == pytest.approx(0.1**2)
        assert judged["methods"]["network, shuffled labels"]["brier"] == 0.25
    written = rows(tmp_path / "run" / "predictions.csv")
    for row in written:
        if row["method"] == "network":
            assert float(row["probability of benign"]) == pytest.approx(0.9 if row["label"] == "benign" else 0.1)
    one, other = (
        [r["probability of benign"] for r in written if r["method"] == f"histogram, C = {c}"] for c in (0.05, 0.5)
    )
    assert one != other
    assert seeds[False] == [0, 1, 2, 3, *(0, 1, 100, 101, 200, 201)], "four groups, and three cuts in two folds"


def test_each_cut_is_another_one():
    labels, groups = np.tile([0, 1], 10), tuple(f"day{i % 4}" for i in range(20))
    found = cross_validate.protocols(labels, groups, np.arange(20), cross_validate.Settings(folds=2, seeds=3))[
        "2-fold x 3"
    ]
    assert len({cut[0].test.tobytes() for cut in found}) == 3


def test_with_shuffled_labels_another_network_is_trained(monkeypatch):
    learned = []

    def fit_and_ask(settings, images, labels, classes, known, asked, seed, report):
        learned.append(labels.tolist())
        return np.full((len(asked), 2), 0.5)

    monkeypatch.setattr(cross_validate.recipe, "fit_and_ask", fit_and_ask)
    labels, known, asked = np.tile([0, 1], 10), np.arange(16), np.arange(16, 20)
    shown = np.zeros((20, 1, 1, 1, 3), np.uint8)
    for shuffled, seed in ((False, 0), (True, 0), (True, 1)):
        cross_validate.ask_network(shown, labels, cross_validate.Settings(), known, asked, seed, shuffled, print)
    assert learned[0] == labels.tolist()
    assert len({tuple(one[:16]) for one in learned}) == 3, "every training has a shuffle of its own"
    assert all(sum(one[:16]) == 8 and one[16:] == [0, 1, 0, 1] for one in learned)


def test_what_needs_no_network_learns_from_the_others_alone_too():
    data = synthetic.draw_slides(16, seed=5, size=(24, 32), groups=4)
    known, asked = np.arange(10), np.arange(10, 16)
    arguments = data.groups, [[Fold(known, asked)]], False
    before = cross_validate.ask_baselines(data.images[:, None], data.labels, *arguments)
    labels, pictures = data.labels.copy(), data.images.copy()
    labels[asked], pictures[asked[1:]] = 1 - labels[asked], 255 - pictures[asked[1:]]
    after = cross_validate.ask_baselines(pictures[:, None], labels, *arguments)
    for method, said in before.items():
        assert after[method][0, asked[0]] == said[0, asked[0]], method


def test_under_every_split_a_network_takes_as_many_steps_and_its_last_weights_answer():
    data, said = synthetic.draw_slides(16, seed=5, size=SIZE), {}
    for epochs in (1, 2):
        settings = leakage.Settings(image_size=SIZE, epochs=epochs, per_epoch=8, batch=4)
        for many in (4, 12):
            shares = []
            asked = np.arange(12, 16)
            said[epochs, many] = leakage.ask(data.images, data.labels, settings, np.arange(many), asked, shares.append)
            assert shares == [(i + 1) / (2 * epochs) for i in range(2 * epochs)]
    assert said[1, 4] != said[2, 4]
    small = jnp.array([1e-6])
    optimizer, *_ = leakage.compiled(settings, 2)
    step, _ = optimizer.update(small, optimizer.init(small), small)
    assert step.item() == pytest.approx(-0.001 * 1e-6 / (1e-6 + 1e-7 / math.sqrt(0.001)), rel=1e-3)


def test_what_is_said_under_three_splits_is_held_against_its_own_image_resumed_or_not(sixteen, tmp_path, monkeypatch):
    monkeypatch.setattr(leakage, "ask", lambda i, labels, s, known, asked, report: np.eye(2)[labels[asked]].tolist())
    sizes = {"drawing_size": (40, 50), "image_size": SIZE, "folds": 2, "draws": 20}
    out = tmp_path / "leak"
    metrics = leakage.main(leakage.Settings(data=sixteen, group_pattern=r"(group\d+)_", **sizes, out=out))
    assert [judged["accuracy"]["value"] for judged in metrics["splits"].values()] == [1, 1, 1]
    assert metrics["splits"][leakage.LEAKY]["n"] == math.ceil(0.2 * (16 + 2 * 20 - metrics["copies_overwritten"]))
    for row in rows(out / "predictions.csv"):
        assert float(row[PROBABILITY]) == (row["label"] == "malignant")
    before = (out / "predictions.csv").read_bytes()
    monkeypatch.setattr(leakage, "ask", None)  # all is done already
    leakage.main(leakage.Settings(resume=out))
    assert (out / "predictions.csv").read_bytes() == before, "the splits are the same again"


def test_the_mistakes_that_are_shown_are_the_test_images(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(reports.figures, "gallery", lambda path, pictures, captions, title: shown.append(captions))
    names = tuple(f"{i}.png" for i in range(6))
    slides = Slides(np.zeros((6, 4, 6, 3), np.uint8), np.zeros(6, np.int32), names, names, ("benign", "malignant"))
    for p in ([0, 0, 0, 0, 0.6, 0.8], [0, 0, 0, 0, 0.2, 0.4]):  # of malignant; image 4 and 5 are judged
        reports.draw_mistakes(tmp_path / "m.png", slides, np.array([4, 5]), np.stack([1 - np.array(p), p], axis=1))
    assert [[caption.split("\n")[0] for caption in captions] for captions in shown] == [["5.png", "4.png"]] * 2


def test_attention_is_told_as_times_its_equal_share(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(reports.figures, "attention", lambda path, pictures, shares, *texts: seen.append(shares))
    network = recipe.network(Recipe(image_size=(32, 48)), 2, jax.random.key(0))
    pictures = synthetic.draw_slides(2, seed=0, size=(32, 48)).images
    reports.draw_attention(tmp_path / "a.png", network, nnx.state(network), pictures, ["", ""])
    assert_equal_arrays(seen[0].mean((1, 2)), [1, 1], "of 2 x 3 places")
