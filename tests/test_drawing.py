"""Drawing with all processors: other processes draw the same images, and none outlives who asked for them."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cnn import synthetic
from cnn.synthetic import draw_slides
from cnn.tissue import draw_image


@pytest.fixture
def two_processors(monkeypatch):
    monkeypatch.setattr(synthetic.os, "sched_getaffinity", lambda process: {0, 1}, raising=False)


def test_processes_draw_what_one_would(two_processors):
    alone = np.stack([draw_image(i, seed=3, size=(24, 32), groups=4) for i in range(100)])
    workers, room = synthetic._begin(100, 3, (24, 32), 4), np.zeros_like(alone)
    assert len(workers) == 2
    assert synthetic._collect(workers, room) == set(range(100))
    assert np.array_equal(room, alone)
    assert np.array_equal(draw_slides(100, seed=3, size=(24, 32), groups=4).images, alone)


def test_what_other_processes_have_begun_to_draw_is_taken_from_them_once(two_processors, monkeypatch):
    want = draw_slides(64, seed=3, size=(24, 32)).images
    synthetic.begin_to_draw(64, seed=3, size=(24, 32))
    (workers,) = synthetic._begun.values()
    monkeypatch.setattr(synthetic, "draw_image", None)  # nothing is left to be drawn here
    assert np.array_equal(draw_slides(64, seed=3, size=(24, 32)).images, want)
    assert not synthetic._begun
    assert [worker.returncode for worker in workers] == [0, 0]


def test_what_nobody_asks_for_ends_with_the_process_that_began_it():
    code = "import sys; from cnn import synthetic as s; s.os.sched_getaffinity = lambda process: {0, 1}; "
    code += "s.begin_to_draw(20_000, seed=0); print(*(w.pid for (ws,) in [s._begun.values()] for w in ws))"
    pids = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert len(pids) == 2

    def lives(pid: str) -> bool:
        status = Path(f"/proc/{pid}/status")
        return status.exists() and "State:\tZ" not in status.read_text()  # Z: nobody has asked yet how it ended

    until = time.monotonic() + 10
    while any(map(lives, pids)):
        assert time.monotonic() < until, "it goes on drawing"


@pytest.mark.parametrize("python", ["/no/such/python", "/bin/false"], ids=["cannot be started", "fails"])
def test_where_a_process_fails_all_is_drawn_in_this_one(two_processors, monkeypatch, python):
    want = draw_slides(64, seed=3, size=(24, 32)).images
    monkeypatch.setattr(synthetic.sys, "executable", python)
    workers = synthetic._begin(64, 3, (24, 32), 10)
    assert synthetic._collect(workers, np.zeros_like(want)) == set()
    assert np.array_equal(draw_slides(64, seed=3, size=(24, 32)).images, want)
