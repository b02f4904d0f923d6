"""What makes it fast, beside the plain way: the same numbers. (How fast: experiments/benchmark.py.)

More of it: four places at a time (test_fast_convolution.py), a batch in parts (test_network.py), several devices
(test_devices.py).
"""

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn import geometry
from cnn.dense import relu
from cnn.pooling import max_pool
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


# Fetching pixels, and the rest


@pytest.mark.skipif(not geometry.FETCHING or jax.default_backend() != "cpu", reason="the settings are the user's")
def test_fetching_pixels_is_compiled_another_way_than_the_rest_and_is_faster_by_it():
    images = jnp.asarray(noise(8, 120, 160, 3))
    turn = geometry.places(geometry.rotation(20.0), (120, 160), fill="reflect")
    there = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (8, *leaf.shape)), turn)
    seconds, results = [], []
    for options in (geometry.FETCHING, None):
        program = jax.jit(geometry.look, compiler_options=options)
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
