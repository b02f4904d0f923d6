"""Jobs: pieces of work that are done once, however often the program is stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from cnn import jobs
from cnn.errors import ShapeError, UserError

ROOT = Path(__file__).parents[1]


def add(base: int, number: int, more: int, report=None) -> dict:
    """The work of these tests; it tells in which process it was done."""
    return {"sum": base + number + more, "process": os.getpid(), "cores": len(os.sched_getaffinity(0))}


def fail_at_two(base: int, number: int, more: int, report=None) -> dict:
    """The same work, interrupted."""
    if number == 2:
        raise KeyboardInterrupt
    return add(base, number, more)


PIECES = {f"piece{i}": (i, 10) for i in range(4)}


def test_every_piece_is_done_and_its_result_is_kept(tmp_path):
    calls = []
    results = jobs.run(
        PIECES, add, tmp_path / "r", jobs=1, shared=(100,), progress=lambda done, total: calls.append((done, total))
    )
    assert {name: result["sum"] for name, result in results.items()} == {f"piece{i}": 110 + i for i in range(4)}
    assert calls == [(i, 4) for i in range(5)]
    assert {path.name for path in (tmp_path / "r").iterdir()} == {f"piece{i}.json" for i in range(4)}
    assert all(result["process"] == os.getpid() for result in results.values())


def test_several_processes_give_the_same_and_share_the_processors(tmp_path):
    results = jobs.run(PIECES, add, tmp_path / "r", jobs=2, shared=(100,))
    assert {name: result["sum"] for name, result in results.items()} == {f"piece{i}": 110 + i for i in range(4)}
    assert os.getpid() not in {result["process"] for result in results.values()}
    here = len(os.sched_getaffinity(0))
    assert all(result["cores"] in (here // 2, -(-here // 2)) or here == 1 for result in results.values())


def test_what_was_done_before_an_interruption_is_not_done_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        jobs.run(PIECES, fail_at_two, tmp_path / "r", jobs=1, shared=(100,))
    kept = tmp_path / "r" / "piece1.json"
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["piece0.json", "piece1.json"]
    kept.write_text(json.dumps({"sum": "kept"}))
    (tmp_path / "r" / "piece2.json.part").write_text('{"su')  # what a power cut leaves
    results = jobs.run(PIECES, add, tmp_path / "r", jobs=1, shared=(100,))
    assert [results[name]["sum"] for name in PIECES] == [110, "kept", 112, 113]


@pytest.mark.parametrize("damage", ["", '{"sum": 1'], ids=["empty", "cut short"])
def test_a_result_that_cannot_be_read_is_made_again(tmp_path, damage):
    wanted = jobs.run(PIECES, add, tmp_path / "r", jobs=1, shared=(100,))
    (tmp_path / "r" / "piece1.json").write_text(damage)
    assert jobs.run(PIECES, add, tmp_path / "r", jobs=1, shared=(100,)) == wanted


def slow(base: int, number: int, more: int, report=None) -> int:
    """A second of work that leaves a trace when it begins."""
    Path(os.environ["CNN_TRACES"], str(number)).touch()
    time.sleep(1.0)
    return number


@pytest.mark.parametrize("when", ["a piece is done", "the processes begin"])
def test_ctrl_c_at_a_terminal_ends_all_processes_at_once_and_keeps_what_is_done(tmp_path, when):
    program = (
        "import signal; from pathlib import Path; from cnn import jobs; from tests.test_jobs import slow\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore Ctrl-C\n"
        "if __name__ == '__mp_main__':\n"
        f"    Path({str(tmp_path)!r}, 'begun').touch(); import time; time.sleep(0.5)\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        pieces = {str(i): (i, 0) for i in range(30)}\n"
        f"        jobs.run(pieces, slow, Path({str(tmp_path / 'r')!r}), jobs=2, shared=(0,))\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted')\n"
    )
    (tmp_path / "program.py").write_text(program)
    traces = tmp_path / "traces"
    traces.mkdir()
    process = subprocess.Popen(
        [sys.executable, tmp_path / "program.py"],
        cwd=ROOT,
        env=os.environ | {"CNN_TRACES": str(traces), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    while not list((tmp_path / "r").glob("*.json") if when == "a piece is done" else tmp_path.glob("begun")):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    said, at = process.communicate()[0], len(list(traces.iterdir()))
    assert said == "interrupted\n", "one process answers, and the others are silent"
    kept = len(list((tmp_path / "r").glob("*.json")))
    assert at <= kept + 4, "after Ctrl-C no more work was begun"
    time.sleep(1.5)
    assert len(list(traces.iterdir())) == at, "nobody goes on working"


def tell_gpu(report=None) -> str | None:
    """Which GPU this process may see."""
    time.sleep(0.5)  # so that both processes have something to do
    return jax.config.read("jax_cuda_visible_devices")


def test_of_several_gpus_each_process_sees_one(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # here; the processes find what there is
    monkeypatch.setattr(jax, "local_device_count", lambda: 2)
    results = jobs.run(dict.fromkeys("abcdefgh", ()), tell_gpu, tmp_path / "r", jobs=2)
    assert set(results.values()) == {"0", "1"}


def die(base: int, number: int, more: int, report=None) -> int:
    """What the kernel does to a process for which there is no memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_dies_is_told_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"^--jobs: a process ended before its work was done, perhaps for want"):
        jobs.run(PIECES, die, tmp_path / "r", jobs=2, shared=(100,))


