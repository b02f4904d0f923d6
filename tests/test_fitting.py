"""A training that is interrupted anywhere, by anything, and ends as if it had not been.

Killed without warning, told to stop, or with a damaged checkpoint: the weights are the same to the bit.
"""

import contextlib
import functools
import io
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import optax
import pytest
from flax import nnx
from rich.console import Console

from cnn import fitting
from cnn.errors import UserError
from cnn.fitting import Keeper
from cnn.optimizer import make_optimizer
from cnn.step import Sums, initial_state, make_step
from cnn.training import Epoch, Point
from tests.test_training import bytes_of, fade, pictures, tiny_network


@functools.cache
def compiled() -> dict:
    """An optimizer and a training step for the tiny network, compiled once for all."""
    optimizer = make_optimizer(1)
    return {"optimizer": optimizer, "step": make_step(nnx.graphdef(tiny_network(0.3)), optimizer, fade)}


def fitted(folder: Path | None, epochs: int = 4, patience: int | None = 3, every: float = 0.0, stop_after=None):
    """History, kept epoch and output of a short training with dropout and augmentation, saved at every step."""
    console = Console(file=io.StringIO(), width=120)
    options = {"batch": 4, "augmentation": fade, "seed": 0, **compiled()}
    keeper = folder and Keeper(folder, "python -m experiments.train --resume RUN", every=every)
    if stop_after is not None:
        save = keeper.save

        def saved(point, history, kept):
            if point.step == stop_after:
                os.kill(os.getpid(), signal.SIGTERM)
            save(point, history, kept)

        keeper.save = saved
    with keeper or contextlib.nullcontext():
        history, kept = fitting.fit(
            console,
            tiny_network(dropout=0.3),
            pictures(11),
            pictures(5, seed=1),
            epochs=epochs,
            patience=patience,
            keeper=keeper,
            **options,
        )
    return history, kept, console.file.getvalue()


def figures_of(history) -> list[tuple]:
    """All of each epoch but how long it took."""
    return [epoch[:5] for epoch in history]


@pytest.mark.parametrize("patience", [3, None])
@pytest.mark.parametrize("step", [1, 2, 3, 7, 12])  # within an epoch of 3 steps, at its end, and at the end of all
def test_a_training_told_to_stop_after_any_step_ends_with_the_same_bytes(tmp_path, capsys, step, patience):
    whole, best, _ = fitted(None, patience=patience)
    with pytest.raises(SystemExit) as stopped:
        fitted(tmp_path / "c", patience=patience, stop_after=step)
    assert stopped.value.code == 143
    assert capsys.readouterr().err == (
        f"stopped after step {step}; all is kept. To go on: python -m experiments.train --resume RUN\n"
    )
    history, kept, text = fitted(tmp_path / "c", patience=patience)
    assert f"going on after step {step}" in text
    assert figures_of(history) == figures_of(whole)
    assert kept.number == best.number
    assert bytes_of(kept.parameters) == bytes_of(best.parameters)


def test_a_training_that_had_ended_is_not_trained_on(tmp_path):
    whole, best, _ = fitted(tmp_path / "c")
    history, kept, text = fitted(tmp_path / "c")
    assert figures_of(history) == figures_of(whole)
    assert bytes_of(kept.parameters) == bytes_of(best.parameters)
    assert "epoch " not in text


def test_the_time_of_an_epoch_counts_what_it_took_before_an_interruption(tmp_path):
    keeper = Keeper(tmp_path / "c", "", every=0)
    step = initial_state(nnx.state(tiny_network(0.3)), compiled()["optimizer"])
    keeper.save(Point(7, step, [Sums(1.0, 2.0, 4)], seconds=100.0), [], None)
    history, _, _ = fitted(tmp_path / "c")
    assert [epoch.number for epoch in history] == [3, 4]
    assert 100 < history[0].seconds < 150
    assert history[1].seconds < 50


