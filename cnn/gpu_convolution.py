"""The convolution as a GPU computes it: many small programs at once, each of which makes one tile of the result.

A GPU has many multiprocessors (an H100: 132), each with little fast memory of its own, and one large, slow memory for
all. What is slow is fetching, not multiplying, so what was fetched must be used often. As in
`convolution.convolve_im2col` the kernel is a matrix: below, a *tap* is the number of one of its rows, (i, j, c) in
the window, and a *place* is the number of an output pixel, (n, y, x). A *tile* is the result for 64 or 128 places and
up to 64 output channels; a *program* makes one. It goes through the taps 32 at a time: fetches what these see at
its places, (places, 32), and their rows of the kernel, (32, out_channels), multiplies the two, and adds the product to
its sums, which stay in fast memory until they are done. So each number of a patch serves up to 64 channels, each of the
kernel 64 or 128 places, and the matrix of all patches, nine times the image for a 3 x 3 kernel, never exists whole.

The gradient by the kernel is the transposed product, patches.T @ upstream, with the sum over places: a tile is up to 64
taps and 64 output channels, and its programs go through some of the places each, 64 at a time. Their sums are added
up in a fixed order, so that the same seed gives the same bits.

NVIDIA's library (cuDNN), which XLA calls, is made for many channels, and for factors rounded to 11 significant bits
(tf32; sums are float32). Microseconds on an H100, for two convolutions of 32 images (120 x 160 of 3 channels and
59 x 79 of 32; 3 x 3, to 32 channels). The library is asked as this project asks it, for the same bits every time, for
which XLA takes the first of its routines that will do (see `__init__.py`), not the fastest that it finds:

                                 3 channels: library   here   32 channels: library   here
    float32     convolution                       99     61                    133    102
                kernel gradient                1,140     65                    432    107
    tf32        convolution                       57     38                     37     34
                kernel gradient                  156     50                    130     60

Its kernel gradient of 32 channels in float32 goes by way of Fourier transforms: the error is 2e-5 of the norm, here
5e-7. The programs are written in Pallas, jax's language for them (https://docs.jax.dev/en/latest/pallas/), and become
machine code through Triton, which jax 0.11 announces to give up one day; then the library does all again (`available`).
On a processor they are interpreted, slowly, which is for tests.
"""

import functools
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

try:
    from jax.experimental.pallas import triton
except ImportError:
    triton = None

# Programs that share a kernel gradient: 8 for each multiprocessor of an H100. Each has sums of its own, that are added
# up after; so there are no more than it takes to keep the GPU busy.
PROGRAMS = 1056
_EXACT = ("float32", "highest", "F32_F32_F32")  # jax's names for products of all 24 significant bits


def is_exact(dtype: jnp.dtype) -> bool:
    """Whether numbers are float32 and jax is set to multiply them with all 24 bits, and not as tf32 with 11."""
    return dtype == jnp.float32 and jax.config.jax_default_matmul_precision in _EXACT


def _power_of_two(number: int, most: int) -> int:
    """The smallest power of two that is at least 16 and `number`, but `most` at most: Triton requires such sides."""
    return min(most, max(16, 1 << (number - 1).bit_length()))


def _run(program: Callable, grid: tuple[int, ...], size: int, dtype, ahead: int, *operands: jax.Array) -> jax.Array:
    """Starts a copy of program(*operands, result) for each cell of the grid; `pl.program_id(axis)` is its position.

    A copy gets references, the addresses of arrays, all flat here. `triton.load` fetches the numbers at a matrix of
    indices, with 0 where its mask is False, since the last tile hangs over the edge. 4 x 32 threads share a tile.

    Args:
        size, dtype: of the flat result.
        ahead: 1 loads what a step of a loop needs when it needs it; 3 has the loads of two further steps on their way.
    """
    call = pl.pallas_call(
        program,
        grid=grid,
        out_shape=jax.ShapeDtypeStruct((size,), dtype),
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=ahead),
        interpret=jax.default_backend() == "cpu",
    )
    return call(*(operand.ravel() for operand in operands))


