"""A training that is interrupted anywhere, by anything, and ends as if it had not been.

Killed without warning, told to stop, or with a damaged checkpoint: the weights are the same to the bit.
"""

import contextlib
import functools
import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from cnn import fitting
from cnn.errors import UserError
from cnn.fitting import Keeper
from cnn.optimizer import make_optimizer
from cnn.training import make_step
from tests.test_training import bytes_of, fade, pictures, tiny_network

ROOT = Path(__file__).parents[1]
SHORT = ["--drawn", "40", "--epochs", "6", "--per-epoch", "48", "--image-size", "24", "32", "--patience", "9"]


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
            raise UserError(f"training: in step {done} the loss or a gradient is infinite or no number")

    monkeypatch.setattr("cnn.training.check_finite", poisoned)
    with pytest.raises(UserError, match="in step 5"):
        fitted(tmp_path / "c")
    assert Keeper(tmp_path / "c", "", every=0).checkpoints.steps()[0] == 4


# The program itself, killed


def command(*options: object) -> list[str]:
    """A training of seconds, with dropout and augmentation on."""
    return [sys.executable, "-m", "experiments.train", *map(str, options)]


def digest(run: Path) -> str:
    """Of all that a run has learned."""
    return hashlib.sha256((run / "weights.npz").read_bytes() + (run / "predictions.csv").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> str:
    """The digest of the run that nothing interrupts, and that saves at its end only."""
    out = tmp_path_factory.mktemp("whole") / "run"
    subprocess.run(command(*SHORT, "--save-every", "1e9", "--out", out), cwd=ROOT, check=True, capture_output=True)
    return digest(out)


def resumed(run: Path) -> subprocess.CompletedProcess:
    """Goes on with a run, to its end."""
    return subprocess.run(command("--resume", run), cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_twenty_runs_killed_at_random_moments_ten_of_them_in_a_save_end_with_one_digest(tmp_path, uninterrupted):
    rng = np.random.default_rng(0)
    for i in range(20):
        run = tmp_path / str(i)
        options = {"cwd": ROOT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command(*SHORT, "--save-every", "0", "--out", run), **options)
        checkpoints = run / "checkpoints"
        while not checkpoints.exists() and process.poll() is None:
            time.sleep(0.005)
        deadline = time.monotonic() + rng.uniform(0, 4)
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.001)
        if i % 2:  # in a save: as soon as Orbax has begun a folder that is not finished
            while process.poll() is None and not any(".orbax-checkpoint-tmp" in p.name for p in checkpoints.iterdir()):
                pass
        process.kill()
        process.wait()
        if not (run / "metrics.json").exists():
            done = resumed(run)
            assert done.returncode == 0, done.stderr
        assert digest(run) == uninterrupted, f"run {i}"


@pytest.mark.slow
def test_ctrl_c_at_ten_random_moments_exits_with_130_and_goes_on_exactly(tmp_path, uninterrupted):
    rng = np.random.default_rng(1)
    for i in range(10):
        run = tmp_path / str(i)
        process = subprocess.Popen(
            command(*SHORT, "--out", run), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        while not (run / "config.json").exists():
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 6))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        if process.returncode == 0:
            continue  # it had finished before
        assert process.returncode == 130, errors
        assert "Traceback" not in errors
        assert resumed(run).returncode == 0
        assert digest(run) == uninterrupted
