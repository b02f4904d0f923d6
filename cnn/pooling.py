"""Pooling: one number a window, the largest or the mean. It shrinks the image, and has no parameters.

Both are written as a sum (or maximum) over the offsets inside a window: for each offset, one strided slice holds that
pixel of every window at once. A 2 x 2 pool is thus four slices, which XLA fuses into one pass. That is for small
windows: 32 x 32 are 1,024 slices, and take seven seconds to compile. For a whole image there is `global_average_pool`.
"""

from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn.errors import ShapeError
from cnn.windows import Padding, Sides, pair, places, resolve_padding


def _slices(padded: jax.Array, window: tuple[int, int], stride: tuple[int, int], out: tuple[int, int]):
    """Yields, for each offset in the window in reading order, that pixel of every window: (batch, *out, channels)."""
    (sy, sx), (out_height, out_width) = stride, out
    for i in range(window[0]):
        for j in range(window[1]):
            yield padded[:, i : i + (out_height - 1) * sy + 1 : sy, j : j + (out_width - 1) * sx + 1 : sx]


def _geometry(name: str, shape, window, stride, padding: Padding, ceil: bool):
    """Window, stride (the window unless given), padding with overhang, and the output's (height, width)."""
    if len(shape) != 4:
        raise ShapeError(name, f"images of shape {shape}", "(batch, height, width, channels)")
    window = pair(window, f"window of {name}")
    stride = window if stride is None else pair(stride, f"stride of {name}")
    sides = resolve_padding(padding, shape[1:3], window, stride)
    if any(p >= w for w, side in zip(window, sides) for p in side):
        raise ShapeError(
            name, f"padding {sides}", f"less padding than its window {window}, which else would see no pixel"
        )
    out = tuple(places(n, w, s, p, ceil) for n, w, s, p in zip(shape[1:3], window, stride, sides))
    if min(out) < 1:
        raise ShapeError(
            name,
            f"images of shape {shape} with padding {sides}",
            f"a padded image at least as large as its {window[0]} x {window[1]} window",
        )
    overhang = (  # what ceil mode's last window needs beyond the far edge, 0 without it
        max((count - 1) * s + w - (n + low + high), 0)
        for count, s, w, n, (low, high) in zip(out, stride, window, shape[1:3], sides)
    )
    return window, stride, tuple((low, high + extra) for (low, high), extra in zip(sides, overhang)), out


def _pad(images: jax.Array, sides: Sides, value: float) -> jax.Array:
    return jnp.pad(images, ((0, 0), *sides, (0, 0)), constant_values=value) if np.any(sides) else images


def max_pool(images: jax.Array, window=2, stride=None, padding: Padding = "VALID", ceil: bool = False) -> jax.Array:
    """The largest pixel of each window, channel by channel.

    Its gradient goes to the largest pixel alone; of equal ones, to the first in reading order. NaN wins over every
    number, so that it is not hidden. Padded pixels are minus infinity: no finite number loses to them. For
    `jax.grad`, not `jax.jvp`.

    Args:
        images: (batch, height, width, channels), floating point.
        window: pixels, one int or (height, width).
        stride: pixels from window to window; the window's own size unless given.
        padding: "VALID", "SAME", an int, or ((top, bottom), (left, right)); less than the window.
        ceil: whether a last window may hang over the far edge (see `windows.places`).
    Returns:
        (batch, out_height, out_width, channels).
    Raises:
        ShapeError: for images that are not 4-D, a window larger than the padded image, or too much padding.

    >>> max_pool(jnp.array([[1.0, 5.0, 2.0, 0.0], [3.0, 4.0, 8.0, 7.0]]).reshape(1, 2, 4, 1)).ravel().tolist()
    [5.0, 8.0]
    """
    window, stride, sides, out = _geometry("max pool", images.shape, window, stride, padding, ceil)
    padded = _pad(images, sides, -jnp.inf)
    return _largest(padded, window, stride, out, padded.shape[1:3])


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _largest(padded: jax.Array, window, stride, out, size) -> jax.Array:
    return _largest_and_which(padded, window, stride, out, size)[0]


