"""The convolution for a GPU: tile by tile the same sums as the loops, and when it is used.

On a processor the programs are interpreted; on a GPU (`pytest tests/test_gpu_convolution.py`) they run as they are.
Next: test_fast_convolution.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn import gpu_convolution
from cnn.convolution import convolve_loops, convolve_loops_gradient
from cnn.fast_convolution import convolve
from cnn.gpu_convolution import convolve_on_gpu, is_exact, kernel_gradient, pays
from tests.checkers import assert_equal_arrays
from tests.test_convolution import noise

CASES = {  # images, kernel, stride: what is at the edge of a tile, or beyond it
    "few channels": ((2, 9, 11, 3), (3, 3, 3, 5), (1, 1)),
    "one tile of weights is a place": ((1, 6, 7, 32), (3, 3, 32, 32), (1, 1)),
    "steps by 2 and 3": ((2, 13, 14, 4), (6, 5, 4, 8), (2, 3)),
    "more kernels than a tile is wide": ((1, 5, 5, 2), (2, 2, 2, 70), (1, 1)),
    "one pixel": ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1)),
}
cases = pytest.mark.parametrize(("image_shape", "kernel_shape", "stride"), CASES.values(), ids=CASES)


@pytest.fixture(autouse=True)
def exact():
    """Multiplies with all bits, as `command_line.choose_device` has it."""
    with jax.default_matmul_precision("float32"):
        yield


@pytest.fixture
def everything_pays(monkeypatch):
    """Has the programs used here, where a processor would not."""
    monkeypatch.setattr(gpu_convolution, "pays", lambda images, for_gradient=False: True)


def float32(*arrays) -> list[jax.Array]:
    return [jnp.asarray(array, jnp.float32) for array in arrays]


@cases
def test_tile_by_tile_the_sums_are_those_of_the_loops(image_shape, kernel_shape, stride):
    images, kernel = noise(*image_shape), noise(*kernel_shape)
    got = gpu_convolution.convolve(*float32(images, kernel), stride)
    assert_equal_arrays(got, convolve_loops(images, kernel, stride), "convolution", rtol=1e-5, atol=1e-5)


@cases
def test_the_gradient_by_the_kernel_is_that_of_the_loops(image_shape, kernel_shape, stride):
    images, kernel = noise(*image_shape), noise(*kernel_shape)
    upstream = noise(*convolve_loops(images, kernel, stride).shape)
    got = kernel_gradient(*float32(images, upstream), kernel_shape[:2], stride)
    want = convolve_loops_gradient(images, kernel, upstream, stride)[1]
    assert_equal_arrays(got, want, "kernel gradient", rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padding", [0, 2, ((0, 1), (2, 0))], ids=["none", "two", "unlike sides"])
@pytest.mark.parametrize("stride", [(1, 1), (2, 3)], ids=["step by 1", "steps by 2 and 3"])
def test_both_gradients_with_padding_are_those_of_the_loops(stride, padding, everything_pays):
    images, kernel = noise(2, 8, 9, 3), noise(3, 4, 3, 5)
    upstream = noise(*convolve_loops(images, kernel, stride, padding).shape)
    sides = padding if isinstance(padding, tuple) else ((padding, padding),) * 2
    got, pull = jax.vjp(lambda *both: convolve_on_gpu(*both, stride, sides), *float32(images, kernel))
    assert_equal_arrays(got, convolve_loops(images, kernel, stride, padding), "forward", rtol=1e-5, atol=1e-5)
    want = convolve_loops_gradient(images, kernel, upstream, stride, padding)
    for found, by_loops, name in zip(pull(*float32(upstream)), want, ("images", "kernel")):
        assert_equal_arrays(found, by_loops, name, rtol=1e-5, atol=1e-5)


def test_many_programs_that_share_a_gradient_give_the_sum_of_all(monkeypatch):
    images, upstream = float32(noise(3, 20, 21, 2), noise(3, 18, 19, 4))
    want = kernel_gradient(images, upstream, (3, 3), (1, 1))
    for programs in (1, 7, 1000):
        monkeypatch.setattr(gpu_convolution, "PROGRAMS", programs)
        got = kernel_gradient(images, upstream, (3, 3), (1, 1))
        assert_equal_arrays(got, want, f"{programs} programs", rtol=1e-5, atol=1e-4)


def test_bfloat16_is_multiplied_as_it_is_and_summed_in_float32():
    # 1 + 255 ones: bfloat16, which has 8 bits, would stop counting at 256; exactly 288 = 9 * 32
    images, kernel = jnp.ones((1, 4, 4, 32), jnp.bfloat16), jnp.ones((3, 3, 32, 4), jnp.bfloat16)
    got = gpu_convolution.convolve(images, kernel, (1, 1))
    assert got.dtype == jnp.bfloat16
    assert got.tolist() == [[[[288.0] * 4] * 2] * 2]
    gradient = kernel_gradient(images, jnp.ones((1, 2, 2, 4), jnp.bfloat16), (3, 3), (1, 1))
    assert gradient.dtype == jnp.float32
    assert set(np.ravel(gradient)) == {4.0}


# When


def test_exact_is_float32_unless_tf32_was_asked_for():
    assert is_exact(jnp.float32)
    assert not is_exact(jnp.bfloat16)
    with jax.default_matmul_precision("tensorfloat32"):
        assert not is_exact(jnp.float32)


@pytest.mark.parametrize(
    ("precision", "dtype", "channels", "expected"),
    [
        ("float32", jnp.float32, 32, True),
        ("tensorfloat32", jnp.float32, 32, False),
        ("tensorfloat32", jnp.float32, 3, True),
        ("float32", jnp.bfloat16, 3, True),
        ("float32", jnp.bfloat16, 32, False),
        ("float32", jnp.float16, 3, False),
    ],
)
def test_the_programs_pay_where_all_bits_count_and_where_channels_are_few(
    precision, dtype, channels, expected, monkeypatch
):
    monkeypatch.setattr(gpu_convolution, "available", lambda: True)
    with jax.default_matmul_precision(precision):
        assert pays(jnp.zeros((1, 4, 4, channels), dtype)) == expected
    monkeypatch.setattr(gpu_convolution, "available", lambda: False)
    assert not pays(jnp.zeros((1, 4, 4, channels), dtype))


def test_the_kernel_gradient_in_tf32_pays_with_more_channels_too(monkeypatch):
    monkeypatch.setattr(gpu_convolution, "available", lambda: True)
    with jax.default_matmul_precision("tensorfloat32"):
        images = {channels: jnp.zeros((1, 4, 4, channels)) for channels in (32, 64)}
        assert [pays(one, for_gradient=True) for one in images.values()] == [True, False]
        assert not pays(images[32].astype(jnp.bfloat16), for_gradient=True)


def test_a_device_that_cannot_run_them_leaves_the_convolution_to_its_library(monkeypatch):
    images, kernel = float32(noise(2, 6, 7, 3), noise(3, 3, 3, 4))
    here = convolve(images, kernel, 1, 1)
    gpu_convolution.available.cache_clear()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # a GPU whose compiler refuses, since it is none
    there = jax.make_jaxpr(lambda *both: convolve(*both, 1, 1))(images, kernel)
    assert not gpu_convolution.available()
    gpu_convolution.available.cache_clear()
    assert "pallas_call" not in str(there)
    assert str(there).count("conv_general_dilated") == 1
    assert_equal_arrays(convolve(images, kernel, 1, 1), here, "the same sums", rtol=1e-5, atol=1e-5)


def test_several_devices_leave_it_to_the_library_too(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [None, None])
    gpu_convolution.available.cache_clear()
    assert not gpu_convolution.available()
    gpu_convolution.available.cache_clear()
