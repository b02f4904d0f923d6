"""Windows: where a window lies, how many places it has, and how far one output pixel sees.

Nothing is computed with pixels yet: only sizes, strides and padding. Each formula is held against a count by hand or
by a loop. Next: test_convolution.py.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from cnn.errors import ShapeError
from cnn.windows import pair, places, receptive_fields, resolve_padding

# Hypothesis calls a test below @given with 200 draws of its arguments, the same ones at every run (derandomize), and of
# those that fail it shows the simplest.
drawn = settings(max_examples=200, deadline=None, derandomize=True)
sizes, windows, strides = st.integers(1, 20), st.integers(1, 6), st.integers(1, 5)
paddings = st.tuples(st.integers(0, 4), st.integers(0, 4))


# One int, or (height, width)


def test_one_int_stands_for_height_and_width():
    assert pair(3, "window") == (3, 3)
    assert pair((2, 5), "window") == (2, 5)  # height first
    assert pair([2, 5], "window") == (2, 5)
    assert pair(1, "window") == (1, 1)
    assert pair(np.int64(3), "window") == pair((np.int32(3), 3), "window") == (3, 3), "NumPy's ints are ints"


@pytest.mark.parametrize("wrong", [0, -1, (3, 0), (0, 3), (1, 2, 3), (3,), (2.0, 3)])
def test_a_window_that_is_no_size_is_refused_by_name(wrong):
    with pytest.raises(ShapeError) as error:
        pair(wrong, "window of a pool")
    wants = "one int or a pair (height, width) of ints, each at least 1"
    assert str(error.value) == f"window of a pool: got {wrong}, wants {wants}"


# Padding: what surrounds the image


def test_valid_pads_nothing():
    assert resolve_padding("VALID", size=(5, 6), window=(3, 2), stride=(2, 1)) == ((0, 0), (0, 0))


def test_one_number_pads_all_four_sides():
    assert resolve_padding(np.int64(1), (5, 5), (3, 3), (1, 1)) == ((1, 1), (1, 1))
    assert resolve_padding(2, size=(5, 6), window=(3, 2), stride=(2, 1)) == ((2, 2), (2, 2))
    assert resolve_padding(0, size=(5, 6), window=(3, 2), stride=(2, 1)) == ((0, 0), (0, 0))


def test_four_numbers_are_top_bottom_left_right():
    assert resolve_padding(((1, 2), (3, 4)), size=(5, 6), window=(3, 2), stride=(2, 1)) == ((1, 2), (3, 4))
    assert resolve_padding([[1, 2], [0, 4]], size=(5, 6), window=(3, 2), stride=(2, 1)) == ((1, 2), (0, 4))


def test_same_puts_the_odd_pixel_at_the_bottom_and_the_right():
    #   height 4, window 4, stride 1: 4 places need 3 pixels more:   .[0 1 2 3]. .    one above, two below
    #   width  5, window 2, stride 1: 5 places need 1 pixel  more:    [0 1 2 3 4].    none left, one right
    assert resolve_padding("SAME", size=(4, 5), window=(4, 2), stride=(1, 1)) == ((1, 2), (0, 1))


def test_same_pads_nothing_where_the_stride_passes_over_the_window():
    #   size 5, window 1, stride 3: ceil(5 / 3) = 2 places, at 0 and 3; both lie on the image
    assert resolve_padding("SAME", size=(5, 5), window=(1, 1), stride=(3, 3)) == ((0, 0), (0, 0))


@drawn
@given(size=st.tuples(sizes, sizes), window=st.tuples(windows, windows), stride=st.tuples(strides, strides))
def test_same_is_what_xla_means_by_it_and_gives_ceil_of_size_by_stride_places(size, window, stride):
    sides = resolve_padding("SAME", size, window, stride)
    assert sides == tuple(map(tuple, lax.padtype_to_pads(size, window, stride, "SAME")))
    for n, w, s, (low, high) in zip(size, window, stride, sides):
        assert places(n, w, s, (low, high)) == -(-n // s)
        assert high - low in (0, 1)
        if low + high:  # as little as that takes: with a pixel less there is a place less
            assert places(n, w, s, (low, high - 1)) == -(-n // s) - 1


@pytest.mark.parametrize(
    ("wrong", "shown"),
    [
        ("same", "same"),
        ("", ""),
        (-1, "((-1, -1), (-1, -1))"),
        (((0, 0), (0, -2)), "((0, 0), (0, -2))"),
        (((1, 1), (1, 1), (1, 1)), "((1, 1), (1, 1), (1, 1))"),
        (((1, 2, 3), (1, 1)), "((1, 2, 3), (1, 1))"),
        (((0.5, 1), (1, 1)), "((0.5, 1), (1, 1))"),
    ],
)
def test_a_padding_that_is_none_is_refused_and_told_the_four_ways_to_say_it(wrong, shown):
    with pytest.raises(ShapeError) as error:
        resolve_padding(wrong, size=(5, 6), window=(3, 3), stride=(1, 1))
    wanted = '"VALID", "SAME", an int of at least 0, or ((top, bottom), (left, right)) of them'
    assert str(error.value) == f"padding: got {shown}, wants {wanted}"


# Places: how many windows there are


def test_the_windows_of_the_picture_on_top_of_the_file_are_three():
    #   .  0 1 2 3 4  .       size 5, window 3, stride 2, padding (1, 1)
    #  [.  0 1]
    #        [1 2 3]
    #             [3 4 .]
    assert places(5, window=3, stride=2, sides=(1, 1)) == (5 + 1 + 1 - 3) // 2 + 1 == 3


@pytest.mark.parametrize(
    ("size", "window", "stride", "sides", "count"),
    [
        (120, 3, 1, (0, 0), 118),  # a 3 x 3 convolution takes a pixel from each side
        (118, 2, 2, (0, 0), 59),  # a 2 x 2 pool halves,
        (55, 2, 2, (0, 0), 27),  # and leaves the last pixel of an odd side out
        (64, 5, 1, (2, 2), 64),  # padding of (window - 1) / 2 keeps the size
        (3, 3, 1, (0, 0), 1),
        (2, 3, 1, (0, 0), 0),  # the window does not fit
        (2, 3, 1, (0, 1), 1),  # now it does
    ],
)
def test_places_are_counted(size, window, stride, sides, count):
    assert places(size, window, stride, sides) == count


def test_ceil_mode_adds_a_window_that_hangs_over_the_edge():
    #   0 1 2 3 4 5       size 6, window 3, stride 2:  floor(3 / 2) + 1 = 2 places leave pixel 5 out,
    #  [0 1 2]                                          ceil(3 / 2) + 1 = 3 places do not
    #      [2 3 4]
    #          [4 5 .]
    assert places(6, window=3, stride=2, sides=(0, 0)) == 2
    assert places(6, window=3, stride=2, sides=(0, 0), ceil=True) == 3


def test_ceil_mode_adds_no_window_that_would_see_padding_alone():
    #   0 1 2 3  . .      size 4, window 2, stride 2, two padded pixels at the far end
    #  [0 1]              ceil(4 / 2) + 1 = 3, but the third starts beyond the image: it sees no pixel
    #      [2 3]
    #           [. .]
    assert places(4, window=2, stride=2, sides=(0, 2)) == 3
    assert places(4, window=2, stride=2, sides=(0, 2), ceil=True) == 2
    #   . 0 1 .           low padding is counted in: the second window starts at padded place 2, on pixel 1
    #  [. 0]
    #      [1 .]
    assert places(2, window=2, stride=2, sides=(1, 1), ceil=True) == 2


@drawn
@given(size=sizes, window=windows, stride=strides, sides=paddings)
def test_the_formula_of_places_equals_a_walk_along_the_padded_image(size, window, stride, sides):
    padded = size + sum(sides)
    starts = [start for start in range(0, padded, stride) if start + window <= padded]
    assert places(size, window, stride, sides) == len(starts)


@drawn
@given(data=st.data(), size=sizes, window=windows, stride=strides)
def test_in_ceil_mode_one_walks_on_until_no_pixel_is_left_out(data, size, window, stride):
    side = st.integers(0, window - 1)  # more padding than that, and a window might see no pixel at all
    low, high = data.draw(side), data.draw(side)
    padded = low + size + high
    starts = [0] if window <= padded else []
    while starts and starts[-1] + window < padded:  # something at the far end is not covered yet
        starts.append(starts[-1] + stride)
    starts = [start for start in starts if start < size + low]  # a window must start before the far padding
    assert places(size, window, stride, (low, high), ceil=True) == len(starts)


# Receptive fields: how far one output pixel sees


def test_the_field_of_two_three_by_three_convolutions_is_five():
    #   0 1 2 3 4        output pixel 0 of the second sees pixels 0 to 2 of the first, which see 0-2, 1-3, 2-4
    assert receptive_fields([(3, 1), (3, 1)]) == [3, 3 + 2 * 1]


def test_a_stride_makes_the_layers_after_it_see_further():
    # 2 x 2 pool of stride 2: one step of the next layer is two pixels; after another pool, four
    assert receptive_fields([(2, 2), (3, 1), (2, 2), (3, 1)]) == [2, 2 + 2 * 2, 6 + 1 * 2, 8 + 2 * 4]


def test_the_field_of_the_network_of_2017_is_14_pixels():
    fields = receptive_fields([(3, 1), (2, 2), (3, 1), (3, 1), (2, 2)])
    assert fields == [3, 3 + 1, 4 + 2 * 2, 8 + 2 * 2, 12 + 1 * 2] == [3, 4, 8, 12, 14]


def test_without_a_layer_there_is_no_field():
    assert receptive_fields([]) == []


@drawn
@given(layers=st.lists(st.tuples(windows, strides), min_size=1, max_size=5))
def test_the_field_is_what_one_finds_by_walking_back_from_one_output_pixel(layers):
    for depth, field in enumerate(receptive_fields(layers), start=1):
        first = last = 0
        for window, stride in reversed(layers[:depth]):  # output y covers the inputs y * stride ... + window - 1
            first, last = first * stride, last * stride + window - 1
        assert field == last - first + 1


@pytest.mark.parametrize("value", [1.5, None, "3", (3, 1.5)])
def test_what_is_no_size_is_refused_by_name(value):
    with pytest.raises(ShapeError, match=r"^stride: got .*, wants one int or a pair"):
        pair(value, "stride")


@pytest.mark.parametrize("padding", [(1, 1), 1.5, None, ((1, 2), 3), "Same"])
def test_what_is_no_padding_is_refused_by_name(padding):
    with pytest.raises(ShapeError, match=r'^padding: got .*, wants "VALID", "SAME", an int'):
        resolve_padding(padding, (5, 6), (3, 3), (1, 1))


def test_in_ceil_mode_no_window_starts_beyond_the_image():
    # one pixel and two of padding behind it: windows would start at 0, 1 and 2, but only the first is on the image
    assert places(1, window=1, stride=1, sides=(0, 2), ceil=True) == 1
