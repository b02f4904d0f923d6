"""Nothing lost: the program itself, killed, told to stop, on a full disk, twice in one folder. It takes minutes.

pytest -m slow tests/test_nothing_lost.py -s
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
SHORT = ["--drawn", "40", "--epochs", "6", "--per-epoch", "48", "--image-size", "24", "32", "--patience", "9"]
pytestmark = pytest.mark.slow


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


def environment(**more: str) -> dict[str, str]:
    """The environment of a process, with some of it changed."""
    return os.environ | more


def test_five_fresh_processes_with_other_locales_hash_seeds_and_orders_of_files_give_one_digest(tmp_path):
    rng = np.random.default_rng(0)
    pictures = {
        f"{label}/{group}_{i}.png": rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        for label in ("benign", "malignant")
        for group in ("a", "B", "\u00e9", "Z", "10", "9")
        for i in range(2)
    }
    digests = set()
    for i, locale in enumerate(("C", "C.UTF-8", "POSIX", "en_US.UTF-8", "tr_TR.UTF-8")):
        folder = tmp_path / f"slides{i}"
        names = list(pictures)
        np.random.default_rng(i).shuffle(names)  # the order in which a disk lists them
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pictures[name]).save(folder / name)
        out = tmp_path / str(i)
        options = ["--data", folder, "--group-pattern", r"(\w+)_\d", "--epochs", "2", "--per-epoch", "16"]
        done = subprocess.run(
            command(*options, "--image-size", "24", "32", "--out", out),
            cwd=ROOT,
            env=environment(LC_ALL=locale, LANG=locale, PYTHONHASHSEED=str(i)),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        digests.add(digest(out))
    assert len(digests) == 1


def test_of_two_runs_in_one_folder_one_goes_on_unharmed_twenty_times(tmp_path, uninterrupted):
    for i in range(20):
        run = tmp_path / str(i)
        pipes = {"cwd": ROOT, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        options = ["--out", run]
        if i % 2:  # every other time, both go on with a run that was stopped
            subprocess.run(["timeout", "-s", "INT", "9", *command(*SHORT, "--out", run)], cwd=ROOT, capture_output=True)
            if not run.exists() or (run / "metrics.json").exists():
                shutil.rmtree(run, ignore_errors=True)
            else:
                options = ["--resume", run]
        rivals = [
            subprocess.Popen(command(*(SHORT if "--out" in options else ()), *options), **pipes) for _ in range(2)
        ]
        said = [rival.communicate()[1] for rival in rivals]
        codes = [rival.returncode for rival in rivals]
        assert sorted(codes) == [0, 2], f"run {i}: {codes} {said}"
        loser = said[codes.index(2)]
        assert re.match(r"^error: .*(exists already|is at work in it|is finished).*\n$", loser), loser
        assert digest(run) == uninterrupted, f"run {i}"


def test_a_disk_that_fills_up_in_a_save_ends_with_one_sentence_and_the_run_goes_on_where_there_is_room(
    tmp_path, uninterrupted
):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", disk], capture_output=True).returncode:
        pytest.skip("a small disk can only be made by root: mount -t tmpfs")
    try:
        done = subprocess.run(
            command(*SHORT, "--save-every", "0", "--out", disk / "run"), cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 2, done.stderr
        sentence = r"error: \S+: the checkpoint of step \d+ cannot be written \(the disk is full: .* MB are left\); "
        assert re.match(sentence + r"the one of step \d+ is kept; make room", done.stderr)
        assert done.stderr.count("\n") == 1
        shutil.copytree(disk / "run", tmp_path / "run")
    finally:
        subprocess.run(["umount", disk], check=True)
    assert resumed(tmp_path / "run").returncode == 0
    assert digest(tmp_path / "run") == uninterrupted


def test_one_corrupt_file_among_ten_thousand_is_found_before_the_first_step(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(10_000):
        folder = tmp_path / "slides" / ("benign", "malignant")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((64, 64)).save(folder / f"{i:05}.jpg")
    bad = tmp_path / "slides" / "benign" / "05000.jpg"
    bad.write_bytes(bad.read_bytes()[:300])
    options = ["--data", tmp_path / "slides", "--image-size", "24", "32", "--epochs", "1"]
    started = time.perf_counter()
    done = subprocess.run(command(*options, "--out", tmp_path / "a"), cwd=ROOT, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    assert done.returncode == 2
    assert str(bad) in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "a").exists(), "before anything is written"
    done = subprocess.run(
        command(*options, "--skip-bad", "--out", tmp_path / "b"), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "05000.jpg" in (tmp_path / "b" / "skipped.csv").read_text()
    splits = json.loads((tmp_path / "b" / "config.json").read_text())["splits"]
    assert sum(map(len, splits.values())) == 9_999
    print(f"one corrupt file among 10,000 was found in {seconds:.1f} s, the start of the program included")


def test_a_whole_run_compiles_training_once_and_evaluation_once_for_each_way_of_looking(tmp_path):
    done = subprocess.run(
        command(
            *SHORT[:4], "--per-epoch", "50", "--image-size", "24", "32", "--out", tmp_path / "run"
        ),  # 50 = 3 * 16 + 2
        cwd=ROOT,
        env=environment(JAX_LOG_COMPILES="1"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    counts = {name: len(re.findall(rf"Compiling jit\({name}\)", done.stderr)) for name in ("learn", "logits_of")}
    assert counts == {"learn": 1, "logits_of": 2}, (
        "validation looks at images as they are, the report in eight positions"
    )
