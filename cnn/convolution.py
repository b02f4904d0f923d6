"""The convolution, to understand it: the same sum four ways, and its gradient.

A kernel is a small stack of weights, (kernel_height, kernel_width, in_channels, out_channels). It slides over the
image; at each place it is multiplied with the pixels under it, and the products are summed:

    out[n, y, x, o] = sum over i, j, c of  padded[n, y * stride + i, x * stride + j, c] * kernel[i, j, c, o]

That is what every deep-learning library calls a convolution. Signal processing calls it a cross-correlation: its own
convolution flips the kernel in both directions first. For weights that are learned the flip makes no difference.

The functions here are for reading and for checking one another. The layers call `fast_convolution.convolve`, which
takes `convolve_im2col` from here where an image has few channels.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn.errors import ShapeError
from cnn.windows import Padding, Sides, pair, places, resolve_padding


def fit(
    image_shape: tuple[int, ...], kernel_shape: tuple[int, ...], stride: int | tuple[int, int], padding: Padding
) -> tuple[tuple[int, int], Sides, tuple[int, int]]:
    """Checks that a kernel fits on images, and says where its places are.

    Args:
        image_shape: (batch, height, width, in_channels).
        kernel_shape: (kernel_height, kernel_width, in_channels, out_channels).
        stride: pixels from place to place, one int or (vertical, horizontal).
        padding: see `windows.resolve_padding`; padded pixels are 0.
    Returns:
        the stride as a pair, the padding as ((top, bottom), (left, right)), and the output's (height, width).
    Raises:
        ShapeError: for a wrong number of axes, channels that differ, or a kernel larger than the padded image.
    """
    if len(image_shape) != 4:
        raise ShapeError("convolution", f"images of shape {image_shape}", "(batch, height, width, channels)")
    if len(kernel_shape) != 4:
        raise ShapeError("convolution", f"a kernel of shape {kernel_shape}", "(height, width, in, out)")
    if image_shape[3] != kernel_shape[2]:
        raise ShapeError(
            "convolution", f"images of shape {image_shape}", f"{kernel_shape[2]} channels on the last axis"
        )
    stride = pair(stride, "stride of a convolution")
    size, window = image_shape[1:3], kernel_shape[:2]
    sides = resolve_padding(padding, size, window, stride)
    out = tuple(places(n, w, s, p) for n, w, s, p in zip(size, window, stride, sides))
    if min(out) < 1:
        raise ShapeError(
            "convolution",
            f"images of shape {image_shape} with padding {sides}",
            f"a padded image at least as large as its {window[0]} x {window[1]} kernel",
        )
    return stride, sides, out


def convolve_loops(images: np.ndarray, kernel: np.ndarray, stride=1, padding: Padding = "VALID") -> np.ndarray:
    """The definition, as loops over the places: (batch, height, width, in) -> (batch, out_height, out_width, out)."""
    (sy, sx), sides, (out_height, out_width) = fit(images.shape, kernel.shape, stride, padding)
    padded = np.pad(images, ((0, 0), *sides, (0, 0)))
    kernel_height, kernel_width, _, out_channels = kernel.shape
    out = np.zeros((len(images), out_height, out_width, out_channels), np.result_type(images, kernel))
    for n in range(len(images)):
        for y in range(out_height):
            for x in range(out_width):
                patch = padded[n, y * sy : y * sy + kernel_height, x * sx : x * sx + kernel_width]
                for o in range(out_channels):
                    out[n, y, x, o] = np.sum(patch * kernel[..., o])
    return out


def convolve_loops_gradient(
    images: np.ndarray, kernel: np.ndarray, upstream: np.ndarray, stride=1, padding: Padding = "VALID"
) -> tuple[np.ndarray, np.ndarray]:
    """The gradient of the definition, as loops: where each product came from, there its gradient goes.

    out[n, y, x, o] contains the product  patch[i, j, c] * kernel[i, j, c, o]  once, so by the chain rule the
    gradient of each factor is the other one times upstream:

        d_kernel[i, j, c, o] += patch[i, j, c]     * upstream[n, y, x, o]
        d_patch [i, j, c]    += kernel[i, j, c, o] * upstream[n, y, x, o]

    Args:
        upstream: the gradient of a loss by the output, (batch, out_height, out_width, out).
    Returns:
        the gradients by the images and by the kernel, each of their argument's shape.
    """
    (sy, sx), sides, (out_height, out_width) = fit(images.shape, kernel.shape, stride, padding)
    padded = np.pad(images, ((0, 0), *sides, (0, 0)))
    d_padded, d_kernel = np.zeros_like(padded), np.zeros_like(kernel)
    kernel_height, kernel_width = kernel.shape[:2]
    for n in range(len(images)):
        for y in range(out_height):
            for x in range(out_width):
                place = n, slice(y * sy, y * sy + kernel_height), slice(x * sx, x * sx + kernel_width)
                for o in range(kernel.shape[3]):
                    d_kernel[..., o] += padded[place] * upstream[n, y, x, o]
                    d_padded[place] += kernel[..., o] * upstream[n, y, x, o]
    (top, _), (left, _) = sides
    return d_padded[:, top : top + images.shape[1], left : left + images.shape[2]], d_kernel


def convolve_im2col(images: jax.Array, kernel: jax.Array, stride=1, padding: Padding = "VALID") -> jax.Array:
    """One matrix product ("image to columns"; here rows): a row for each patch, by a column for each output channel.

    (places, kernel_height * kernel_width * in) @ (kernel_height * kernel_width * in, out). It costs memory: a 3 x 3
    kernel copies each pixel nine times (Chellapilla, Puri and Simard, "High performance convolutional neural networks
    for document processing", 2006). The gradient by the kernel is a product too: rows.T @ upstream.

    The copying takes two steps: the pixels under one line of the kernel side by side, then the lines. A 3 x 3 patch is
    so copied in six pieces and not in nine, half of them three times as long: for 32 images of 120 x 160 x 3, in eight
    parts, 3 ms where one step takes 40.
    """
    (sy, sx), sides, (out_height, out_width) = fit(images.shape, kernel.shape, stride, padding)
    padded = jnp.pad(images, ((0, 0), *sides, (0, 0)))
    kernel_height, kernel_width, in_channels, out_channels = kernel.shape
    last_y, last_x = (out_height - 1) * sy + 1, (out_width - 1) * sx + 1
    lines = jnp.concatenate([padded[:, :, j : j + last_x : sx] for j in range(kernel_width)], axis=3)
    lines = lax.optimization_barrier(lines)  # else XLA makes one step of the two
    rows = jnp.concatenate([lines[:, i : i + last_y : sy] for i in range(kernel_height)], axis=3)
    rows = rows.reshape(-1, kernel_height * kernel_width * in_channels)
    out = rows @ kernel.reshape(-1, out_channels)
    return out.reshape(len(images), out_height, out_width, out_channels)


def convolve_fft(images: jax.Array, kernel: jax.Array, stride=1, padding: Padding = "VALID") -> jax.Array:
    """A product of spectra: the Fourier transform turns a convolution into a multiplication.

    The theorem is about the convolution with the flip, so the kernel is flipped first to undo it. The kernel is
    padded with zeros to the image's size; the transform's wrap-around then spoils the first kernel - 1 rows and columns
    only, at which the kernel does not lie on the image yet. The cost hardly depends on the kernel's size, so it pays
    for large kernels only. A stride just throws places away.
    Shapes are those of `convolve_loops`.
    """
    (sy, sx), sides, (out_height, out_width) = fit(images.shape, kernel.shape, stride, padding)
    padded = jnp.pad(images, ((0, 0), *sides, (0, 0)))
    kernel_height, kernel_width = kernel.shape[:2]
    size = padded.shape[1:3]
    image_spectrum = jnp.fft.rfft2(padded, s=size, axes=(1, 2))  # (batch, frequencies, frequencies, in)
    kernel_spectrum = jnp.fft.rfft2(kernel[::-1, ::-1], s=size, axes=(0, 1))  # (frequencies, frequencies, in, out)
    full = jnp.fft.irfft2(jnp.einsum("nyxc,yxco->nyxo", image_spectrum, kernel_spectrum), s=size, axes=(1, 2))
    first_y, first_x = kernel_height - 1, kernel_width - 1  # where the kernel first lies wholly on the padded image
    return full[
        :, first_y : first_y + (out_height - 1) * sy + 1 : sy, first_x : first_x + (out_width - 1) * sx + 1 : sx
    ]


def convolve_lax(images: jax.Array, kernel: jax.Array, stride=1, padding: Padding = "VALID") -> jax.Array:
    """The operation of XLA, the compiler behind jax, which chooses a routine for it, not always the fastest.

    Shapes are those of `convolve_loops`. Axes: N batch, H height, W width, C channels; I in and O out.
    """
    stride, sides, _ = fit(images.shape, kernel.shape, stride, padding)
    return lax.conv_general_dilated(images, kernel, stride, sides, dimension_numbers=("NHWC", "HWIO", "NHWC"))
