"""The benchmark and the cost: what is counted, that all peers are held to the same numbers, and what a run leaves.

How fast anything is stands in no test: it is a property of a machine on a day.
"""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from cnn import progress
from cnn.errors import UserError
from experiments import benchmark, cost
from experiments.peers import limits, ours, processes, serve
from tests.checkers import assert_equal_arrays


def test_the_operations_of_the_network_of_2017_by_hand():
    #   out height x out width x kernel height x width x in x out channels, a product and an addition each
    first, second, third = 118 * 158 * 9 * 3 * 32 * 2, 57 * 77 * 9 * 32 * 32 * 2, 55 * 75 * 9 * 32 * 32 * 2
    dense = (31968 * 64 + 64) * 2
    forward = first + second + third + dense
    # Backward each takes twice as much again, but the first needs no gradient by the image.
    counted = limits.network(batch=1)
    assert {task: work.operations for task, work in counted.items()} == {
        "forward": forward,
        "step": 3 * forward - first,
    }
    assert counted["step"].operations == pytest.approx(0.547e9, rel=1e-3)


def test_the_bytes_that_must_move_by_hand():
    # kernels and biases: 3 * 3 * 3 * 32 + 32, 9,248 twice, 31,968 * 64 + 64 and 64 + 1, as float32
    parameters = 4 * (896 + 2 * 9248 + 31968 * 64 + 64 + 65)
    counted = limits.network(batch=2)
    assert counted["forward"].bytes == 2 * 120 * 160 * 3 + parameters + 2 * 4
    assert counted["step"].bytes == 2 * 120 * 160 * 3 + 6 * parameters
    # 2 x 3 pixels of 3 bytes each become as many float32; 9 operations each, and 7 + 7 weights for the blur
    alone = limits.augmentation((2, 3), batch=1)
    assert alone == {"move": (9 * 18, 5 * 18), "move_and_blur": ((9 + 28) * 18, 5 * 18)}
    steps, moves = limits.network()["step"], limits.augmentation((120, 160))["move"]
    assert limits.counted()["epoch"] == tuple(20 * (a + b) for a, b in zip(steps, moves))


def test_work_takes_as_long_as_the_slower_of_its_operations_and_its_bytes():
    assert limits.least(limits.Work(100, 10), 50.0, 10.0) == (2.0, "operations")
    assert limits.least(limits.Work(100, 50), 50.0, 10.0) == (5.0, "bytes")


class Fake:
    """A peer that answers without a process."""

    entry = benchmark.PEERS["PyTorch"]

    def __init__(self, loss: float, gradient: np.ndarray):
        self.loss, self.gradient = loss, gradient

    def send(self, do: str, to: str) -> None:
        np.savez(to, self.gradient)

    def answer(self) -> dict:
        return {"loss": self.loss}


def test_a_peer_that_computes_something_else_is_not_timed(tmp_path):
    gradient = np.array([3.0, 4.0])
    near = {"cnn": Fake(0.7, gradient), "PyTorch": Fake(0.7, gradient + np.array([0, 4e-4]))}
    assert benchmark.check_same(near, tmp_path)["PyTorch"] == pytest.approx(4e-4 / 5)
    far = {"cnn": Fake(0.7, gradient), "PyTorch": Fake(0.7, gradient + np.array([0, 6e-4]))}
    with pytest.raises(UserError, match="PyTorch computes another loss or gradient than cnn"):
        benchmark.check_same(far, tmp_path)
    none = {"cnn": Fake(0.7, gradient), "PyTorch": Fake(0.7, np.array([np.nan, 4.0]))}
    with pytest.raises(UserError, match="they differ by nan"):
        benchmark.check_same(none, tmp_path)
    other_loss = {"cnn": Fake(0.7, gradient), "PyTorch": Fake(0.6999, gradient)}
    with pytest.raises(UserError, match="PyTorch computes another loss"):
        benchmark.check_same(other_loss, tmp_path)


