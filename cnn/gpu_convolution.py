"""The convolution as a GPU computes it: many small programs at once, each of which makes one tile of the result.

A program takes some tens of places, and the kernel as a matrix, one row a weight and one column an output channel. It
gathers what the weights see at its places, a matrix with one row a place, and multiplies the two: the product of
`convolution.convolve_im2col`, but no patch is ever written to memory. The gradient by the kernel is the transposed
product, patches.T @ upstream, summed over all places; each program sums over some of them, and the sums are added up
in a fixed order, so that the same seed gives the same bits.

NVIDIA's library, which XLA calls, is made for many channels and for products of 11 bits (tf32). Microseconds on an
H100, for the first two convolutions of the network of 2017 (32 images; 3 to 32 channels, 32 to 32):

                                  first, library   here   second, library   here
    float32     convolution                   99     61               133    102
                kernel gradient            1,140     65               432    107
    tf32        convolution                   57     38                37     34
                kernel gradient              156     50               130     60

A step of its training went from 3.02 to 1.04 ms in float32, and from 0.99 to 0.67 in tf32. The library's gradient of
the second, in float32, is off by 2e-5 of its norm, since it goes by way of Fourier transforms; that of here by 5e-7.

The programs are written in Pallas, jax's language for them (https://docs.jax.dev/en/latest/pallas/), and become machine
code through Triton (which jax 0.11 announces to give up one day: then the library does all, see `available`). On a
processor they are interpreted, slowly, which is for tests.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from cnn.windows import Sides

PROGRAMS = 1056  # that sum a kernel gradient: 8 for each of the 132 processors of an H100


def is_exact(dtype: jnp.dtype) -> bool:
    """Whether float32 is to be multiplied with all of its 24 bits, and not as tf32 (`command_line.choose_device`)."""
    return dtype == jnp.float32 and jax.config.jax_default_matmul_precision in ("float32", "highest")


def _power_of_two(number: int, most: int) -> int:
    """The smallest that is at least `number` and 16, or `most`: sides of tiles must be powers of two."""
    return min(most, max(16, 1 << (number - 1).bit_length()))


def _run(program, grid: tuple[int, ...], size: int, dtype: jnp.dtype, stages: int, *operands: jax.Array) -> jax.Array:
    """Runs program(*operands, out) for every number in the grid; operands and result, of `size` numbers, are flat."""
    call = pl.pallas_call(
        program,
        grid=grid,
        out_shape=jax.ShapeDtypeStruct((size,), dtype),
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=stages),
        interpret=jax.default_backend() == "cpu",
    )
    return call(*(operand.ravel() for operand in operands))


def _multiply(a: jax.Array, b: jax.Array, exact: bool) -> jax.Array:
    precision = lax.Precision.HIGHEST if exact else lax.Precision.DEFAULT
    return lax.dot(a, b, precision=precision, preferred_element_type=jnp.float32)


def _patches(images, place: jax.Array, weight: jax.Array, shape, window, stride, out) -> jax.Array:
    """What each weight sees at each place: (places, weights).

    `lax.div` and `lax.rem`, since they cut off as processors do: of `//` and `%`, which round down, the compiler does
    not see that neighbouring channels lie beside each other, and it loads them one by one.
    """
    batch, height, width, channels = shape
    n, y, x = lax.div(place, out[0] * out[1]), lax.rem(lax.div(place, out[1]), out[0]), lax.rem(place, out[1])
    row = window[1] * channels
    i, j, c = lax.div(weight, row), lax.rem(lax.div(weight, channels), window[1]), lax.rem(weight, channels)
    corner = ((n * height + y * stride[0]) * width + x * stride[1]) * channels
    below = (i * width + j) * channels + c
    inside = (place < batch * out[0] * out[1])[:, None] & (weight < window[0] * row)
    return triton.load(images.at[corner[:, None] + below], mask=inside, other=0)


def convolve(images: jax.Array, kernel: jax.Array, stride: tuple[int, int]) -> jax.Array:
    """The convolution of `convolution.convolve_loops`, without padding.

    Args:
        images: (batch, height, width, in_channels), float32 or bfloat16, fewer than 2^31 numbers.
        kernel: (kernel_height, kernel_width, in_channels, out_channels), of the same dtype.
        stride: (vertical, horizontal) pixels from place to place.
    Returns:
        (batch, out_height, out_width, out_channels).
    """
    (batch, height, width, channels), (*window, _, kernels) = images.shape, kernel.shape
    out = (height - window[0]) // stride[0] + 1, (width - window[1]) // stride[1] + 1
    weights, places, exact = window[0] * window[1] * channels, batch * out[0] * out[1], is_exact(images.dtype)
    tall, deep, wide = 64 if exact else 128, 32, _power_of_two(kernels, 64)  # of a tile: places, weights, out_channels

    def program(images, kernel, result):
        place = pl.program_id(0) * tall + jnp.arange(tall)
        o = pl.program_id(1) * wide + jnp.arange(wide)

        def add(step, total):
            weight = step * deep + jnp.arange(deep)
            patches = _patches(images, place, weight, (batch, height, width, channels), window, stride, out)
            inside = (weight < weights)[:, None] & (o < kernels)
            columns = triton.load(kernel.at[weight[:, None] * kernels + o], mask=inside, other=0)
            return total + _multiply(patches, columns, exact)

        total = lax.fori_loop(0, pl.cdiv(weights, deep), add, jnp.zeros((tall, wide), jnp.float32))
        inside = (place < places)[:, None] & (o < kernels)
        triton.store(result.at[place[:, None] * kernels + o], total.astype(result.dtype), mask=inside)

    grid = pl.cdiv(places, tall), pl.cdiv(kernels, wide)
    return _run(program, grid, places * kernels, images.dtype, 3, images, kernel).reshape(batch, *out, kernels)


def kernel_gradient(
    images: jax.Array, upstream: jax.Array, window: tuple[int, int], stride: tuple[int, int]
) -> jax.Array:
    """d_kernel of a convolution without padding: (kernel_height, kernel_width, in_channels, out_channels), float32.

    Args:
        images: (batch, height, width, in_channels), float32 or bfloat16, fewer than 2^31 numbers.
        upstream: the gradient by the output, (batch, out_height, out_width, out_channels), of the same dtype.
        window: (kernel_height, kernel_width).
        stride: (vertical, horizontal) pixels from place to place.
    """
    (batch, height, width, channels), (_, *out, kernels) = images.shape, upstream.shape
    weights, places, exact = window[0] * window[1] * channels, batch * out[0] * out[1], is_exact(images.dtype)
    tall, deep, wide = 64, _power_of_two(weights, 64), _power_of_two(kernels, 64)
    across = pl.cdiv(weights, deep) * pl.cdiv(kernels, wide)
    steps = pl.cdiv(pl.cdiv(places, tall), max(1, PROGRAMS // across))  # of each program
    parts = pl.cdiv(pl.cdiv(places, tall), steps)

    def program(images, upstream, result):
        part = pl.program_id(0)
        weight = pl.program_id(1) * deep + jnp.arange(deep)
        o = pl.program_id(2) * wide + jnp.arange(wide)

        def add(step, total):
            place = (part * steps + step) * tall + jnp.arange(tall)
            patches = _patches(images, place, weight, (batch, height, width, channels), window, stride, out)
            inside = (place < places)[:, None] & (o < kernels)
            columns = triton.load(upstream.at[place[:, None] * kernels + o], mask=inside, other=0)
            return total + _multiply(patches.T, columns, exact)

        total = lax.fori_loop(0, steps, add, jnp.zeros((deep, wide), jnp.float32))
        inside = (weight < weights)[:, None] & (o < kernels)
        triton.store(result.at[(part * weights + weight)[:, None] * kernels + o], total, mask=inside)

    grid = parts, pl.cdiv(weights, deep), pl.cdiv(kernels, wide)
    # One tile's loads at a time: of several on their way, Triton would turn each over number by number, not in fours.
    sums = _run(program, grid, parts * weights * kernels, jnp.float32, 1, images, upstream)
    return sums.reshape(parts, *window, channels, kernels).sum(0)


# ------------------------------------------------------------------------------------------ which of the two is faster


@functools.cache
def available() -> bool:
    """Whether the one device runs such programs. (Several would each have to be told their part of the batch.)"""
    if jax.default_backend() != "gpu" or len(jax.devices()) > 1:
        return False
    images, kernel, upstream = (
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 4, 4, 1), (3, 3, 1, 1), (1, 2, 2, 1))
    )
    try:
        jax.jit(convolve, static_argnums=2).lower(images, kernel, (1, 1)).compile()
        jax.jit(kernel_gradient, static_argnums=(2, 3)).lower(images, upstream, (3, 3), (1, 1)).compile()
    except Exception:  # whatever an old GPU's compiler says: XLA's own way remains
        return False
    return True


def pays(images: jax.Array, *, for_gradient: bool = False) -> bool:
    """Whether the programs here are the faster way for a convolution of these images, or for its kernel gradient."""
    few = 64 if for_gradient and images.dtype == jnp.float32 else 16
    kinds = images.dtype in (jnp.float32, jnp.bfloat16)
    return kinds and images.size < 2**31 and (is_exact(images.dtype) or images.shape[3] < few) and available()


def _by_library(images: jax.Array, kernel: jax.Array, stride, sides: Sides) -> jax.Array:
    return lax.conv_general_dilated(images, kernel, stride, sides, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve_on_gpu(images: jax.Array, kernel: jax.Array, stride: tuple[int, int], sides: Sides) -> jax.Array:
    """`fast_convolution.convolve` on a GPU: by the programs here where that pays, by XLA's library elsewhere."""
    return _forward(images, kernel, stride, sides)[0]


