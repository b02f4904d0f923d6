"""The experiments that ask how far a figure can be believed: three splits of one set, and cross-validation."""

import csv
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cnn import evaluation, images, synthetic
from cnn.errors import UserError
from experiments import choose_recipe, cross_validate, leakage

ROOT = Path(__file__).parents[1]
SIZE = (24, 32)
PROBABILITY = "probability of malignant"  # the name of a column


def draw_folder(root: Path) -> Path:
    """Sixteen drawn images on disk in four groups, two of each class in each."""
    data = synthetic.draw_slides(16, seed=5, size=(40, 50), groups=4)
    for i, image in enumerate(data.images):
        path = root / data.classes[data.labels[i]] / f"{data.groups[i]}_{i:02d}.png"
        path.parent.mkdir(exist_ok=True)
        images.write_png(path, image)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Sixteen drawn images."""
    return draw_folder(tmp_path_factory.mktemp("slides"))


def rows(path: Path) -> list[dict]:
    """A CSV file as dictionaries."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# What a network may know


def leaky_answer(images, labels, known, asked):
    settings = leakage.Settings(image_size=SIZE, epochs=1, per_epoch=8, batch=4)
    return leakage.ask(images, labels, settings, known, asked, print)


def validated_answer(images, labels, known, asked, shuffled=False):
    settings = cross_validate.Settings(image_size=SIZE, epochs=1, per_epoch=8, batch=4)
    return cross_validate.ask_network(images[:, None], labels, settings, known, asked, 0, shuffled, report=print)


ASKED = {"leakage": leaky_answer, "cross-validation": validated_answer}
ASKED["shuffled labels"] = partial(validated_answer, shuffled=True)


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_what_is_left_out_has_no_part_in_the_training(ask, capsys):
    data = synthetic.draw_slides(16, seed=5, size=SIZE, groups=4)
    known = np.array([0, 1, 4, 5, 8, 9, 12, 13])
    asked = np.setdiff1d(np.arange(16), known)
    before = ask(data.images, data.labels, known, asked)
    images, labels = data.images.copy(), data.labels.copy()
    labels[asked] = 1 - labels[asked]
    images[asked[1:]] = 255 - images[asked[1:]]
    after = ask(images, labels, known, asked)
    assert after[0] == before[0], "other labels and neighbours among the images left out: the same answer, to the bit"
    assert after[1] != before[1]
    for one in known:  # and each image that it learns from has its say
        images = data.images.copy()
        images[one] = 255 - images[one]
        assert ask(images, data.labels, known, asked)[0] != before[0], f"image {one} was not learned from"


# Leakage


def test_only_the_leaky_split_has_copies_of_its_test_images_in_training(folder, tmp_path, capsys):
    settings = leakage.Settings(
        data=folder,
        group_pattern=r"(group\d+)_",
        draws=80,
        epochs=1,
        per_epoch=32,
        folds=2,
        drawing_size=(40, 50),
        image_size=SIZE,
        out=tmp_path / "leak",
    )
    metrics = leakage.main(settings)
    leaky, by_image, by_group = (
        metrics["splits"][name] for name in (leakage.LEAKY, leakage.BY_IMAGE, leakage.BY_GROUP)
    )
    assert leaky["copy_in_training"] == leaky["n"] > 16
    assert (by_image["n"], by_image["copy_in_training"]) == (16, 0)
    assert by_image["group_in_training"] > 0, "a neighbour of a test image may be learned from"
    assert (by_group["n"], by_group["copy_in_training"], by_group["group_in_training"]) == (16, 0, 0)
    assert {path.name for path in settings.out.iterdir()} == {
        *("config.json", "metrics.json", "predictions.csv", "leakage.png", "networks", ".lock")
    }
    assert len(rows(settings.out / "predictions.csv")) == leaky["n"] + 32
    assert "5 networks to train, 1 at a time" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ahead", "said", "so"),
    [
        (60, "40.0 points [16.0, 68.7]", "It is what the network had learned by heart"),
        (8, "20.0 points [-18.7, 52.1]", "It may be chance"),
        (0, "-60.0 points [-83.2, -20.1]", "It goes the other way"),
    ],
)
def test_the_text_says_what_the_table_says(ahead, said, so):
    row = {"n": 10, "copy_in_training": 0, "accuracy": evaluation.rate(6, 10)}
    leaky = {"copy_in_training": 10, "accuracy": evaluation.rate(ahead, 60 if ahead == 60 else 10)}
    text = leakage.explain({leakage.LEAKY: row | leaky, leakage.BY_IMAGE: row, leakage.BY_GROUP: row})
    assert f"The difference is {said}" in text
    assert so in text
    assert "10 of the 10 test images have a copy" in text
    assert "(6 of 10)" in text