def _multiply(a: jax.Array, b: jax.Array, exact: bool) -> jax.Array:
    precision = lax.Precision.HIGHEST if exact else lax.Precision.DEFAULT  # the second is tf32 for float32
    return lax.dot(a, b, precision=precision, preferred_element_type=jnp.float32)


def _patches(images_ref, place: jax.Array, tap: jax.Array, image_shape, window, stride, out) -> jax.Array:
    """What each tap sees at each place: (places, taps), from the places' and the taps' numbers.

    In a flat array pixel (n, y, x, c) is number ((n * height + y) * width + x) * channels + c. `corner` is the part of
    it that depends on the place, `below` the part that depends on the tap, and their sum is what to fetch.

    `lax.div` rounds towards 0 and `//` down. Nothing is negative here, so both are right; but what `//` does for
    negative numbers hides from the compiler that neighbouring channels lie side by side, and it fetches them one by
    one, not in fours: 121 us for a convolution of 32 channels in float32 instead of 102.
    """
    batch, height, width, channels = image_shape
    n, y, x = lax.div(place, out[0] * out[1]), lax.rem(lax.div(place, out[1]), out[0]), lax.rem(place, out[1])
    row = window[1] * channels
    i, j, c = lax.div(tap, row), lax.rem(lax.div(tap, channels), window[1]), lax.rem(tap, channels)
    corner = ((n * height + y * stride[0]) * width + x * stride[1]) * channels
    below = (i * width + j) * channels + c
    inside = (place < batch * out[0] * out[1])[:, None] & (tap < window[0] * row)
    return triton.load(images_ref.at[corner[:, None] + below], mask=inside, other=0)


def convolve_by_tiles(images: jax.Array, kernel: jax.Array, stride: tuple[int, int]) -> jax.Array:
    """The convolution of `convolution.convolve_loops`, without padding.

    Args:
        images: (batch, height, width, in_channels), float32 or bfloat16, fewer than 2^31 numbers.
        kernel: (kernel_height, kernel_width, in_channels, out_channels), of the same dtype.
        stride: (vertical, horizontal) pixels from place to place.
    Returns:
        (batch, out_height, out_width, out_channels), fewer than 2^31 numbers, of the same dtype; sums are float32.
    """
    (*window, _, out_channels), (batch, height, width, channels) = kernel.shape, images.shape
    out = (height - window[0]) // stride[0] + 1, (width - window[1]) // stride[1] + 1
    taps, places, exact = window[0] * window[1] * channels, batch * out[0] * out[1], is_exact(images.dtype)
    tile_places, tile_taps, tile_out = 64 if exact else 128, 32, _power_of_two(out_channels, 64)

    def program(images_ref, kernel_ref, result_ref):
        place = pl.program_id(0) * tile_places + jnp.arange(tile_places)
        o = pl.program_id(1) * tile_out + jnp.arange(tile_out)

        def add(step, total):
            tap = step * tile_taps + jnp.arange(tile_taps)
            patches = _patches(images_ref, place, tap, images.shape, window, stride, out)
            inside = (tap < taps)[:, None] & (o < out_channels)
            columns = triton.load(kernel_ref.at[tap[:, None] * out_channels + o], mask=inside, other=0)
            return total + _multiply(patches, columns, exact)

        total = lax.fori_loop(0, pl.cdiv(taps, tile_taps), add, jnp.zeros((tile_places, tile_out), jnp.float32))
        inside = (place < places)[:, None] & (o < out_channels)
        triton.store(result_ref.at[place[:, None] * out_channels + o], total.astype(images.dtype), mask=inside)

    grid = pl.cdiv(places, tile_places), pl.cdiv(out_channels, tile_out)
    result = _run(program, grid, places * out_channels, images.dtype, 3, images, kernel)
    return result.reshape(batch, *out, out_channels)


