"""The convolution for a GPU: tile by tile the same sums as the loops, and when it is used.

On a processor the programs are interpreted; on a GPU (`pytest tests/test_gpu_convolution.py`) they run as they are.
Next: test_fast_convolution.py.
"""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from cnn import gpu_convolution
from cnn.convolution import convolve_loops, convolve_loops_gradient
from cnn.fast_convolution import convolve, convolve_on_gpu
from cnn.gpu_convolution import available, convolve_by_tiles, is_exact, kernel_gradient_by_tiles, pays
from tests.checkers import assert_equal_arrays
from tests.test_convolution import noise

pytest.importorskip("jax.experimental.pallas.triton", reason="this jax has no Triton: the library does all")

CASES = {  # images, kernel, stride: what is at the edge of a tile, or beyond it
    "few channels": ((2, 9, 11, 3), (3, 3, 3, 5), (1, 1)),
    "32 channels, so that a tile of weights is a pixel of the kernel": ((1, 6, 7, 32), (3, 3, 32, 32), (1, 1)),
    "steps by 2 and 3": ((2, 13, 14, 4), (6, 5, 4, 8), (2, 3)),
    "more kernels than a tile is wide": ((1, 5, 5, 2), (2, 2, 2, 70), (1, 1)),
    "one pixel": ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1)),
}
cases = pytest.mark.parametrize(("image_shape", "kernel_shape", "stride"), CASES.values(), ids=CASES)


@pytest.fixture(autouse=True)
def exact():
    """Multiplies with all bits, as a run does unless it is told otherwise."""
    with jax.default_matmul_precision("float32"):
        yield


@pytest.fixture
def asked_again():
    """Forgets whether the device runs such programs, before a test pretends to have another one, and after it."""
    available.cache_clear()
    yield pytest.MonkeyPatch()
    available.cache_clear()


def float32(*arrays) -> list[jax.Array]:
    return [jnp.asarray(array, jnp.float32) for array in arrays]


@cases
def test_tile_by_tile_the_sums_are_those_of_the_loops(image_shape, kernel_shape, stride):
    images, kernel = noise(*image_shape), noise(*kernel_shape)
    got = convolve_by_tiles(*float32(images, kernel), stride)
    assert_equal_arrays(got, convolve_loops(images, kernel, stride), "convolution", rtol=1e-5, atol=1e-5)


@cases
def test_the_gradient_by_the_kernel_is_that_of_the_loops(image_shape, kernel_shape, stride):
    images, kernel = noise(*image_shape), noise(*kernel_shape)
    upstream = noise(*convolve_loops(images, kernel, stride).shape)
    got = kernel_gradient_by_tiles(*float32(images, upstream), kernel_shape[:2], stride)
    want = convolve_loops_gradient(images, kernel, upstream, stride)[1]
    assert_equal_arrays(got, want, "kernel gradient", rtol=1e-5, atol=1e-5)


def test_the_taller_tile_of_tf32_gives_the_same_but_for_its_rounding():
    images, kernel = noise(2, 12, 13, 3), noise(3, 3, 3, 5)  # 220 places: two tiles of 128
    with jax.default_matmul_precision("tensorfloat32"):
        got = convolve_by_tiles(*float32(images, kernel), (1, 1))
    assert_equal_arrays(got, convolve_loops(images, kernel), "convolution", rtol=1e-2, atol=1e-2)


def test_many_programs_that_share_a_gradient_give_the_sum_of_all(monkeypatch):
    images, kernel, upstream = noise(3, 20, 21, 2), noise(3, 3, 2, 4), noise(3, 18, 19, 4)
    want = convolve_loops_gradient(images, kernel, upstream)[1]
    for programs in (1, 7, 17):  # for 17 tiles of places: 17 steps of one program, 3 of each of 6, 1 of each
        monkeypatch.setattr(gpu_convolution, "PROGRAMS", programs)
        got = kernel_gradient_by_tiles(*float32(images, upstream), (3, 3), (1, 1))
        assert_equal_arrays(got, want, f"{programs} programs", rtol=1e-5, atol=1e-4)