# Choosing


def test_no_image_has_a_say_in_the_choice_for_its_own_fold(folder, tmp_path, monkeypatch, capsys):
    known_by_seed = {}

    def ask(images, labels, settings, name, known, asked, seed, report):
        assert not {data.groups[i] for i in known} & {data.groups[i] for i in asked}
        known_by_seed[seed] = set(known.tolist())
        return np.where(labels[asked] == 1, 0.9, 0.2).tolist() if name == "the recipe" else [0.5] * len(asked)

    settings = choose_recipe.Settings(
        data=folder, group_pattern=r"(group\d+)_", folds=4, image_size=SIZE, out=tmp_path / "run"
    )
    data, _ = choose_recipe.recipe.read_slides(settings, Console(quiet=True))
    monkeypatch.setattr(choose_recipe, "ask", ask)
    metrics = choose_recipe.main(settings)
    assert len(known_by_seed) == 4 * 3 / 2, "one network for each pair of folds"
    assert all(len(known) == 16 / 2 for known in known_by_seed.values())
    assert metrics["chosen"] == ["the recipe"] * 4
    for one in metrics["candidates"]["the recipe"]:
        assert (one["auc"], one["accuracy"]["k"], one["accuracy"]["n"]) == (1.0, 12, 12)
        assert one["loss"] == pytest.approx(-(np.log(0.9) + np.log(0.8)) / 2)
    written = rows(tmp_path / "run" / "predictions.csv")
    for row in written:
        if row["candidate"] == "the recipe":
            assert float(row[PROBABILITY]) == (0.9 if row["label"] == "malignant" else 0.2), "in its own place"
    outer = {(row["name"], row["fold left out"]) for row in written}
    assert len(outer) == 16 * 3, "each image is judged for the three folds that are not its own"
    assert "All 4 folds, each without looking at its own images, choose: the recipe." in capsys.readouterr().out
    assert "do not agree: a (2 of 3), b (1 of 3)" in choose_recipe.verdict(["a", "b", "a"])


def test_a_candidate_is_the_recipe_with_one_part_changed():
    settings = choose_recipe.Settings(epochs=8)
    changes = {}
    for name in choose_recipe.CANDIDATES:
        changed = vars(choose_recipe.candidate(settings, name)).items() - vars(settings).items()
        changes[name] = dict(changed)
    assert changes.pop("the recipe") == {}
    assert all(len(change) == 1 for change in changes.values())
    assert changes["half as many steps"] == {"epochs": 4}


def test_other_networks_have_no_such_candidates(tmp_path):
    with pytest.raises(UserError, match=r"^--model: the candidates are variants of tissue, and seed is not"):
        choose_recipe.main(choose_recipe.Settings(model="seed", out=tmp_path / "run"))


def test_a_candidate_is_trained_and_asked(folder, tmp_path):
    settings = choose_recipe.Settings(
        data=folder, group_pattern=r"(group\d+)_", image_size=SIZE, epochs=1, per_epoch=8, batch=4
    )
    data, _ = choose_recipe.recipe.read_slides(settings, Console(quiet=True))
    known, asked = np.arange(8), np.arange(8, 16)
    said = choose_recipe.ask(data.images, data.labels, settings, "a plain mean, no attention", known, asked, 0, print)
    assert len(said) == 8
    assert all(0 < p < 1 for p in said)


# Cross-validation


def validated(folder: Path, out: Path, **more) -> dict:
    """A short cross-validation of the sixteen images."""
    options = {"epochs": 1, "per_epoch": 16, "batch": 8, "folds": 2, "seeds": 1, "image_size": SIZE}
    options |= {"data": folder, "group_pattern": r"(group\d+)_", "out": out}
    return cross_validate.main(cross_validate.Settings(**options | more))


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory) -> Path:
    """The folder of a finished cross-validation."""
    out = tmp_path_factory.mktemp("runs") / "run"
    validated(folder, out)
    return out


