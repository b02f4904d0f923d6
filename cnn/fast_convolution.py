"""The convolution that the layers call: XLA's primitive, with a backward pass of our own that is two convolutions more.

(On a GPU other code is used: see the end of the file.)

The gradient by loops (`convolution.convolve_loops_gradient`) scatters each upstream value over a patch. Seen from the
receiving end it is a gather, and both gathers are convolutions themselves:

    d_images = upstream, spread `stride` apart and padded,  convolved with  the kernel, flipped, in and out exchanged
    d_kernel = images, padded,                              convolved with  upstream, spread `stride` apart

In the second, batch and channels trade places: the sum runs over the batch, and the "pixels" of its small result are
the kernel's. Each is written as a plain NHWC / HWIO convolution of operands that are laid out beforehand, and the
`optimization_barrier` keeps XLA from folding the layout back into the convolution: XLA on a CPU has a fast routine for
the plain form only, and inside `lax.scan` it no longer rewrites others into it (jax issue 12868; a training step of the
network of 2017 inside a scan: 20 s with jax's own gradient, 0.3 s with ours).
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from cnn.convolution import convolve_im2col, fit
from cnn.windows import Padding, Sides

_PLAIN = ("NHWC", "HWIO", "NHWC")
_FOLDED = 16  # channels after folding, at most: with more, a processor has enough to do at each place without it
_FEW, _SHORT = 4, 80  # channels, and numbers in a patch, at most, for patches to be copied
_NONE = ((0, 0), (0, 0))


def convolve(images: jax.Array, kernel: jax.Array, stride=1, padding: Padding = "VALID") -> jax.Array:
    """Convolves images with a kernel; differentiable in both by `jax.grad` (on a GPU not twice), not by `jax.jvp`.

    out[n, y, x, o] = sum over i, j, c of padded[n, y * stride + i, x * stride + j, c] * kernel[i, j, c, o]

    Args:
        images: (batch, height, width, in_channels), floating point.
        kernel: (kernel_height, kernel_width, in_channels, out_channels), of the same dtype.
        stride: pixels from place to place, one int or (vertical, horizontal).
        padding: "VALID", "SAME", an int, or ((top, bottom), (left, right)); padded pixels are 0.
    Returns:
        (batch, out_height, out_width, out_channels), out = floor((size + padding - kernel) / stride) + 1.
    Raises:
        ShapeError: if the shapes do not fit together (see `convolution.fit`).

    >>> import jax.numpy as jnp
    >>> row = jnp.array([1.0, 2.0, 4.0, 8.0]).reshape(1, 1, 4, 1)
    >>> difference = jnp.array([-1.0, 1.0]).reshape(1, 2, 1, 1)
    >>> convolve(row, difference).ravel().tolist()  # 2 - 1, 4 - 2, 8 - 4
    [1.0, 2.0, 4.0]
    """
    stride, sides, out = fit(images.shape, kernel.shape, stride, padding)
    if jax.default_backend() != "cpu":  # what is done below is for processors
        return convolve_on_gpu(images, kernel, stride, sides)
    # Few channels, and a kernel made of whole blocks: a block's pixels can lie side by side, as channels.
    if 1 < stride[0] * stride[1] <= _FOLDED / kernel.shape[2] and not any(w % s for w, s in zip(kernel.shape, stride)):
        return _convolve(*fold(images, kernel, stride, sides, out), (1, 1), _NONE)
    return _convolve(images, kernel, stride, sides)


def _padded(images: jax.Array, edges) -> jax.Array:
    """Images with zeros around them: `edges` is (low, high, between) for rows and columns; a negative one cuts off."""
    return lax.pad(images, jnp.zeros((), images.dtype), [(0, 0, 0), *edges, (0, 0, 0)])


def fold(images: jax.Array, kernel: jax.Array, stride, sides: Sides, out) -> tuple[jax.Array, jax.Array]:
    """Lays blocks of stride x stride pixels into channels: a convolution that steps by 1, with the same result.

    A 6 x 6 kernel that steps by 2 over one channel becomes a 3 x 3 kernel that steps by 1 over four. For 16 images of
    128 x 128 and 16 kernels, forward and backward, one core: 9.1 ms before, 5.9 ms after.

    Args:
        images, kernel: see `convolve`; the kernel's sides are multiples of the stride.
        out: height and width of the result.
    Returns:
        images (batch, height / stride, width / stride, stride^2 * in), padded and cut to what the kernel reaches, and
        the kernel (kernel_height / stride, kernel_width / stride, stride^2 * in, out).
    """
    (batch, height, width, channels), (sy, sx) = images.shape, stride
    far = [  # what the last place needs beyond the far edge, negative where it ends before it
        (places - 1) * s + w - n - low
        for places, s, w, n, (low, _) in zip(out, stride, kernel.shape, (height, width), sides)
    ]
    padded = _padded(images, [(sides[0][0], far[0], 0), (sides[1][0], far[1], 0)])
    rows, columns = padded.shape[1] // sy, padded.shape[2] // sx
    # A row of a block lies in one piece already: pieces put side by side take 0.1 ms where exchanging axes takes 0.5.
    lines = padded.reshape(batch, rows, sy, columns, sx * channels)
    blocks = jnp.concatenate([lines[:, :, i] for i in range(sy)], axis=-1)
    taps = kernel.reshape(kernel.shape[0] // sy, sy, kernel.shape[1] // sx, sx, channels, -1).transpose(
        0, 2, 1, 3, 4, 5
    )
    return blocks, taps.reshape(*taps.shape[:2], sy * sx * channels, kernel.shape[3])


# `custom_vjp` takes a gradient of ours in place of jax's own. `_forward` gives the result and what the way back needs;
# `_backward` gets that and `upstream`, the gradient of the loss by the result, and returns the gradient by each
# argument that has one. Those that have none, `nondiff_argnums`, come first in `_backward`.
@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(images: jax.Array, kernel: jax.Array, stride: tuple[int, int], sides: Sides) -> jax.Array:
    # A patch of few channels XLA's routine gathers number by number; to copy its lines beforehand takes less. (32 x 120
    # x 160 x 3 to 32 channels: 42 ms before, 17 so, on one core.) Longer patches are not worth the copy.
    if kernel.shape[2] <= _FEW and kernel.shape[0] > 1 and math.prod(kernel.shape[:3]) <= _SHORT:
        return convolve_im2col(images, kernel, stride, sides)
    return lax.conv_general_dilated(images, kernel, stride, sides, dimension_numbers=_PLAIN)


def _forward(images, kernel, stride, sides):
    return _convolve(images, kernel, stride, sides), (images, kernel)


def _backward(stride, sides, saved, upstream):
    images, kernel = saved
    return (
        image_gradient(images.shape, kernel, upstream, stride, sides),
        kernel_gradient(images, kernel.shape, upstream, stride, sides),
    )


_convolve.defvjp(_forward, _backward)


def image_gradient(image_shape, kernel: jax.Array, upstream: jax.Array, stride, sides: Sides) -> jax.Array:
    """d_images, (batch, height, width, in): the upstream gradient convolved with the flipped, exchanged kernel.

    Pixel u of the padded image lies under kernel[i] at place y where y * stride + i = u. So going back, offset i looks
    i *behind* u (the flip), and only every stride-th pixel is a place (the spreading). The image's pixel 0 is padded
    pixel `top`; the first window that could reach it begins kernel - 1 before that, so kernel - 1 - top before place 0:
    as many zeros go in front (the padding).
    """
    padding = _behind(image_shape, kernel.shape, upstream.shape, stride, sides)
    exchanged = lax.optimization_barrier(kernel[::-1, ::-1].transpose(0, 1, 3, 2))  # (height, width, out, in)
    # lhs_dilation: stride - 1 zeros between the pixels of the first operand; below, rhs_dilation: of the second
    return lax.conv_general_dilated(upstream, exchanged, (1, 1), padding, lhs_dilation=stride, dimension_numbers=_PLAIN)


def _behind(image_shape, kernel_shape, out_shape, stride, sides: Sides) -> list[tuple[int, int]]:
    """What the upstream gradient, once spread, is padded with, so that the kernel has a place for each pixel."""
    return [
        (w - 1 - low, n + low - 1 - (places - 1) * s)
        for w, n, (low, _), places, s in zip(kernel_shape[:2], image_shape[1:3], sides, out_shape[1:3], stride)
    ]


def kernel_gradient(images: jax.Array, kernel_shape, upstream: jax.Array, stride, sides: Sides) -> jax.Array:
    """d_kernel, (kernel_height, kernel_width, in, out): the images convolved with the upstream gradient.

    d_kernel[i, j, c, o] = sum over n, y, x of padded[n, y * stride + i, x * stride + j, c] * upstream[n, y, x, o]: a
    convolution whose batch is c, whose channels are n and whose window is as large as the output.
    """
    size, out = images.shape[1:3], upstream.shape[1:3]
    padding = [  # at the far end just enough for kernel_size places: pixels that no window reached are left out
        (low, w + (places - 1) * s - n - low)
        for w, n, (low, _), places, s in zip(kernel_shape[:2], size, sides, out, stride)
    ]
    by_channel, window = lax.optimization_barrier(
        (images.transpose(3, 1, 2, 0), upstream.transpose(1, 2, 0, 3))  # (in, height, width, batch), (y, x, batch, out)
    )
    gradient = lax.conv_general_dilated(
        by_channel, window, (1, 1), padding, rhs_dilation=stride, dimension_numbers=_PLAIN
    )
    return gradient.transpose(1, 2, 0, 3)  # from (in, kernel_height, kernel_width, out)


# ------------------------------------------------------------------------------------------------------------ on a GPU


def _by_library(images: jax.Array, kernel: jax.Array, stride, sides: Sides) -> jax.Array:
    return lax.conv_general_dilated(images, kernel, stride, sides, dimension_numbers=_PLAIN)


def _by_tiles(images: jax.Array, kernel: jax.Array, stride, edges) -> jax.Array | None:
    """The convolution of images padded by `edges` (low, high, between) by our own programs; None if they do not pay."""
    from cnn import gpu_convolution  # here: a processor need not wait for the import of Pallas

    padded = _padded(images, edges)
    out = jax.eval_shape(partial(_by_library, stride=stride, sides=_NONE), padded, kernel)
    return gpu_convolution.convolve_by_tiles(padded, kernel, stride) if gpu_convolution.pays(padded, out) else None


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve_on_gpu(images: jax.Array, kernel: jax.Array, stride: tuple[int, int], sides: Sides) -> jax.Array:
    """`convolve`, by the programs of `gpu_convolution.py` where they pay, else by XLA's library; gradients too.

    (batch, height, width, in) and (kernel_height, kernel_width, in, out) -> (batch, out_height, out_width, out). The
    formulas of the gradients are those above.
    """
    result = _by_tiles(images, kernel, stride, [(*side, 0) for side in sides])
    return _by_library(images, kernel, stride, sides) if result is None else result


def _backward_on_gpu(stride, sides, saved, upstream):
    from cnn import gpu_convolution

    images, kernel = saved
    _, by_library = jax.vjp(partial(_by_library, stride=stride, sides=sides), images, kernel)
    d_images, d_kernel = by_library(upstream)  # jit removes the one that is replaced below
    behind = _behind(images.shape, kernel.shape, upstream.shape, stride, sides)
    edges = [(low, high, s - 1) for (low, high), s in zip(behind, stride)]
    by_tiles = _by_tiles(upstream, kernel[::-1, ::-1].transpose(0, 1, 3, 2), (1, 1), edges)
    d_images = d_images if by_tiles is None else by_tiles
    padded = _padded(images, [(*side, 0) for side in sides])
    if gpu_convolution.pays(padded, upstream, for_gradient=True):
        d_kernel = gpu_convolution.kernel_gradient_by_tiles(padded, upstream, kernel.shape[:2], stride)
    return d_images, d_kernel.astype(kernel.dtype)


convolve_on_gpu.defvjp(
    lambda images, kernel, stride, sides: (convolve_on_gpu(images, kernel, stride, sides), (images, kernel)),
    _backward_on_gpu,
)
