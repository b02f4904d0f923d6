"""Every experiment runs, in a setting of seconds, and leaves the files that it promises; mistakes are one sentence."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cnn import images, synthetic
from cnn.errors import UserError
from experiments import convolution_four_ways, predict, reproduce_blog, train

ROOT = Path(__file__).parents[1]
SIZE = (24, 32)
REPORT = {"config.json", "metrics.json", "history.csv", "predictions.csv", "weights.npz"}
REPORT |= {"curves.png", "confusion.png", "mistakes.png", "scores.png"}


def draw_folder(root: Path) -> Path:
    """Forty drawn images of 40 x 50 pixels on disk, in two formats, a sub-folder for each class."""
    data = synthetic.draw_slides(40, seed=5, size=(40, 50), groups=8)
    for i, image in enumerate(data.images):
        path = root / data.classes[data.labels[i]] / f"{data.groups[i]}_{i:02d}.png"
        path.parent.mkdir(exist_ok=True)
        if i % 3 == 0:
            path.with_suffix(".jpg").write_bytes(images.encode_jpeg(image))
        else:
            images.write_png(path, image)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Forty drawn images."""
    return draw_folder(tmp_path_factory.mktemp("slides"))


def trained(out: Path, **settings) -> tuple[dict, Path]:
    """A network trained for a moment on drawn tissue."""
    options = {"drawn": 40, "epochs": 2, "per_epoch": 1, "image_size": SIZE, "out": out} | settings
    return train.main(train.Settings(**options)), out


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a finished run."""
    return trained(tmp_path_factory.mktemp("runs") / "run")[1]


def rows(path: Path) -> list[dict]:
    """A CSV file as dictionaries."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_settings_figures_predictions_weights_and_pictures(run):
    assert {path.name for path in run.iterdir()} == REPORT | {"samples.png", "attention.png", "checkpoints", ".lock"}
    config = json.loads((run / "config.json").read_text())
    assert config["settings"]["seed"] == 0
    assert config["settings"]["image_size"] == list(SIZE)
    assert config["network"]["classes"] == ["benign", "malignant"]
    assert [row["epoch"] for row in rows(run / "history.csv")] == ["1", "2"]


def test_every_image_is_predicted_once_and_no_group_is_on_two_sides(run):
    predictions = rows(run / "predictions.csv")
    assert len({row["name"] for row in predictions}) == len(predictions) == 40
    sides = {(row["group"], row["split"]) for row in predictions}
    assert len(sides) == len({group for group, _ in sides}), f"a group on two sides: {sorted(sides)}"


def test_the_figures_can_be_recomputed_from_the_predictions(run):
    metrics = json.loads((run / "metrics.json").read_text())
    for split, judged in metrics["splits"].items():
        chosen = [row for row in rows(run / "predictions.csv") if row["split"] == split]
        right = sum((float(row["probability of malignant"]) > 0.5) == (row["label"] == "malignant") for row in chosen)
        assert (judged["accuracy"]["k"], judged["accuracy"]["n"]) == (right, len(chosen))
        assert np.sum(judged["confusion_matrix"]) == judged["n"] == len(chosen)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(run, tmp_path):
    _, again = trained(tmp_path / "again")
    _, other = trained(tmp_path / "other", seed=1)
    for name in ("weights.npz", "predictions.csv", "samples.png"):
        assert (run / name).read_bytes() == (again / name).read_bytes(), f"{name} differs"
        assert (run / name).read_bytes() != (other / name).read_bytes(), f"{name} ignores the seed"
    first, second = (json.loads((path / "metrics.json").read_text())["splits"] for path in (run, again))
    assert first == second


def test_a_folder_of_mixed_formats_is_trained_on_by_group(folder, tmp_path, capsys):
    metrics, _ = trained(tmp_path / "run", data=folder, group_pattern=r"(group\d+)_", model="wbc", fit="pad", epochs=1)
    assert sum(judged["n"] for judged in metrics["splits"].values()) == 40
    text = capsys.readouterr().out
    assert text.startswith("train | device: cpu")
    assert text.rstrip().endswith(f"python -m experiments.predict {tmp_path / 'run'} IMAGE...")
    groups = {row["group"] for row in rows(tmp_path / "run" / "predictions.csv")}
    assert len(groups) == 8


def test_a_trained_run_classifies_new_images(run, folder, tmp_path, capsys):
    chosen = sorted((folder / "benign").iterdir())[:3]
    got = predict.main(predict.Settings(run=run, images=tuple(chosen), out=tmp_path / "p"))
    assert [Path(name).name for name, _, _ in got] == [path.name for path in chosen]
    assert {path.name for path in (tmp_path / "p").iterdir()} == {
        *("predictions.csv", "predictions.png", "attention.png")
    }
    assert all((p > 0.5) == (name == "malignant") for _, name, p in got)
    assert "probability of malignant" in capsys.readouterr().out