def test_bfloat16_is_summed_in_float32(monkeypatch):
    # In bfloat16, which keeps 8 significant bits, 256 + 1 is 256. So 256 first, then 1 in each 32 weights: 256 + 32.
    images, kernel = np.ones((1, 1, 1, 1056)), np.zeros((1, 1, 1056, 1))
    kernel[0, 0, 0], kernel[0, 0, 32::32] = 256, 1
    got = convolve_by_tiles(jnp.asarray(images, jnp.bfloat16), jnp.asarray(kernel, jnp.bfloat16), (1, 1))
    assert got.dtype == jnp.bfloat16
    assert float(got[0, 0, 0, 0]) == 256 + 32
    # The same over places, of which a program adds 64 at a time: 256 + 8.
    monkeypatch.setattr(gpu_convolution, "PROGRAMS", 1)
    images, upstream = np.ones((1, 1, 576, 1)), np.zeros((1, 1, 576, 1))
    upstream[0, 0, 0], upstream[0, 0, 64::64] = 256, 1
    images, upstream = (jnp.asarray(array, jnp.bfloat16) for array in (images, upstream))
    gradient = kernel_gradient_by_tiles(images, upstream, (1, 1), (1, 1))
    assert gradient.dtype == jnp.float32
    assert float(gradient[0, 0, 0, 0]) == 256 + 8


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("precision", ["float32", "tensorfloat32"])
def test_without_a_gpu_too_they_are_translated_for_one(precision, dtype, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    kind = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=None, platform="gpu")
    images, kernel, upstream = (
        jax.ShapeDtypeStruct(shape, dtype) for shape in ((2, 9, 10, 3), (3, 3, 3, 70), (2, 7, 8, 70))
    )
    with use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=kind)), jax.default_matmul_precision(precision):
        forward = jax.jit(lambda *both: convolve_by_tiles(*both, (1, 1))).trace(images, kernel)
        backward = jax.jit(lambda *both: kernel_gradient_by_tiles(*both, (3, 3), (1, 1))).trace(images, upstream)
        translated = [one.lower(lowering_platforms=("cuda",)).as_text() for one in (forward, backward)]
    assert [text.count("custom_call @__gpu$xla.gpu.triton") for text in translated] == [1, 1]


# How exactly, and when


@pytest.mark.parametrize(
    ("precision", "exactly"), [(name, True) for name in gpu_convolution._EXACT] + [("tensorfloat32", False)]
)
def test_products_have_all_bits_where_jax_is_set_to_it(precision, exactly):
    images, kernel = jnp.zeros((1, 4, 4, 3)), jnp.zeros((3, 3, 3, 8))
    with jax.default_matmul_precision(precision):
        assert is_exact(jnp.float32) == exactly
        assert not is_exact(jnp.bfloat16)
        # traced from new functions, since a trace is kept
        forward = jax.make_jaxpr(lambda *both: convolve_by_tiles(*both, (1, 1)))(images, kernel)
        backward = jax.make_jaxpr(lambda *both: kernel_gradient_by_tiles(*both, (3, 3), (1, 1)))(
            images, jnp.zeros((1, 2, 2, 8))
        )
    assert [("HIGHEST" in str(program)) for program in (forward, backward)] == [exactly, exactly]


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
    images = jax.ShapeDtypeStruct((1, 4, 4, channels), dtype)
    monkeypatch.setattr(gpu_convolution, "available", lambda dtype, exact: True)
    with jax.default_matmul_precision(precision):
        assert pays(images) == expected
        monkeypatch.setattr(gpu_convolution, "available", lambda dtype, exact: False)
        assert not pays(images)


def test_the_kernel_gradient_in_tf32_pays_with_more_channels_too(monkeypatch):
    monkeypatch.setattr(gpu_convolution, "available", lambda dtype, exact: True)
    with jax.default_matmul_precision("tensorfloat32"):
        images = {channels: jnp.zeros((1, 4, 4, channels)) for channels in (32, 64)}
        assert [pays(one, for_gradient=True) for one in images.values()] == [True, False]
        assert not pays(images[32].astype(jnp.bfloat16), for_gradient=True)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
@pytest.mark.parametrize(("dtype", "exact"), [(jnp.float32, True), (jnp.float32, False), (jnp.bfloat16, False)])
def test_this_gpu_runs_them(dtype, exact):
    with jax.default_matmul_precision("float32" if exact else "tensorfloat32"):
        assert available(dtype, exact)


def test_no_array_may_have_more_numbers_than_an_index_can_tell_apart(monkeypatch):
    monkeypatch.setattr(gpu_convolution, "available", lambda dtype, exact: True)
    images, result = (jax.ShapeDtypeStruct((80, 1024, 1024, n), jnp.float32) for n in (3, 32))
    assert images.size < 2**31 < result.size
    assert pays(images)
    assert not pays(images, result)


