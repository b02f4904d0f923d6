"""Windows that slide over an image: how far they step, what surrounds the image, and how many places there are.

Convolution and pooling differ in what they do inside a window. Where the windows lie is the same for both. From one to
the next there are `stride` pixels, and `padding` tells how many pixels are added before and after the image:

    size 5, window 3, stride 2, padding (1, 1):      .  0 1 2 3 4  .
    window 0                                        [.  0 1]
    window 1                                              [1 2 3]      (3 places)
    window 2                                                   [3 4 .]
"""

from collections.abc import Sequence
from numbers import Integral

from cnn.errors import ShapeError

Padding = str | int | Sequence
Sides = tuple[tuple[int, int], tuple[int, int]]  # ((top, bottom), (left, right)), in pixels


def pair(value: int | Sequence[int], what: str) -> tuple[int, int]:
    """Gives (height, width) for an int or a pair of ints; each must be at least 1, else ShapeError names `what`."""
    values = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(values) != 2 or any(not isinstance(v, Integral) or v < 1 for v in values):
        raise ShapeError(what, value, "one int or a pair (height, width) of ints, each at least 1")
    return tuple(map(int, values))


def resolve_padding(padding: Padding, size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]) -> Sides:
    """Turns a padding by name, by one number or by sides into ((top, bottom), (left, right)) pixels.

    "VALID" is none. "SAME" is as little as gives ceil(size / stride) places; of an odd number of pixels the one more
    goes to the bottom or the right, as in TensorFlow and XLA (jax's compiler). An int pads all four sides.

    >>> resolve_padding("SAME", size=(5, 6), window=(3, 3), stride=(2, 2))
    ((1, 1), (0, 1))
    """
    if padding == "VALID":
        return (0, 0), (0, 0)
    if padding == "SAME":  # -(-n // s) is n / s, rounded up
        totals = [max((-(-n // s) - 1) * s + w - n, 0) for n, w, s in zip(size, window, stride)]
        return tuple((total // 2, total - total // 2) for total in totals)
    if isinstance(padding, Integral):
        padding = ((padding, padding), (padding, padding))
    sides = padding if isinstance(padding, Sequence) and not isinstance(padding, str) else ()
    sides = tuple(tuple(side) if isinstance(side, Sequence) else () for side in sides)
    if [len(side) for side in sides] != [2, 2] or any(
        not isinstance(p, Integral) or p < 0 for side in sides for p in side
    ):
        raise ShapeError(
            "padding", padding, '"VALID", "SAME", an int of at least 0, or ((top, bottom), (left, right)) of them'
        )
    return tuple((int(low), int(high)) for low, high in sides)


def places(size: int, window: int, stride: int, sides: tuple[int, int], ceil: bool = False) -> int:
    """The number of places a window has along one axis: floor((size + low + high - window) / stride) + 1.

    With `ceil` the division rounds up, so that no pixel at the far end is left out (unless the stride is larger than
    the window, and leaves some out everywhere): the last window then hangs over the edge, but always starts on the
    image or its low padding (Caffe's rule). 0 means that the window does not fit.

    >>> places(64, window=3, stride=2, sides=(0, 0)), places(64, window=3, stride=2, sides=(0, 0), ceil=True)
    (31, 32)
    """
    low, high = sides
    room = size + low + high - window
    if room < 0:
        return 0
    if not ceil:
        return room // stride + 1
    return min(-(-room // stride) + 1, -(-(size + low) // stride))


def receptive_fields(windows: Sequence[tuple[int, int]]) -> list[int]:
    """The side, in pixels of the input, of the square that one output pixel sees, after each of (window, stride):
    from the first to the last; strides larger than windows leave gaps between.

    Each layer widens the field by (window - 1) steps, and a step is the product of the strides before it:
    r <- r + (window - 1) * jump, jump <- jump * stride (Araujo, Norris and Sim, "Computing receptive fields of
    convolutional neural networks", Distill 2019, equation 2).

    >>> receptive_fields([(3, 1), (2, 2), (3, 1)])  # 3; 3 + 1*1; 4 + 2*2
    [3, 4, 8]
    """
    field, jump, fields = 1, 1, []
    for window, stride in windows:
        field += (window - 1) * jump
        jump *= stride
        fields.append(field)
    return fields