def test_a_run_times_those_that_are_here_and_names_those_that_are_not(tmp_path, capsys):
    result = benchmark.main(benchmark.Settings(rounds=1, tasks=("forward",), out=tmp_path / "run"))
    rows = result["tasks"]["forward"]
    assert {"cnn", "the obvious JAX", "Flax layers"} <= rows.keys()
    shown = capsys.readouterr().out
    for name, entry in benchmark.PEERS.items():
        assert (name in rows) == ("forward" in entry.work and f"left out: {name}, since" not in shown)
    assert set(result["distances"]) >= {"cnn", "the obvious JAX", "Flax layers"}
    assert max(result["distances"].values()) < 1e-4
    fastest = min(row["seconds"] for name, row in rows.items() if name != "cnn")
    assert rows["cnn"]["speed_of_fastest_peer"] == pytest.approx(fastest / rows["cnn"]["seconds"])
    rate = result["counted"]["forward"]["operations"] / rows["cnn"]["seconds"]
    assert rows["cnn"]["bound_by"] == "operations"
    assert rows["cnn"]["share_of_limit"] == pytest.approx(rate / result["machine"]["matmul_flops_per_second"])
    assert json.loads((tmp_path / "run" / "benchmark.json").read_text())["tasks"]["forward"].keys() == rows.keys()
    assert (tmp_path / "run" / "benchmark.png").stat().st_size > 10_000


def test_a_peer_that_fails_is_one_sentence(tmp_path):
    np.savez(tmp_path / "inputs.npz", nothing=np.zeros(1))
    peer = benchmark.Peer("obvious", benchmark.PEERS["the obvious JAX"], tmp_path / "inputs.npz", "cpu")
    try:
        with pytest.raises(UserError, match="the peer obvious ended; it said: KeyError: 'images'"):
            [peer.answer(), peer.ask(do="step", repeats=1)]
    finally:
        peer.close()


def test_on_a_gpu_keras_on_jax_does_what_tensorflow_does_here_and_cuda_graphs_take_part():
    assert "epoch" not in benchmark.PEERS["Keras on JAX"].does("cpu")
    assert set(benchmark.PEERS["Keras on JAX"].does("gpu")) == set(benchmark.PEERS["Keras on TensorFlow"].does("cpu"))
    assert benchmark.PEERS["PyTorch, CUDA graphs"].does("cpu") == ()
    assert "step" in benchmark.PEERS["PyTorch, CUDA graphs"].does("gpu")


