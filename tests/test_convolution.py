"""Convolution: a small stack of weights slides over an image, and at each place its products are summed.

First on numbers for paper, then four ways (loops, a matrix product, Fourier, XLA) that must agree with one another and
with SciPy, then the gradient, and what follows from the definition: linearity, and that a shift stays a shift.
Next: test_gpu_convolution.py.
"""

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import signal

from cnn.convolution import (
    convolve_fft,
    convolve_im2col,
    convolve_lax,
    convolve_loops,
    convolve_loops_gradient,
    fit,
)
from cnn.errors import ShapeError
from tests.checkers import assert_equal_arrays, assert_gradient

# The fixture float64 stays as it is from one drawn example to the next, so the health check has nothing to fear.
drawn = settings(
    max_examples=14, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
compiled = {way.__name__: jax.jit(way, static_argnums=(2, 3)) for way in (convolve_im2col, convolve_fft, convolve_lax)}
WAYS = {"convolve_loops": convolve_loops} | compiled


def picture(rows) -> np.ndarray:
    """One image of one channel, (1, height, width, 1); a pixel may be a list of channels."""
    pixels = np.array(rows, np.float32)
    return pixels.reshape(1, *pixels.shape[:2], -1)


def kernel_of(rows) -> np.ndarray:
    """One kernel that sees one channel and gives one: (height, width, 1, 1)."""
    weights = np.array(rows, np.float32)
    return weights.reshape(*weights.shape[:2], -1, 1)


def noise(*shape: int, dtype=np.float32) -> np.ndarray:
    """Numbers without any symmetry, the same ones for the same shape."""
    return np.random.default_rng(shape).normal(size=shape).astype(dtype)


def convolve_scipy(images, kernel, stride, padding):
    """SciPy's correlation of one image with one output channel at a time; a stride throws places away."""
    (sy, sx), sides, _ = fit(images.shape, kernel.shape, stride, padding)
    padded = np.pad(images, ((0, 0), *sides, (0, 0)))
    planes = [
        [signal.correlate(image, kernel[..., o], mode="valid", method="direct")[::sy, ::sx, 0] for image in padded]
        for o in range(kernel.shape[3])
    ]
    return np.moveaxis(np.array(planes), 0, -1)


@st.composite
def convolutions(draw):
    """Shapes of images and of a kernel that fits on them, a stride and a padding."""
    kernel_height, kernel_width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    height, width = kernel_height + draw(st.integers(0, 4)), kernel_width + draw(st.integers(0, 4))
    batch, channels, out = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    side = st.tuples(st.integers(0, 2), st.integers(0, 2))
    padding = draw(st.sampled_from(["VALID", "SAME", 1]) | st.tuples(side, side))
    stride = draw(st.integers(1, 3) | st.tuples(st.integers(1, 3), st.integers(1, 3)))
    return (batch, height, width, channels), (kernel_height, kernel_width, channels, out), stride, padding


IMAGE = picture([[1, 2, 0, 3], [4, 1, 1, 0], [0, 5, 2, 1], [3, 0, 1, 2]])
KERNEL = kernel_of([[1, 0, -1], [2, 0, 1], [0, 3, 0]])


# By hand


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_at_each_place_the_pixels_under_the_kernel_are_multiplied_with_it_and_summed(way):
    #    1 2 0 3
    #    4 1 1 0      *     1 0 -1      =     25  7
    #    0 5 2 1            2 0  1             5 15
    #    3 0 1 2            0 3  0
    want = [
        [(1 * 1 - 0 * 1) + (4 * 2 + 1 * 1) + 5 * 3, (2 * 1 - 3 * 1) + (1 * 2 + 0 * 1) + 2 * 3],
        [(4 * 1 - 1 * 1) + (0 * 2 + 2 * 1) + 0 * 3, (1 * 1 - 0 * 1) + (5 * 2 + 1 * 1) + 1 * 3],
    ]
    assert want == [[25, 7], [5, 15]]
    assert_equal_arrays(way(IMAGE, KERNEL, 1, "VALID")[0, :, :, 0], want, "a 3 x 3 kernel on 4 x 4", atol=1e-5)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_channels_are_summed_and_every_output_channel_has_its_own_kernel(way):
    # two pixels of two channels, (1, 2) and (3, 4); a 1 x 2 kernel for each of three output channels
    image = picture([[[1, 2], [3, 4]]])
    kernel = np.array([[[[1, 0, 5], [1, 0, 0]], [[1, 7, 0], [1, 0, -1]]]], np.float32)
    want = [1 + 2 + 3 + 4, 7 * 3, 5 * 1 - 1 * 4]  # of everything; of channel 0 on the right; of two chosen ones
    assert_equal_arrays(way(image, kernel, 1, "VALID").ravel(), want, "two channels in, three out", atol=1e-5)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_stride_steps_over_places_downwards_and_sideways_apart(way):
    #    1 2 3 4 5
    #    6 7 8 9 1      kernel 1 x 2: (1, 10); stride 2 down, 3 sideways: rows 0 and 2, columns 0 and 3
    #    2 3 4 5 6
    image, kernel = picture([[1, 2, 3, 4, 5], [6, 7, 8, 9, 1], [2, 3, 4, 5, 6]]), kernel_of([[1, 10]])
    want = [[1 + 20, 4 + 50], [2 + 30, 5 + 60]]
    assert_equal_arrays(way(image, kernel, (2, 3), "VALID")[0, :, :, 0], want, "stride (2, 3)", atol=1e-4)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_padding_surrounds_the_image_with_zeros_side_by_side(way):
    #    . . .            kernel 2 x 1: (1, 10) downwards; one row above, two columns on the right
    #    1 2 . .          place (y, x) = above + 10 * below
    #    3 4 . .
    want = [[10, 20, 0, 0], [1 + 30, 2 + 40, 0, 0]]
    got = way(picture([[1, 2], [3, 4]]), kernel_of([[1], [10]]), 1, ((1, 0), (0, 2)))
    assert_equal_arrays(got[0, :, :, 0], want, "padding ((1, 0), (0, 2))", atol=1e-5)


def test_without_options_the_stride_is_one_and_there_is_no_padding():
    for way in compiled.values():
        assert jax.eval_shape(way, IMAGE, KERNEL).shape == convolve_loops(IMAGE, KERNEL).shape == (1, 2, 2, 1)


def test_a_learned_convolution_does_not_flip_its_kernel_and_that_of_signal_processing_does():
    image, kernel = IMAGE[0, :, :, 0], KERNEL[:, :, 0, 0]
    ours = convolve_loops(IMAGE, KERNEL)[0, :, :, 0]
    assert_equal_arrays(ours, signal.correlate2d(image, kernel, mode="valid"), "a cross-correlation")
    flipped = kernel[::-1, ::-1]
    assert_equal_arrays(ours, signal.convolve2d(image, flipped, mode="valid"), "a convolution with the flipped kernel")
    # with the flip:  1 2 0       0 3  0
    #                 4 1 1   *   1 0  2   =  2*3 + (4*1 + 1*2) + (0*-1 + 2*1)
    #                 0 5 2      -1 0  1
    assert signal.convolve2d(image, kernel, mode="valid")[0, 0] == 2 * 3 + (4 * 1 + 1 * 2) + (0 * -1 + 2 * 1) == 14
    assert ours[0, 0] == 25


def test_an_impulse_shows_the_kernel_turned_by_half_a_turn():
    # . . . . .      the place up and left of the bright pixel has it under the kernel's last weight, 9;
    # . . 1 . .      the one down and right has it under the first, 1
    # . . . . .
    impulse = picture([[0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]])
    kernel = kernel_of([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    want = [[0, 9, 8, 7, 0], [0, 6, 5, 4, 0], [0, 3, 2, 1, 0]]
    assert_equal_arrays(convolve_loops(impulse, kernel, 1, "SAME")[0, :, :, 0], want, "an impulse's answer")


def test_a_one_by_one_convolution_is_a_matrix_product_at_every_pixel():
    images, kernel = noise(2, 3, 4, 5), noise(1, 1, 5, 2)
    assert_equal_arrays(convolve_loops(images, kernel), images @ kernel[0, 0], "1 x 1")


def test_two_kernels_one_after_the_other_are_one_larger_kernel():
    images, first, second = noise(1, 6, 7, 1), noise(3, 3, 1, 1), noise(2, 3, 1, 1)
    both = signal.convolve2d(first[:, :, 0, 0], second[:, :, 0, 0])[:, :, None, None]  # 4 x 5: fields add up
    after = convolve_loops(convolve_loops(images, first), second)
    assert_equal_arrays(after, convolve_loops(images, both), "first, then second", atol=1e-5)


# Several ways


def assert_all_ways_agree(setting, dtype, precision):
    image_shape, kernel_shape, stride, padding = setting
    images, kernel = noise(*image_shape, dtype=dtype), noise(*kernel_shape, dtype=dtype)
    want = convolve_loops(images.astype(np.float64), kernel.astype(np.float64), stride, padding)
    assert want.shape == (image_shape[0], *fit(image_shape, kernel_shape, stride, padding)[2], kernel_shape[3])
    for name, way in (WAYS | {"convolve_scipy": convolve_scipy}).items():
        got = way(images, kernel, stride, padding)
        assert got.dtype == dtype, f"{name} turned {np.dtype(dtype)} into {got.dtype}"
        assert_equal_arrays(got, want, f"{name}{setting}", rtol=precision, atol=precision * np.abs(want).max())


@drawn
@given(setting=convolutions())
def test_all_ways_agree_in_float32_to_a_hundred_thousandth(setting):
    assert_all_ways_agree(setting, np.float32, 1e-5)


@drawn
@given(setting=convolutions())
def test_all_ways_agree_in_float64_to_a_trillionth(float64, setting):
    assert_all_ways_agree(setting, np.float64, 1e-12)


# The gradient


def test_each_weight_and_each_pixel_gets_the_gradient_of_the_products_it_took_part_in():
    #   image 2 3 5, kernel 7 11:  out = (2*7 + 3*11, 3*7 + 5*11), and the loss is 1 * out[0] + 10 * out[1]
    image, kernel, upstream = picture([[2, 3, 5]]), kernel_of([[7, 11]]), picture([[1, 10]])
    d_image, d_kernel = convolve_loops_gradient(image, kernel, upstream)
    assert d_image.ravel().tolist() == [7 * 1, 11 * 1 + 7 * 10, 11 * 10]
    assert d_kernel.ravel().tolist() == [2 * 1 + 3 * 10, 3 * 1 + 5 * 10]


def test_a_pixel_that_no_window_reaches_gets_no_gradient():
    #   [2 3][5 1] 4         window 2, stride 2: the 4 is left out
    d_image, d_kernel = convolve_loops_gradient(
        picture([[2, 3, 5, 1, 4]]), kernel_of([[7, 11]]), picture([[1, 10]]), stride=2
    )
    assert d_image.ravel().tolist() == [7 * 1, 11 * 1, 7 * 10, 11 * 10, 0]
    assert d_kernel.ravel().tolist() == [2 * 1 + 5 * 10, 3 * 1 + 1 * 10]


def test_padding_takes_part_in_the_gradient_of_neither():
    #   . [2 3] .      kernel 7 11, padding 1 on both sides: out = (2*11, 2*7 + 3*11, 3*7)
    d_image, d_kernel = convolve_loops_gradient(
        picture([[2, 3]]), kernel_of([[7, 11]]), picture([[1, 10, 100]]), padding=((0, 0), (1, 1))
    )
    assert d_image.ravel().tolist() == [11 * 1 + 7 * 10, 11 * 10 + 7 * 100]
    assert d_kernel.ravel().tolist() == [2 * 10 + 3 * 100, 2 * 1 + 3 * 10]


@pytest.mark.parametrize(("stride", "padding"), [(1, "VALID"), ((2, 1), ((1, 0), (0, 2))), ((1, 3), "SAME")])
def test_the_gradient_by_loops_by_differentiation_and_by_differences_is_one(float64, stride, padding):
    images, kernel = noise(2, 4, 5, 2, dtype=np.float64), noise(3, 2, 2, 2, dtype=np.float64)
    upstream = noise(*convolve_loops(images, kernel, stride, padding).shape, dtype=np.float64)

    def loss(images, kernel, way=convolve_loops):
        return (way(images, kernel, stride, padding) * upstream).sum()

    by_loops = convolve_loops_gradient(images, kernel, upstream, stride, padding)
    for name in compiled:
        by_jax = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)(images, kernel, WAYS[name])
        assert_equal_arrays(by_jax[0], by_loops[0], f"d_images, jax.grad of {name}", rtol=1e-12, atol=1e-12)
        assert_equal_arrays(by_jax[1], by_loops[1], f"d_kernel, jax.grad of {name}", rtol=1e-12, atol=1e-12)
    quick = jax.jit(lambda images, kernel: loss(images, kernel, convolve_lax))
    assert_gradient(by_loops[0], lambda images: quick(images, kernel), images, "a convolution by its images")
    assert_gradient(by_loops[1], lambda kernel: quick(images, kernel), kernel, "a convolution by its kernel")


# What follows from the definition


def test_a_convolution_is_linear_in_the_image_and_in_the_kernel():
    (a, b), (k, l) = noise(2, 1, 4, 5, 2), noise(2, 3, 2, 2, 3)
    want = 2 * convolve_loops(a, k) - 3 * convolve_loops(b, k)
    assert_equal_arrays(convolve_loops(2 * a - 3 * b, k), want, "linear in the image", atol=1e-5)
    want = 2 * convolve_loops(a, k) - 3 * convolve_loops(a, l)
    assert_equal_arrays(convolve_loops(a, 2 * k - 3 * l), want, "linear in the kernel", atol=1e-5)


def test_a_shifted_image_gives_a_shifted_result():
    images, kernel = noise(1, 7, 8, 2), noise(3, 2, 2, 2)
    shifted = images[:, 1:, 2:]  # one up, two to the left
    assert_equal_arrays(convolve_loops(shifted, kernel), convolve_loops(images, kernel)[:, 1:, 2:], "a shift")
    assert_equal_arrays(
        convolve_loops(images[:, 2:], kernel, 2), convolve_loops(images, kernel, 2)[:, 1:], "stride 2: by two, by one"
    )
    odd, even = convolve_loops(images[:, 1:], kernel, 2), convolve_loops(images, kernel, 2)
    assert not np.isclose(odd, even[:, : odd.shape[1]]).any(), "with stride 2, a shift by one pixel is no shift"


def test_one_image_does_not_influence_another():
    images, kernel = noise(3, 4, 5, 2), noise(3, 2, 2, 2)
    for way in (convolve_loops, compiled["convolve_im2col"]):  # im2col puts the patches of all images in one matrix
        alone = way(images[1:2], kernel, 1, "VALID")
        assert_equal_arrays(way(images, kernel, 1, "VALID")[1:2], alone, "among others, and alone", atol=1e-5)


# What is refused


@pytest.mark.parametrize(
    ("image", "kernel", "message"),
    [
        ((4, 4, 1), (3, 3, 1, 1), "got images of shape (4, 4, 1), wants (batch, height, width, channels)"),
        ((1, 4, 4, 1), (3, 3, 1), "got a kernel of shape (3, 3, 1), wants (height, width, in, out)"),
        ((1, 4, 4, 3), (3, 3, 2, 1), "got images of shape (1, 4, 4, 3), wants 2 channels on the last axis"),
        (
            (1, 4, 2, 1),
            (3, 5, 1, 1),
            "got images of shape (1, 4, 2, 1) with padding ((0, 0), (0, 0)), "
            "wants a padded image at least as large as its 3 x 5 kernel",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_told_apart(image, kernel, message):
    for way in WAYS.values():
        with pytest.raises(ShapeError) as error:
            way(np.zeros(image, np.float32), np.zeros(kernel, np.float32), 1, "VALID")
        assert str(error.value) == f"convolution: {message}"


def test_a_stride_is_told_to_be_one_of_a_convolution():
    with pytest.raises(ShapeError, match=r"^stride of a convolution: got 0, wants one int or a pair"):
        fit((1, 4, 4, 1), (3, 3, 1, 1), 0, "VALID")


def test_the_geometry_says_stride_padding_and_size_of_the_result():
    # height (6 + 1 + 2 - 3) // 2 + 1 = 4, width (7 + 0 + 1 - 2) // 3 + 1 = 3
    got = fit((5, 6, 7, 2), (3, 2, 2, 4), (2, 3), ((1, 2), (0, 1)))
    assert got == ((2, 3), ((1, 2), (0, 1)), (4, 3))