def test_a_run_predicts_what_its_own_report_says(run, tmp_path):
    data = synthetic.draw_slides(40, seed=0, size=SIZE)
    images.write_png(tmp_path / "image.png", data.images[7])
    (_, _, got) = predict.main(predict.Settings(run=run, images=(tmp_path / "image.png",)))[0]
    reported = next(row for row in rows(run / "predictions.csv") if row["name"] == data.names[7])
    assert got == pytest.approx(float(reported["probability of malignant"]), rel=1e-4)


def test_the_blog_is_reproduced_leak_and_all(folder, tmp_path, capsys):
    settings = reproduce_blog.Settings(
        data=folder, draws=60, epochs=1, drawing_size=(40, 50), image_size=SIZE, out=tmp_path / "blog"
    )
    metrics = reproduce_blog.main(settings)
    assert {path.name for path in settings.out.iterdir()} == REPORT | {"leak.png"}
    total = sum(judged["n"] for judged in metrics["splits"].values())
    assert total == 40 + 2 * 60 - metrics["copies_overwritten"]
    assert metrics["test_images_with_sibling_in_training"] > 0.8 * metrics["splits"]["test"]["n"]
    text = " ".join(capsys.readouterr().out.split())
    assert "have a sibling in training" in text
    assert "split before augmenting" in text


def test_a_convolution_is_taken_four_ways_that_agree(tmp_path, capsys):
    settings = convolution_four_ways.Settings(sizes=(4, 6), channels=2, batch=1, repeats=1, out=tmp_path / "four")
    seconds = convolution_four_ways.main(settings)
    assert set(seconds) == {"loops", "matrix product", "Fourier", "XLA", "the layers'"}
    assert all(value > 0 for values in seconds.values() for value in values)
    files = {"by_hand.png", "times.png", "times.csv", "config.json"}
    assert {path.name for path in settings.out.iterdir()} == files
    text = capsys.readouterr().out
    assert "1*1 + 2*0 + 0*-1 + 3*2 + 1*0 + 2*-2 + 0*1 + 2*0 + 4*-1 = -1" in text


def call(*arguments: object) -> subprocess.CompletedProcess:
    """An experiment as a user starts it."""
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("module", sorted(path.stem for path in (ROOT / "experiments").glob("[a-z]*.py")))
def test_help_answers_and_names_the_options_that_all_experiments_have(module):
    result = call(f"experiments.{module}", "--help")
    assert result.returncode == 0
    assert f"usage: python -m experiments.{module}" in result.stdout
    for option in ("--seed", "--out", "--device"):
        assert option in result.stdout


def make_folder(root: Path, **files: list[str]) -> Path:
    """A folder with a sub-folder of tiny images for each class; a name ending in .txt.tif is made of text."""
    for label, names in files.items():
        (root / label).mkdir(parents=True)
        for number, name in enumerate(names):
            if name.endswith("text.tif"):
                (root / label / name).write_text("no image")
            else:
                image = np.full((8, 8, 3), 40 * number + len(label), np.uint8)
                images.write_png(root / label / name, image)
    return root


FOUR = ["a.png", "b.png", "c.png", "d.png"]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (None, "absent"),
        ({"benign": FOUR, "malignant": []}, "malignant"),
        ({"benign": FOUR}, "class"),
        ({"benign": FOUR, "malignant": [*FOUR, "text.tif"]}, "text.tif"),
    ],
    ids=["a wrong folder", "an empty class", "one class", "a text file named .tif"],
)
def test_a_bad_folder_is_answered_by_what_is_wrong_with_it(tmp_path, files, sentence):
    data = tmp_path / "absent" if files is None else make_folder(tmp_path / "data", **files)
    with pytest.raises(UserError, match=sentence):
        trained(tmp_path / "run", data=data)
    assert not (tmp_path / "run").exists(), "a run that cannot start leaves no folder"


def test_an_image_of_one_pixel_is_enlarged_like_any_other(tmp_path):
    data = make_folder(tmp_path / "data", benign=FOUR, malignant=FOUR)
    images.write_png(data / "benign" / "e.png", np.full((1, 1, 3), 200, np.uint8))
    metrics, _ = trained(tmp_path / "run", data=data, epochs=1)
    assert sum(judged["n"] for judged in metrics["splits"].values()) == 9


def test_an_image_size_that_the_network_cannot_take_is_refused_before_the_run(tmp_path):
    data = make_folder(tmp_path / "data", benign=FOUR, malignant=FOUR)
    with pytest.raises(UserError, match="layer 1, max pool 2 x 2, of a network for 3 x 3 x 3 images"):
        trained(tmp_path / "run", data=data, image_size=(3, 3), model="seed")
    assert not (tmp_path / "run").exists()