def kernel_gradient_by_tiles(
    images: jax.Array, upstream: jax.Array, window: tuple[int, int], stride: tuple[int, int]
) -> jax.Array:
    """d_kernel of a convolution without padding: (kernel_height, kernel_width, in_channels, out_channels), float32.

    Args:
        images: (batch, height, width, in_channels), float32 or bfloat16, fewer than 2^31 numbers.
        upstream: the gradient by the output, (batch, out_height, out_width, out_channels), likewise.
        window: (kernel_height, kernel_width).
        stride: (vertical, horizontal) pixels from place to place.
    """
    (batch, _, _, channels), (_, *out, out_channels) = images.shape, upstream.shape
    taps, places, exact = window[0] * window[1] * channels, batch * out[0] * out[1], is_exact(images.dtype)
    tile_places, tile_taps, tile_out = 64, _power_of_two(taps, 64), _power_of_two(out_channels, 64)
    across = pl.cdiv(taps, tile_taps), pl.cdiv(out_channels, tile_out)
    steps = pl.cdiv(pl.cdiv(places, tile_places), max(1, PROGRAMS // (across[0] * across[1])))  # of each program
    parts = pl.cdiv(pl.cdiv(places, tile_places), steps)

    def program(images_ref, upstream_ref, result_ref):
        part = pl.program_id(0)
        tap = pl.program_id(1) * tile_taps + jnp.arange(tile_taps)
        o = pl.program_id(2) * tile_out + jnp.arange(tile_out)

        def add(step, total):
            place = (part * steps + step) * tile_places + jnp.arange(tile_places)
            patches = _patches(images_ref, place, tap, images.shape, window, stride, out)
            inside = (place < places)[:, None] & (o < out_channels)
            columns = triton.load(upstream_ref.at[place[:, None] * out_channels + o], mask=inside, other=0)
            return total + _multiply(patches.T, columns, exact)

        total = lax.fori_loop(0, steps, add, jnp.zeros((tile_taps, tile_out), jnp.float32))
        inside = (tap < taps)[:, None] & (o < out_channels)
        triton.store(result_ref.at[(part * taps + tap)[:, None] * out_channels + o], total, mask=inside)

    # Nothing is loaded ahead: it would be transposed on its way, one number at a time instead of four.
    sums = _run(program, (parts, *across), parts * taps * out_channels, jnp.float32, 1, images, upstream)
    return sums.reshape(parts, *window, channels, out_channels).sum(0)


# --------------------------------------------------------------------------------------------------- when they are used


@functools.cache
def available(dtype: jnp.dtype, exact: bool) -> bool:
    """Whether the device runs such programs for this dtype: the largest tiles are compiled, to see.

    With several devices none are used: XLA can divide its own operations among them, but not what it cannot look into.
    `exact`, which the programs find out themselves (`is_exact`), is here so that each answer is kept by itself.
    """
    if triton is None or jax.default_backend() != "gpu" or len(jax.devices()) > 1:
        return False
    images, kernel, upstream = (
        jax.ShapeDtypeStruct(shape, dtype) for shape in ((1, 9, 9, 64), (3, 3, 64, 64), (1, 7, 7, 64))
    )
    try:
        jax.jit(convolve_by_tiles, static_argnums=2).lower(images, kernel, (1, 1)).compile()
        jax.jit(kernel_gradient_by_tiles, static_argnums=(2, 3)).lower(images, upstream, (3, 3), (1, 1)).compile()
    except Exception as error:  # whatever an old GPU's compiler says: XLA's own way remains
        warnings.warn(f"the convolutions made for GPUs are not used, since they fail here: {error}", stacklevel=2)
        return False
    return True


def pays(images: jax.Array, *others: jax.Array, for_gradient: bool = False) -> bool:
    """Whether a convolution of `images`, or its kernel gradient, is left to the programs here.

    In exact float32 always; else below 16 channels; in tf32 the kernel gradient below 64. Measured are 3 and 32
    channels, in float32 and tf32; where between them the limits lie is a guess. At 32 channels in tf32 the library's
    convolution, as good as equal, remains. No array, `others` included, may have 2^31 numbers: an index has 32 bits.
    """
    few = 64 if for_gradient and images.dtype == jnp.float32 else 16
    exact, fits = is_exact(images.dtype), all(array.size < 2**31 for array in (images, *others))
    kinds = images.dtype in (jnp.float32, jnp.bfloat16) and fits
    return kinds and (exact or images.shape[3] < few) and available(images.dtype, exact)