def test_the_star_is_for_the_lowest_loss_of_the_whole_run_though_it_was_interrupted(tmp_path):
    keeper = Keeper(tmp_path / "c", "", every=0)
    start = initial_state(nnx.state(tiny_network(0.3)), compiled()["optimizer"])
    keeper.save(Point(3, start, []), [Epoch(1, 0.7, 0.5, 1e-9, 0.5, 1.0, None, None)], None)
    history, kept, text = fitted(tmp_path / "c", patience=None)
    assert [epoch.number for epoch in history] == [1, 2, 3, 4]
    assert kept.number == 4, "without patience the last is kept"
    assert "epoch   2/4" in text
    assert "*" not in text, "no later loss was as low as the first"


def test_a_checkpoint_is_written_when_it_is_time(tmp_path, monkeypatch):
    saves = []
    monkeypatch.setattr(Keeper, "save", lambda self, point, history, kept: saves.append(point.step))
    fitted(tmp_path / "a", every=1e9)
    assert saves == [12], "at the end, in any case"
    saves.clear()
    fitted(tmp_path / "b")
    assert saves == list(range(1, 13))


def test_numbers_that_run_away_stop_it_and_leave_the_last_sound_checkpoint(tmp_path, monkeypatch):
    calls = []

    def poisoned(sums, done):
        calls.append(done)
        if done >= 5:
            raise UserError(f"training: in step {done} the loss or a gradient is infinite or NaN")

    monkeypatch.setattr("cnn.training.check_finite", poisoned)
    with pytest.raises(UserError, match="in step 5"):
        fitted(tmp_path / "c")
    assert Keeper(tmp_path / "c", "", every=0).checkpoints.steps()[0] == 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax, on damaged files
def test_fifty_checkpoints_damaged_at_random_are_noticed_or_harmless_and_the_run_ends_with_the_same_bytes(tmp_path):
    whole, best, _ = fitted(None)
    with pytest.raises(SystemExit):
        fitted(tmp_path / "c", stop_after=7)
    files = [path for path in (tmp_path / "c" / "7").rglob("*") if path.is_file() and path.stat().st_size]
    rng, older = np.random.default_rng(0), 0
    for i in range(50):
        copy = tmp_path / str(i)
        shutil.copytree(tmp_path / "c", copy)
        target = copy / files[rng.integers(len(files))].relative_to(tmp_path / "c")
        content = bytearray(target.read_bytes())
        place = int(rng.integers(len(content)))
        if i % 2:
            content[place] ^= 1 << int(rng.integers(8))
        else:
            del content[place:]
        target.write_bytes(bytes(content))
        history, kept, text = fitted(copy)
        assert "going on after step 7" in text or ("is damaged" in text and "going on after step 6" in text)
        older += "is damaged" in text
        assert figures_of(history) == figures_of(whole)
        assert bytes_of(kept.parameters) == bytes_of(best.parameters), f"{target} at {place}"
    print(f"{older} of 50 damages noticed, {50 - older} harmless")
    assert older > 10


@pytest.mark.parametrize("step", [4, 6, 9])  # within the second epoch, at its end, and at the end of all
def test_of_a_training_that_gets_worse_the_best_weights_are_kept_through_an_interruption(tmp_path, monkeypatch, step):
    # uphill each epoch has a higher loss: the first is the best, and with a patience of 2 the third is the last
    up = optax.sgd(-0.1)
    uphill = {"optimizer": up, "step": make_step(nnx.graphdef(tiny_network(0.3)), up, fade)}
    monkeypatch.setitem(globals(), "compiled", lambda: uphill)
    whole, best, _ = fitted(None, epochs=6, patience=2)
    assert (len(whole), best.number) == (3, 1)
    with pytest.raises(SystemExit):
        fitted(tmp_path / "c", epochs=6, patience=2, stop_after=step)
    history, kept, _ = fitted(tmp_path / "c", epochs=6, patience=2)
    assert figures_of(history) == figures_of(whole)
    assert (kept.number, bytes_of(kept.parameters)) == (1, bytes_of(best.parameters))