def test_they_are_available_where_one_gpu_compiles_them_and_nowhere_else(asked_again):
    def refused(*operands):
        raise NotImplementedError("too old")

    with asked_again.context() as patch:
        patch.setattr(gpu_convolution, "convolve_by_tiles", lambda images, kernel, stride: images)
        patch.setattr(gpu_convolution, "kernel_gradient_by_tiles", lambda images, upstream, window, stride: images)
        patch.setattr(jax, "default_backend", lambda: "cpu")
        assert not available(jnp.float32, True)
        patch.setattr(jax, "default_backend", lambda: "gpu")
        patch.setattr(jax, "devices", lambda: [None])
        found = {}
        for name, attribute, value in (
            ("one GPU", "PROGRAMS", 1),  # which changes nothing here
            ("no Triton", "triton", None),
            ("refused", "kernel_gradient_by_tiles", refused),
        ):
            told = pytest.warns(UserWarning, match="are not used, since they fail here: too old")
            with patch.context() as inner, told if name == "refused" else contextlib.nullcontext():
                available.cache_clear()
                inner.setattr(gpu_convolution, attribute, value)
                found[name] = available(jnp.float32, True)
        available.cache_clear()
        patch.setattr(jax, "devices", lambda: [None, None])
        found["two GPUs"] = available(jnp.float32, True)
    assert found == {"one GPU": True, "no Triton": False, "refused": False, "two GPUs": False}


# As the layers call it (fast_convolution.py)


@pytest.mark.parametrize("by_tiles", [True, False], ids=["by tiles", "by the library"])
@pytest.mark.parametrize("padding", [0, 2, ((0, 1), (2, 0))], ids=["none", "two", "unlike sides"])
@pytest.mark.parametrize("stride", [(1, 1), (2, 3)], ids=["step by 1", "steps by 2 and 3"])
def test_on_a_gpu_both_gradients_are_those_of_the_loops_either_way(stride, padding, by_tiles, monkeypatch):
    monkeypatch.setattr(gpu_convolution, "pays", lambda images, *others, for_gradient=False: by_tiles)
    images, kernel = noise(2, 8, 9, 3), noise(3, 4, 3, 5)
    upstream = noise(*convolve_loops(images, kernel, stride, padding).shape)
    sides = padding if isinstance(padding, tuple) else ((padding, padding),) * 2
    operands = float32(images, kernel, upstream)
    both = jax.make_jaxpr(lambda *both: jax.vjp(lambda *b: convolve_on_gpu(*b, stride, sides), *both[:2])[1](both[2]))
    assert str(both(*operands)).count("pallas_call") == (3 if by_tiles else 0)
    got, pull = jax.vjp(lambda *both: convolve_on_gpu(*both, stride, sides), *operands[:2])
    gradients = pull(operands[2])
    assert_equal_arrays(got, convolve_loops(images, kernel, stride, padding), "forward", rtol=1e-5, atol=1e-5)
    want = convolve_loops_gradient(images, kernel, upstream, stride, padding)
    for found, by_loops, name in zip(gradients, want, ("images", "kernel")):
        assert_equal_arrays(found, by_loops, name, rtol=1e-5, atol=1e-5)


def test_where_jax_computes_on_a_gpu_the_layers_call_its_convolution(monkeypatch):
    images, kernel = float32(noise(2, 6, 7, 3), noise(3, 3, 3, 4))
    here = convolve(images, kernel, 1, 1)
    monkeypatch.setattr(gpu_convolution, "pays", lambda images, *others, for_gradient=False: False)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    there = str(jax.make_jaxpr(lambda *both: convolve(*both, 1, 1))(images, kernel))
    assert there.count("conv_general_dilated") == 1
    assert_equal_arrays(convolve(images, kernel, 1, 1), here, "the same sums", rtol=1e-5, atol=1e-5)


def test_in_bfloat16_both_gradients_by_tiles_are_bfloat16(monkeypatch):
    monkeypatch.setattr(gpu_convolution, "pays", lambda images, *others, for_gradient=False: True)
    images, kernel = (jnp.asarray(noise(*shape), jnp.bfloat16) for shape in ((2, 8, 9, 3), (3, 4, 3, 5)))
    out, pull = jax.vjp(lambda *both: convolve_on_gpu(*both, (1, 1), ((0, 0), (0, 0))), images, kernel)
    assert [one.dtype for one in pull(jnp.ones_like(out))] == [jnp.bfloat16] * 2
