"""Options: each reaches what it stands for, and what comes of it is what its name says.

A setting that is read, written down and then forgotten is noticed by nobody: here each is followed to where it acts.
"""

import json
import math
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from cnn import command_line, images, recipe, reports, splits, synthetic, training
from cnn.augment import named
from cnn.command_line import Recipe
from cnn.errors import UserError
from cnn.layers import Dropout
from cnn.resuming import begin_or_resume, how_to_go_on, own_settings
from experiments import augmentations, cross_validate, predict, reproduce_blog, train
from tests.checkers import assert_equal_arrays
from tests.test_experiments import FOUR, SIZE, draw_folder, make_folder, rows, trained
from tests.test_slides import drawn
from tests.test_training import bytes_of

P = "probability of malignant"  # the name of a column


class Enough(Exception):
    """What was to be seen has been seen."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Forty drawn images on disk."""
    return draw_folder(tmp_path_factory.mktemp("slides"))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a finished run."""
    return trained(tmp_path_factory.mktemp("runs") / "run", model="wbc", augmentation="none")[1]


def test_an_epochs_figures_are_those_of_its_own_images_and_the_first_of_equals_is_kept(folder, tmp_path):
    # a rate of 0, no dropout, no augmentation: every epoch says what the report says, and the first is the best
    options = {"model": "wbc", "augmentation": "none", "learning_rate": 0.0, "dropout": 0.0, "epochs": 4, "patience": 1}
    metrics, out = trained(tmp_path / "run", data=folder, group_pattern=r"(group\d+)_", **options)
    history = rows(out / "history.csv")
    assert (len(history), metrics["epochs"], metrics["best_epoch"]) == (2, 2, 1)
    for part, prefix in (("training", ""), ("validation", "val_")):
        chosen = [row for row in rows(out / "predictions.csv") if row["split"] == part]
        right = np.array([float(r[P]) if r["label"] == "malignant" else 1 - float(r[P]) for r in chosen])
        assert float(history[0][f"{prefix}loss"]) == pytest.approx(-np.log(right).mean(), rel=1e-4)
        assert float(history[0][f"{prefix}accuracy"]) == pytest.approx((right > 0.5).mean())


def test_a_training_gets_the_options_of_the_command_line(tmp_path, monkeypatch):
    seen = {}

    def fit(console, network, training, validation, **options):
        seen.update(options, network=network)
        raise Enough

    monkeypatch.setattr(train.fitting, "fit", fit)
    monkeypatch.setattr(train.command_line, "choose_device", lambda *asked: seen.update(asked=asked) or "cpu")
    given = {"epochs": 5, "patience": 3, "batch": 8, "seed": 7, "per_epoch": 80, "debug_nans": True}
    with pytest.raises(Enough):
        trained(tmp_path / "run", **given, save_every=9.0, precision="bfloat16")
    assert {name: seen[name] for name in given} == given
    assert (seen["keeper"].every, seen["dtype"], seen["asked"]) == (9, jnp.bfloat16, ("auto", "bfloat16"))
    assert seen["augmentation"] is named("crop")
    data = synthetic.draw_slides(40, seed=7, size=SIZE)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["splits"]["test"] == [data.names[i] for i in splits.split_by_group(data, seed=7)["test"]]
    fresh = recipe.network(Recipe(image_size=SIZE), 2, training.keys_of(7).weights)
    assert bytes_of(nnx.state(seen["network"])) == bytes_of(nnx.state(fresh))


def test_the_optimizer_has_the_rate_the_schedule_and_the_decay_that_are_asked_for():
    # without a gradient a kernel of 8 loses rate * decay * 8; along half a cosine the rate is half after 1 of 2 steps
    tx = recipe.optimizer(Recipe(learning_rate=0.5, schedule="cosine", weight_decay=0.25), steps=2)
    kernel, lost = jnp.full((1, 1), 8.0), []
    state = tx.init(kernel)
    for _ in range(2):
        update, state = tx.update(jnp.zeros((1, 1)), state, kernel)
        lost.append(-update.item())
    assert lost == pytest.approx([0.5 * 0.25 * 8, 0.25 * 0.25 * 8])


def test_a_recipe_stands_for_its_augmentation_its_dropout_its_numbers_and_its_steps():
    asked = [{}, {"model": "seed"}, {"augmentation": "none"}, {"model": "seed", "augmentation": "seed"}]
    wanted = ["crop", "default", "none", "seed"]
    assert [recipe.augmentation(Recipe(**options)) for options in asked] == [named(name) for name in wanted]
    assert [recipe.dtype(Recipe(precision=p)) for p in ("float32", "tf32", "bfloat16")] == [
        *(jnp.float32, jnp.float32, jnp.bfloat16)
    ]
    network = recipe.network(Recipe(image_size=SIZE, dropout=0.25), 2, jax.random.key(0))
    assert [layer.rate for layer in network.layers if isinstance(layer, Dropout)] == [0.25]
    settings = train.Settings(epochs=3, per_epoch=40, batch=16)
    assert recipe.steps(settings, 24) == (40, 3 * 3)
    assert recipe.steps(settings, 50) == (50, 3 * 4), "each image at least once"


def test_images_are_read_or_drawn_as_the_options_say(monkeypatch, capsys):
    seen = {}

    def read_folder(folder, progress, **options):
        seen.update(options, folder=folder)
        return drawn("abab", "0123")

    monkeypatch.setattr(recipe.slides, "read_folder", read_folder)
    asked = {"fit": "pad", "filter": "box", "group_pattern": "(a)", "cache": Path("c")}
    recipe.read_slides(Recipe(data=Path("slides"), image_size=SIZE, skip_bad=True, **asked), Console())
    assert seen == {"folder": Path("slides"), "size": SIZE, "skipped": []} | asked
    assert "every image is taken for a group of its own" in " ".join(capsys.readouterr().out.split())
    recipe.read_slides(Recipe(data=Path("slides")), Console(quiet=True))
    assert seen["skipped"] is None, "a bad file stops it, unless it is said otherwise"
    got, _ = recipe.read_slides(Recipe(drawn=20, image_size=SIZE, seed=3), Console(quiet=True))
    assert np.array_equal(got.images, synthetic.draw_slides(20, seed=3, size=SIZE).images)


def test_bad_files_are_left_out_and_listed_where_that_is_asked_for(tmp_path, monkeypatch):
    def fit(console, network, training, *more, **options):
        raise Enough

    monkeypatch.setattr(train.fitting, "fit", fit)
    data = make_folder(tmp_path / "data", benign=FOUR, malignant=[*FOUR, "text.tif"])
    with pytest.raises(Enough):
        trained(tmp_path / "run", data=data, skip_bad=True)
    assert [Path(row["file"]).name for row in rows(tmp_path / "run" / "skipped.csv")] == ["text.tif"]
    parts = json.loads((tmp_path / "run" / "config.json").read_text())["splits"]
    assert sum(map(len, parts.values())) == 8


def test_new_images_are_read_and_judged_as_those_of_the_run_and_the_class_that_was_named_is_found(folder, tmp_path):
    options = {"group_pattern": r"(group\d+)_", "fit": "pad", "filter": "box", "positive": "benign", "epochs": 1}
    options |= {"model": "wbc", "augmentation": "none"}  # which is compiled soon
    metrics, out = trained(tmp_path / "run", data=folder, **options)
    reported = rows(out / "predictions.csv")
    for split, judged in metrics["splits"].items():
        found = [
            float(r["probability of benign"]) > 0.5 for r in reported if (r["split"], r["label"]) == (split, "benign")
        ]
        assert (judged["positive"], judged["sensitivity"]["k"]) == ("benign", sum(found))
    said = predict.main(predict.Settings(run=out, images=(folder,)))
    assert len(said) == 40
    wanted = {row["name"]: float(row["probability of benign"]) for row in reported}
    for name, label, p in said:
        assert p == pytest.approx(wanted[Path(name).relative_to(folder).as_posix()], rel=1e-4)
        assert (p > 0.5) == (label == "benign")


def test_a_finished_run_that_goes_on_is_not_finished_until_its_end(run, tmp_path, monkeypatch):
    copy = shutil.copytree(run, tmp_path / "copy")
    with pytest.raises(UserError, match="is finished"):
        train.main(train.Settings(resume=copy))

    def fit(*arguments, **options):
        raise Enough

    monkeypatch.setattr(train.fitting, "fit", fit)
    with pytest.raises(Enough):
        train.main(train.Settings(resume=copy, epochs=3, allow_change=("epochs",)))
    assert not (copy / "metrics.json").exists()


def test_the_blog_is_trained_as_in_2017_and_chooses_nothing(folder, tmp_path, monkeypatch):
    seen = {}
    fit = reproduce_blog.fitting.fit

    def remembered(console, network, *parts, **options):
        seen.update(options, network=network)
        return fit(console, network, *parts, **options)

    monkeypatch.setattr(reproduce_blog.fitting, "fit", remembered)
    sizes = {"drawing_size": (40, 50), "image_size": SIZE}
    settings = reproduce_blog.Settings(data=folder, draws=60, epochs=2, dropout=0.25, **sizes, out=tmp_path / "blog")
    metrics = reproduce_blog.main(settings)
    assert (metrics["epochs"], metrics["best_epoch"]) == (2, 2)
    assert seen["augmentation"] is named("none"), "the copies are drawn before"
    assert [layer.rate for layer in seen["network"].layers if isinstance(layer, Dropout)] == [0.25]
    small = jnp.array([1e-6])  # Keras' Adam: a first step of 0.001 g / (|g| + 1e-7 / sqrt(0.001))
    step, _ = seen["optimizer"].update(small, seen["optimizer"].init(small), small)
    assert step.item() == pytest.approx(-0.001 * 1e-6 / (1e-6 + 1e-7 / math.sqrt(0.001)), rel=1e-3)
    last = rows(settings.out / "history.csv")[-1]
    chosen = [row for row in rows(settings.out / "predictions.csv") if row["split"] == "validation"]
    right = np.array([float(r[P]) if r["label"] == "malignant" else 1 - float(r[P]) for r in chosen])
    assert float(last["val_loss"]) == pytest.approx(-np.log(right).mean(), rel=1e-4)
    assert float(last["val_accuracy"]) == pytest.approx((right > 0.5).mean())


def test_a_network_is_trained_to_its_last_epoch_by_its_own_seed_and_asked_in_eight_positions():
    options = {"image_size": SIZE, "epochs": 2, "per_epoch": 8, "batch": 4}
    settings, data = cross_validate.Settings(**options), synthetic.draw_slides(16, seed=5, size=SIZE, groups=4)
    known, asked, network = np.arange(6), np.arange(6, 16), recipe.network(settings, 2, training.keys_of(3).weights)
    said = recipe.fit_and_ask(settings, data.images, data.labels, 2, known, asked, 3)
    written_out = {"optimizer": recipe.optimizer(settings, 4), "augmentation": named("crop"), "seed": 3}
    part = data.images[known], data.labels[known]
    *_, last = training.train(network, part, None, epochs=2, batch=4, per_epoch=8, **written_out)
    wanted = reports.predict(network, last.parameters, data.images[asked], views=True)
    assert_equal_arrays(said, wanted, "a silent training", rtol=1e-3)


def test_how_and_where_a_run_goes_on_may_be_another_each_time_and_nothing_that_a_step_sees(tmp_path):
    out = begin_or_resume("train", train.Settings(out=tmp_path / "run"), "cpu", data_digest="abc")
    given = train.Settings(resume=out, device="cpu", cache=tmp_path, save_every=5.0, debug_nans=True)
    assert own_settings("train", given) == given
    assert how_to_go_on("train", given, Path("r")).endswith(
        f" --resume r --device cpu --cache {tmp_path} --save-every 5.0 --debug-nans"
    )
    for name in ("seed", "batch", "per-epoch", "precision", "model", "dropout", "fit", "group-pattern", "positive"):
        with pytest.raises(UserError, match=f"^--allow-change: {name.replace('-', '_')} cannot change"):
            own_settings("train", train.Settings(resume=out, allow_change=(name,)))


def test_processes_that_are_started_compute_where_this_one_was_told_to(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    command_line.choose_device("cpu")
    assert os.environ["JAX_PLATFORMS"] == "cpu"


def test_a_crop_is_refused_to_networks_of_one_size_and_a_negative_decay_to_all():
    with pytest.raises(UserError, match=r"^--augmentation: crop cuts squares, and --model seed"):
        Recipe(model="seed", augmentation="crop")
    with pytest.raises(UserError, match=r"^--weight-decay: got -1, wants at least 0"):
        Recipe(weight_decay=-1)


def test_the_image_that_is_given_is_varied_and_drawn_tissue_is_called_by_its_class(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(augmentations, "ROWS", {"none": named("none")})
    monkeypatch.setattr(
        augmentations.figures,
        "gallery",
        lambda path, pictures, captions, *r, **o: seen.update({path.name: (pictures, captions)}),
    )
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    images.write_png(tmp_path / "i.png", image)
    augmentations.main(augmentations.Settings(image=tmp_path / "i.png", image_size=SIZE, out=tmp_path / "a"))
    assert_equal_arrays(seen["augmentations.png"][0], np.stack([image / 255] * 6), "the image and five of it")
    augmentations.main(augmentations.Settings(image_size=SIZE, out=tmp_path / "b"))
    data = synthetic.draw_slides(8, seed=0, size=SIZE)
    for picture, label in zip(*seen["tissue.png"]):
        same = [i for i in range(8) if np.array_equal(data.images[i], picture)]
        assert [data.classes[data.labels[i]] for i in same] == [label]


def test_augmentations_are_drawn_each_with_a_key_of_its_own(folder, tmp_path, monkeypatch):
    image, keys, compiled = next((folder / "benign").iterdir()), [], augmentations.augment.compiled

    def remember(augmentation):
        return lambda key, copies: keys.append(str(key)) or compiled(augmentation)(key, copies)

    monkeypatch.setattr(augmentations.augment, "compiled", remember)
    path = augmentations.main(augmentations.Settings(image=image, image_size=SIZE, out=tmp_path / "a"))
    assert images.read_image(path).std() > 10
    assert len(set(keys)) == len(augmentations.ROWS), "else every row would turn and flip alike"
