"""Jobs: pieces of work that are done once, however often the program is stopped."""

import json
import os

import pytest

from cnn import jobs


def add(base: int, number: int, more: int) -> dict:
    """The work of these tests; it tells in which process it was done."""
    return {"sum": base + number + more, "process": os.getpid(), "cores": len(os.sched_getaffinity(0))}


def fail_at_two(base: int, number: int, more: int) -> dict:
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