def test_every_image_is_judged_once_by_every_method(run):
    predictions = rows(run / "predictions.csv")
    methods = {row["method"] for row in predictions}
    assert methods == {
        *("network", "network, shuffled labels", "share of white", "group alone", "majority"),
        *("histogram, C = 0.05", "histogram, C = 0.5"),
    }
    for protocol in ("one group out", "2-fold x 1"):
        for method in methods:
            names = [row["name"] for row in predictions if (row["protocol"], row["method"]) == (protocol, method)]
            assert len(names) == len(set(names)) == 16
    assert all(0 <= float(row[PROBABILITY]) <= 1 for row in predictions)


def test_the_figures_can_be_recomputed_from_the_predictions(run):
    predictions = rows(run / "predictions.csv")
    for protocol, found in json.loads((run / "metrics.json").read_text())["protocols"].items():
        for method, judged in found["methods"].items():
            chosen = [row for row in predictions if (row["protocol"], row["method"]) == (protocol, method)]
            right = [(float(row[PROBABILITY]) > 0.5) == (row["label"] == "malignant") for row in chosen]
            assert (judged["accuracy"]["k"], judged["accuracy"]["n"]) == (sum(right), len(right))
            p, y = (
                np.array([float(row[PROBABILITY]) for row in chosen]),
                [row["label"] for row in chosen],
            )
            positive = np.array(y) == "malignant"
            pairs = p[positive][:, None] - p[~positive][None]
            assert judged["auc"]["value"] == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
            assert judged["auc"]["low"] <= judged["auc"]["value"] <= judged["auc"]["high"]
            assert judged["brier"] == pytest.approx(((p - positive) ** 2).mean())


def test_what_is_known_without_pixels_is_nothing_here(run):
    found = json.loads((run / "metrics.json").read_text())["protocols"]["one group out"]["methods"]
    assert found["majority"]["accuracy"]["k"] == found["group alone"]["accuracy"]["k"] == 8
    assert found["majority"]["auc"]["value"] == found["group alone"]["auc"]["value"] == 0.5


def test_a_finished_run_is_not_trained_again_and_a_stopped_one_goes_on(run, folder, tmp_path, monkeypatch):
    before = (run / "predictions.csv").read_bytes()
    piece = sorted((run / "networks").iterdir())[0]
    piece.unlink()
    asked = []
    ask = cross_validate.ask_network
    monkeypatch.setattr(cross_validate, "ask_network", lambda *a, **k: asked.append(a) or ask(*a, **k))
    cross_validate.main(cross_validate.Settings(resume=run))
    assert len(asked) == 1, "only the piece that was missing"
    assert (run / "predictions.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"epochs": 2}, "--epochs was 1 and is 2"),
        ({"seed": 4, "folds": 3}, "--folds was 2 and is 3"),
        ({"image_size": (24, 24)}, "--image-size was 24 32 and is 24 24"),
    ],
)
def test_a_run_does_not_go_on_with_other_settings(run, more, said):
    with pytest.raises(UserError, match="was begun with other settings") as error:
        cross_validate.main(cross_validate.Settings(resume=run, **more))
    assert said in str(error.value)


def test_ctrl_c_says_how_to_go_on_and_exits_with_130(monkeypatch, folder, tmp_path, capsys):
    def interrupt(*arguments, report):
        raise KeyboardInterrupt

    monkeypatch.setattr(cross_validate, "ask_network", interrupt)
    with pytest.raises(SystemExit) as stopped:
        validated(folder, tmp_path / "run")
    assert stopped.value.code == 130
    assert f"python -m experiments.cross_validate --resume {tmp_path / 'run'}" in capsys.readouterr().err


def test_many_groups_are_left_out_by_tens():
    labels, groups = np.tile([0, 1], 30), tuple(f"patient{i // 2}" for i in range(60))
    found = cross_validate.protocols(labels, groups, np.arange(60), cross_validate.Settings(folds=3, seeds=2))
    assert [(name, [len(cut) for cut in cuts]) for name, cuts in found.items()] == [
        ("groups, 10-fold", [10]),
        ("3-fold x 2", [3, 3]),
    ]


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_two_processes(folder, tmp_path):
    for name in ("a", "b"):
        command = [sys.executable, "-m", "experiments.cross_validate", "--data", folder, "--group-pattern"]
        command += [r"(group\d+)_", "--epochs", "1", "--per-epoch", "16", "--folds", "2", "--seeds", "1"]
        command += ["--image-size", "24", "32", "--jobs", "2", "--out", tmp_path / name]
        assert subprocess.run(list(map(str, command)), cwd=ROOT).returncode == 0
    assert (tmp_path / "a" / "predictions.csv").read_bytes() == (tmp_path / "b" / "predictions.csv").read_bytes()