def _forward(images, kernel, stride, sides):
    if not pays(images):
        return _by_library(images, kernel, stride, sides), (images, kernel)
    padded = lax.pad(images, jnp.zeros((), images.dtype), [(0, 0, 0), *((*side, 0) for side in sides), (0, 0, 0)])
    return convolve(padded, kernel, stride), (images, kernel)


def _backward(stride, sides, saved, upstream):
    images, kernel = saved
    _, by_library = jax.vjp(functools.partial(_by_library, stride=stride, sides=sides), images, kernel)
    d_images, d_kernel = by_library(upstream)  # who needs none of the two has XLA compute none
    zero = jnp.zeros((), images.dtype)
    if pays(upstream):
        # Weight i sees pixel u of the padded image from place (u - i) / stride. So the gradient of u is a convolution
        # too, of the upstream, spread `stride` apart, with the kernel flipped, its in and out exchanged.
        edges = [
            (w - 1 - low, n + low - 1 - (places - 1) * s, s - 1)
            for w, n, (low, _), places, s in zip(kernel.shape, images.shape[1:3], sides, upstream.shape[1:3], stride)
        ]
        spread = lax.pad(upstream, zero, [(0, 0, 0), *edges, (0, 0, 0)])
        d_images = convolve(spread, kernel[::-1, ::-1].transpose(0, 1, 3, 2), (1, 1))
    if pays(images, for_gradient=True):
        padded = lax.pad(images, zero, [(0, 0, 0), *((*side, 0) for side in sides), (0, 0, 0)])
        d_kernel = kernel_gradient(padded, upstream, kernel.shape[:2], stride).astype(kernel.dtype)
    return d_images, d_kernel


convolve_on_gpu.defvjp(_forward, _backward)