def _largest_and_which(padded, window, stride, out, size):
    """The largest pixel of each window, and its number in reading order: all that the way back needs to know.

    A number of one byte a window is handed on, not the four pixels: 5 MB in place of 76 for the first pool of the
    network of 2017 (batch 32). (Where both ways are one program, XLA may rather keep the pixels, and compare again.)
    """
    pixels = list(_slices(padded, window, stride, out))
    largest = reduce(jnp.maximum, pixels)  # of a NaN and a number, NaN
    numbers = jnp.int8 if len(pixels) < 128 else jnp.int32
    # Not "the larger one so far", pixel after pixel: each choice would use the one before three times, and XLA may
    # write all that out. For one image of one channel, windows of 18 places took 12 s to compile, of 20 over 90 s.
    which = jnp.full(largest.shape, len(pixels) - 1, numbers)
    for number in reversed(range(len(pixels) - 1)):  # so that the first of equal ones has the last word
        wins = (pixels[number] == largest) | jnp.isnan(pixels[number])
        which = jnp.where(wins, numbers(number), which)
    return largest, which


def _back_to_the_largest(window, stride, out, size, which, upstream):
    """d_padded: each window's upstream gradient at the pixel that won, 0 elsewhere; windows that overlap add up."""
    zero = jnp.zeros((), upstream.dtype)
    if window == stride:  # Each pixel lies in one window: laid out large, in one pass (2 x 2: 10 ms -> 6).
        large = [jnp.repeat(jnp.repeat(a, window[0], 1), window[1], 2) for a in (which, upstream)]
        rows, columns = (jnp.arange(count * w) % w for count, w in zip(out, window))
        here = (rows[:, None, None] * window[1] + columns[:, None]).astype(which.dtype)
        edges = [(0, n - count * w, 0) for n, count, w in zip(size, out, window)]
        return (lax.pad(jnp.where(large[0] == here, large[1], zero), zero, [(0, 0, 0), *edges, (0, 0, 0)]),)
    total = 0.0
    for number in range(window[0] * window[1]):
        edges = [
            (first, n - first - (count - 1) * s - 1, s - 1)
            for first, n, count, s in zip(divmod(number, window[1]), size, out, stride)
        ]
        total += lax.pad(jnp.where(which == number, upstream, zero), zero, [(0, 0, 0), *edges, (0, 0, 0)])
    return (total,)


_largest.defvjp(_largest_and_which, _back_to_the_largest)


def average_pool(images: jax.Array, window=2, stride=None, padding: Padding = "VALID", ceil: bool = False) -> jax.Array:
    """The mean of each window, channel by channel, over those of its pixels that lie on the image.

    Its gradient is shared equally: each of the window's k pixels gets upstream / k. Padding is not
    counted (as in TensorFlow, and as Caffe's ceil mode treats the far edge). Arguments, result and errors are
    those of `max_pool`.

    >>> average_pool(jnp.array([[1.0, 5.0, 2.0, 0.0], [3.0, 4.0, 8.0, 7.0]]).reshape(1, 2, 4, 1)).ravel().tolist()
    [3.25, 4.25]
    """
    window, stride, sides, out = _geometry("average pool", images.shape, window, stride, padding, ceil)
    total = sum(_slices(_pad(images, sides, 0.0), window, stride, out))
    on_image = np.pad(np.ones((1, *images.shape[1:3], 1), np.float32), ((0, 0), *sides, (0, 0)))
    counts = sum(_slices(on_image, window, stride, out))
    return total / counts.astype(images.dtype)


def global_average_pool(images: jax.Array) -> jax.Array:
    """The mean over the whole image: (batch, height, width, channels) -> (batch, channels)."""
    if images.ndim != 4:
        raise ShapeError("global average pool", f"images of shape {images.shape}", "(batch, height, width, channels)")
    return images.mean(axis=(1, 2))