def test_a_user_sees_one_line_and_exit_status_2_and_no_traceback(tmp_path):
    result = call("experiments.train", "--data", tmp_path / "absent", "--out", tmp_path / "run")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert str(tmp_path / "absent") in result.stderr


def test_an_existing_folder_is_refused_before_any_work(tmp_path):
    with pytest.raises(UserError, match="exists already"):
        trained(tmp_path)


def test_a_folder_that_is_no_run_cannot_predict(tmp_path):
    with pytest.raises(UserError, match=r"holds no config\.json"):
        predict.main(predict.Settings(run=tmp_path, images=(tmp_path / "a.png",)))


def test_a_run_that_keeps_no_network_cannot_predict_and_is_called_by_its_name(tmp_path):
    (tmp_path / "config.json").write_text('{"experiment": "cross_validate"}')
    with pytest.raises(UserError, match="is a run of cross_validate, which keeps no network; give the folder of a tr"):
        predict.main(predict.Settings(run=tmp_path, images=(tmp_path / "a.png",)))
    for damaged in ('{"network": {}}', "[]"):
        (tmp_path / "config.json").write_text(damaged)
        with pytest.raises(UserError, match=r"config\.json: is damaged, or of another version"):
            predict.main(predict.Settings(run=tmp_path, images=(tmp_path / "a.png",)))


def test_many_images_are_not_all_drawn_into_one_picture_and_white_ones_are_told_of(run, tmp_path, monkeypatch, capsys):
    image = np.full((24, 32, 3), 250, np.uint8)
    for i in range(5):
        images.write_png(tmp_path / f"{i}.png", image)
    drawn = {}
    monkeypatch.setattr(predict, "SHOWN", 3)
    monkeypatch.setattr(
        predict.figures, "gallery", lambda path, *what: drawn.update(zip(("images", "said", "title"), what))
    )
    said = predict.main(predict.Settings(run=run, images=(tmp_path,), out=tmp_path / "out"))
    assert (len(said), len(drawn["images"]), len(drawn["said"])) == (5, 3, 3)
    assert drawn["title"] == "5 images and what the network says, the first 3"
    assert "2.png and 2 more" in " ".join(capsys.readouterr().out.split())


def test_a_finished_run_goes_on_with_more_images_and_none_changes_its_part(folder, tmp_path, capsys):
    slides = tmp_path / "slides"
    shutil.copytree(folder, slides)
    options = {"data": slides, "group_pattern": r"(group\d+)", "per_epoch": 40, "batch": 8, "model": "seed"}
    _, run = trained(tmp_path / "run", epochs=1, skip_bad=True, **options)
    before = json.loads((run / "config.json").read_text())["splits"]
    tested = slides / before["test"][0]
    new, other = np.random.default_rng(0).integers(0, 255, (2, 40, 50, 3), dtype=np.uint8)
    images.write_png(tested.with_name(f"{tested.stem.split('_')[0]}_99.png"), new)  # of a group that judges
    images.write_png(slides / "benign" / "group77_00.png", other)
    (slides / "benign" / "group77_01.png").write_text("no picture")
    change = {"resume": run, "epochs": 2, "allow_change": ("data", "epochs")}
    train.main(train.Settings(**change))
    after = json.loads((run / "config.json").read_text())["splits"]
    assert {part: set(after[part]) - set(before[part]) for part in after} == {
        "training": {"benign/group77_00.png"},
        "validation": set(),
        "test": {tested.with_name(f"{tested.stem.split('_')[0]}_99.png").relative_to(slides).as_posix()},
    }
    assert all(set(before[part]) <= set(after[part]) for part in after)
    assert len(rows(run / "history.csv")) == 2
    assert [Path(row["file"]).name for row in rows(run / "skipped.csv")] == ["group77_01.png"]
    assert f"left out 1 bad file: see {run / 'skipped.csv'}" in capsys.readouterr().out
    for i in range(60):
        images.write_png(slides / "benign" / f"group78_{i:02d}.png", np.roll(other, i + 1, axis=1))
    with pytest.raises(UserError, match=r"^--data: with \d+ training images, not \d+, an epoch would be .* not 5"):
        train.main(train.Settings(**change | {"epochs": 3}))


@pytest.mark.parametrize("option", ["epochs", "batch", "patience", "per_epoch"])
def test_a_setting_that_cannot_be_names_its_option(option):
    with pytest.raises(UserError, match=f"--{option.replace('_', '-')}: got 0, wants at least 1"):
        train.Settings(**{option: 0})


def test_the_real_slides_are_read_split_and_judged(ucsb, tmp_path):
    metrics, run = trained(tmp_path / "run", data=ucsb, epochs=1)
    assert sum(judged["n"] for judged in metrics["splits"].values()) == 58
    assert len({row["group"] for row in rows(run / "predictions.csv")}) == 10