def test_processes_end_with_the_one_that_began_them_however_that_ended(tmp_path):
    program = (
        "from pathlib import Path; from cnn import jobs; from tests.test_jobs import slow\n"
        "if __name__ == '__main__':\n"
        "    pieces = {str(i): (i, 0) for i in range(30)}\n"
        f"    jobs.run(pieces, slow, Path({str(tmp_path / 'r')!r}), jobs=2, shared=(0,))\n"
    )
    (tmp_path / "program.py").write_text(program)
    traces = tmp_path / "traces"
    traces.mkdir()
    environment = os.environ | {"CNN_TRACES": str(traces), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, tmp_path / "program.py"], cwd=ROOT, env=environment) as process:
        while not list(traces.iterdir()):
            time.sleep(0.05)
        process.kill()
    time.sleep(1.2)  # the piece that one is at
    before = len(list(traces.iterdir()))
    time.sleep(2.5)
    assert len(list(traces.iterdir())) == before, "nobody goes on working"


def in_steps(base: int, number: int, more: int, report) -> int:
    """Work that says how far it is, and goes on long enough for somebody to look."""
    for share in (0.25, 0.5):
        report(share)
        time.sleep(0.6)
    return number


@pytest.mark.parametrize("jobs_at_a_time", [1, 2])
def test_a_piece_that_is_half_done_counts_as_a_half(tmp_path, jobs_at_a_time):
    seen = []
    pieces = {"a": (0, 0), "b": (1, 0)}
    jobs.run(
        pieces,
        in_steps,
        tmp_path / "r",
        jobs=jobs_at_a_time,
        shared=(0,),
        progress=lambda done, total: seen.append(done),
    )
    assert any(0 < done < 1 for done in seen), "before the first piece is done"
    assert seen[-1] == max(seen) == 2, "nothing is counted twice"
    if jobs_at_a_time == 1:
        assert seen == [0, 0.25, 0.5, 1, 1.25, 1.5, 2]


def misshape(base: int, number: int, more: int, report=None) -> int:
    """Work that is given what does not fit."""
    raise ShapeError("layer", (3, 4), "(batch, 4)")


def test_what_does_not_fit_is_told_by_a_process_as_it_would_be_here(tmp_path):
    with pytest.raises(ShapeError, match=r"^layer: got \(3, 4\), wants \(batch, 4\)$"):
        jobs.run(PIECES, misshape, tmp_path / "r", jobs=2, shared=(100,))
