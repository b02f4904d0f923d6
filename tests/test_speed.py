"""What makes it fast, beside the plain way: the same numbers. (How fast: experiments/benchmark.py.)

More of it: patches as one product (test_fast_convolution.py), a batch in parts (test_network.py), several devices
(test_devices.py). `experiments/faster.py` times the plain way with more and more of it.
"""

import ctypes
import importlib
import json
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn import progress, resampling
from cnn.dense import relu
from cnn.errors import UserError
from cnn.pooling import max_pool
from experiments import faster
from tests.checkers import assert_equal_arrays
from tests.test_convolution import noise

# The order of bias, ReLU and pool


def test_a_pool_before_bias_and_relu_gives_the_same_numbers_and_gradients_to_the_bit():
    images, bias, upstream = noise(3, 6, 8, 2), jnp.array([0.3, -0.2]), noise(3, 3, 4, 2)

    def late(images, bias):  # as in 2017
        return max_pool(relu(images + bias))

    def early(images, bias):
        return relu(max_pool(images) + bias)

    assert np.array_equal(late(images, bias), early(images, bias))
    gradients = [jax.vjp(way, images, bias)[1](upstream) for way in (late, early)]
    assert np.array_equal(gradients[0][0], gradients[1][0])
    # the bias: the same numbers, added up in another order, and most of them zeros in the first way
    assert_equal_arrays(gradients[0][1], gradients[1][1], "by the bias", rtol=1e-6)


def test_the_way_back_needs_one_byte_a_window():
    _, back = jax.vjp(max_pool, jnp.asarray(noise(1, 4, 6, 1)))
    kept = [leaf for leaf in jax.tree.leaves(back) if hasattr(leaf, "nbytes")]
    assert sum(leaf.nbytes for leaf in kept) == 2 * 3


# All of it, in the plain way one after the other


@pytest.fixture(scope="module")
def rungs():
    """The steps of `experiments/faster.py`, without what they set for the whole process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PEER_CURES", "flags,memory")
        return importlib.import_module("experiments.peers.rungs")


def features_and_gradients(rungs, cures: set, monkeypatch) -> list:
    """What two images become, and the gradients by the kernels and biases, and by the images, with these cures."""
    monkeypatch.setattr(rungs, "CURES", cures)
    channels = [(3, 4), (4, 4), (4, 4)]
    weights = [(noise(3, 3, *pair), noise(pair[1])) for pair in channels]
    features, back = jax.vjp(jax.jit(rungs.features), weights, noise(2, 20, 22, 3))
    return [features, *jax.tree.leaves(back(noise(*features.shape)))]


@pytest.mark.parametrize("cure", ["gradients", "pool", "order", "bias", "patches"])
def test_a_cure_changes_the_program_and_not_the_numbers(rungs, cure, monkeypatch):
    plain = features_and_gradients(rungs, set(), monkeypatch)
    cured = features_and_gradients(rungs, {cure}, monkeypatch)
    for one, other in zip(plain, cured, strict=True):
        assert_equal_arrays(other, np.asarray(one), cure, rtol=1e-4)
    texts, images = [], jnp.ones((1, 20, 22, 3))
    weights = [(jnp.ones((3, 3, a, 4)), jnp.ones(4)) for a in (3, 4, 4)]
    for cures in (set(), {cure}):
        monkeypatch.setattr(rungs, "CURES", cures)
        texts.append(str(jax.make_jaxpr(jax.grad(lambda weights: rungs.features(weights, images).sum()))(weights)))
    assert texts[0] != texts[1]


def test_each_step_has_one_cure_more_than_the_one_before_and_the_last_has_all():
    assert faster.entries()[faster.FIRST].module == "obvious"
    rungs = [entry.environment["PEER_CURES"] for entry in faster.entries().values() if entry.module == "rungs"]
    sets = [set(), *(set(cures.split(",")) for cures in rungs)]
    assert all(len(more - fewer) == 1 and fewer < more for fewer, more in pairwise(sets))
    assert sets[-1] == set(faster.CURES)


def test_what_was_timed_is_a_table_a_file_and_a_picture_from_the_first_step_to_ours(tmp_path, capsys):
    steps = {name: {"seconds": 1.0 / i, "share_of_limit": 0.1 * i} for i, name in enumerate(faster.entries(), start=1)}
    steps["cnn"] = {"seconds": 0.125, "share_of_limit": 0.75}
    found = faster.report({"tasks": {"step": steps}}, tmp_path, "cpu", progress.terminal())
    assert [*found] == [faster.FIRST, *(f"+ {cure}" for cure in faster.CURES.values()), faster.OURS]
    shown = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines()]
    assert [faster.FIRST, "500", "1.0 x", "20%"] in cells
    assert [faster.OURS, "125", "4.0 x", "75%"] in cells
    assert json.loads((tmp_path / "faster.json").read_text())["milliseconds"] == found
    assert (tmp_path / "faster.png").stat().st_size > 10_000


def test_a_gpu_is_told_that_its_step_is_slow_for_other_reasons(tmp_path):
    with pytest.raises(UserError, match="--device: these are cures for a processor"):
        faster.main(faster.Settings(device="gpu", out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_all_steps_compute_the_same_and_the_last_is_as_fast_as_ours(tmp_path):
    found = faster.main(faster.Settings(rounds=1, out=tmp_path / "run"))  # compares loss and gradients first
    assert len(found) == len(faster.CURES) + 2
    *_, last, ours = found.values()
    assert 0.5 < last / ours < 2
    assert 2 * ours < found[faster.FIRST]


# Fetching pixels, and the rest


@pytest.mark.skipif(not resampling.FETCHING or jax.default_backend() != "cpu", reason="the settings are the user's")
def test_fetching_pixels_is_compiled_another_way_than_the_rest_and_is_faster_by_it():
    images = jnp.asarray(noise(8, 120, 160, 3))
    turn = resampling.sources(resampling.rotation(20.0), (120, 160), fill="reflect")
    there = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (8, *leaf.shape)), turn)
    seconds, results = [], []
    for options in (resampling.FETCHING, None):
        program = jax.jit(resampling.look, compiler_options=options)
        results.append(program(images, there).block_until_ready())
        times = []
        for _ in range(9):
            started = time.perf_counter()
            program(images, there).block_until_ready()
            times.append(time.perf_counter() - started)
        seconds.append(min(times))
    assert np.allclose(*results, atol=1e-6)
    assert 2 * seconds[0] < seconds[1], f"{seconds[0]:.4f} s, and {seconds[1]:.4f} s as the rest"  # it is seven times


# Memory that is kept

GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")
PROGRAM = """
import cnn, resource
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytearray(1 << 25)
before = faults()
for _ in range(10):
    bytearray(1 << 25)
print((faults() - before) / 10)
"""


@pytest.mark.skipif(not GLIBC, reason="the setting is one of the GNU C library")
@pytest.mark.parametrize(("setting", "kept"), [({}, True), ({"MALLOC_TOP_PAD_": "0"}, False)], ids=["ours", "theirs"])
def test_memory_that_was_freed_is_used_again_unless_the_user_has_set_malloc_already(setting, kept):
    # 32 MB are 8,192 pages of 4 KiB, or 16 large ones, which the system would hand out each of the ten times
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    program = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parents[1],
        env=environment | setting,
        capture_output=True,
        text=True,
        check=True,
    )
    pages = float(program.stdout)
    assert pages < 2 if kept else pages >= 16, f"{pages} new pages each time"