def test_precision_is_a_question_for_a_gpu_only(tmp_path):
    with pytest.raises(UserError, match="--precision: tf32 is timed on a GPU only, and this is a processor"):
        benchmark.main(benchmark.Settings(precision="tf32", device="cpu", out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_call_is_timed_as_a_whole_however_often_the_work_is_asked_for_in_it(monkeypatch):
    moments, asked = iter([10.0, 16.0, 20.0, 23.0]), []
    monkeypatch.setattr(serve.time, "perf_counter", lambda: next(moments))
    assert serve.timed(asked.append, 2, times=3) == [6.0, 3.0]
    assert asked == [3, 3]
    moments = iter([1.0, 1.5])
    assert serve.timed(lambda: asked.append("once"), 1, times=None) == [0.5]


class Timed:
    """A peer that waits for each piece of its work, and takes 2 s for the first call and 0.5 for each after."""

    entry = benchmark.PEERS["PyTorch"]

    def __init__(self):
        self.calls = 0

    def ask(self, do: str, repeats: int, times: int) -> dict:
        calls = [0.5 if self.calls + i else 2.0 for i in range(repeats)]
        self.calls += repeats
        return {"calls": calls, "seconds": calls}


def test_the_first_call_is_told_as_it_was_and_does_not_count():
    settings = benchmark.Settings(rounds=2, tasks=("step",))
    console = progress.terminal()
    seconds, first = benchmark.measure({"cnn": Timed(), "Keras on JAX": Timed()}, "gpu", settings, console)
    assert first["Keras on JAX", "step"] == 2.0
    assert seconds["Keras on JAX", "step"] == [0.5] * 8


def test_steps_in_a_row_on_a_gpu_are_the_steps_one_by_one(monkeypatch):
    inputs = benchmark.inputs(0)
    inputs["weights"] = [(inputs[f"kernel{i}"], inputs[f"bias{i}"]) for i in range(5)]
    many, one = ours.Peer(inputs), ours.Peer(inputs)
    many.whole = jax.device_put(many.batch[:2])  # as on an accelerator
    many.step(3)
    for number in range(3):
        one.state, _ = one.train_step(one.state, jax.random.fold_in(one.key, number), *one.batch)
    for a, b in zip(jax.tree.leaves(many.state.parameters), jax.tree.leaves(one.state.parameters), strict=True):
        assert_equal_arrays(a, np.asarray(b), "parameters", rtol=1e-2, atol=1e-4)


def test_a_peer_without_work_is_left_out_and_told(tmp_path, capsys):
    settings = benchmark.Settings(rounds=1, tasks=("epoch",))
    entries = {name: benchmark.PEERS[name] for name in ("cnn", "PyTorch, CUDA graphs", "albumentations")}
    started = {}
    np.savez(tmp_path / "inputs.npz", nothing=np.zeros(1))
    try:
        with pytest.raises(UserError, match="the peer cnn ended"):
            benchmark.start(started, entries, settings, tmp_path / "inputs.npz", "cpu", progress.terminal())
    finally:
        [peer.close() for peer in started.values()]
    assert started.keys() == {"cnn"}
    shown = capsys.readouterr().out
    assert "left out: PyTorch, CUDA graphs, since it does none of this work on a CPU" in shown
    assert "left out: albumentations, since" in shown


def assert_plausible(point: dict) -> None:
    assert 0 < point["step_seconds"] < point["first_step_seconds"]
    assert not point["megabytes"] <= point["megabytes_before"]  # NaN where the system does not tell


def test_the_cost_of_images_from_files(tmp_path):
    found = cost.main(cost.Settings(batches=(), sizes=(), numbers=(20,), starts=0, out=tmp_path / "run"))
    (one,) = found["images"]
    assert one["number"] == 20
    assert_plausible(one)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.json", "cost.json", "images.png"}
    assert json.loads((tmp_path / "run" / "cost.json").read_text()) == found | {"first_step_seconds": []}


def test_a_measurement_that_is_stopped_keeps_the_points_it_had(tmp_path, monkeypatch):
    points = iter([{"step_seconds": 1.5}])
    monkeypatch.setattr(cost, "point", lambda device, **what: what | next(points))
    with pytest.raises(StopIteration):
        cost.main(cost.Settings(batches=(), sizes=(), numbers=(20, 40), starts=0, out=tmp_path / "run"))
    cost.main(cost.Settings(batches=(), sizes=(), numbers=(), starts=0, out=tmp_path / "starts alone"))
    alone = json.loads((tmp_path / "starts alone" / "cost.json").read_text())
    assert alone == {"first_step_seconds": []}, "and the starts, if nothing else is asked"
    (kept,) = json.loads((tmp_path / "run" / "cost.json").read_text())["images"]
    assert (kept["number"], kept["step_seconds"]) == (20, 1.5)


@pytest.mark.slow
def test_the_cost_of_one_batch_has_a_point_for_each_of_two_networks(tmp_path):
    found = cost.main(cost.Settings(batches=(2,), sizes=(), numbers=(), starts=0, out=tmp_path / "run"))
    assert [one["batch"] for one in found["batch"]] == [2, 2]
    for one in found["batch"]:
        assert_plausible(one)
    assert (tmp_path / "run" / "batch.png").stat().st_size > 10_000


def test_a_training_that_the_machine_cannot_do_is_one_sentence():
    with pytest.raises(UserError, match=r"ended early, perhaps for want of memory; its last words: .*too_large"):
        cost.point("cpu", model="too_large", batch=1, size=[32, 32], number=2, files=False)


def test_the_wait_for_the_first_step_of_the_main_job_is_measured_to_its_loss(monkeypatch):
    (seconds,) = cost.first_step(1, "cpu")
    assert 1 < seconds < 120
    monkeypatch.setattr(cost.sys, "executable", "/bin/true")
    with pytest.raises(UserError, match="the main job ended before its first step"):
        cost.first_step(1, "cpu")


def test_every_peer_but_what_one_writes_first_keeps_freed_memory():
    bare = {name for name, entry in processes.PEERS.items() if not processes.KEEP.items() <= entry.environment.items()}
    assert bare == {"cnn", "the obvious JAX", "Flax layers"}, "and cnn asks for it itself"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what glibc does with freed memory")
def test_kept_memory_is_not_handed_out_page_by_page_again():
    program = """
import resource
for _ in range(20):
    b"x" * (1 << 26)  # 64 MB, taken, written to and freed
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""

    def faults(more: dict) -> int:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
        done = subprocess.run([sys.executable, "-c", program], env=clean | more, capture_output=True, text=True)
        return int(done.stdout)

    if faults({}) < 20 * (1 << 14):
        pytest.skip("this C library, or large pages, need fewer pages already")
    assert faults(processes.KEEP) < 3 * (1 << 14), "16,384 pages of 4 KB once, not twenty times"
