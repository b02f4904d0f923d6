"""The fast convolution: the layers' own, and why its gradient is two more convolutions.

The gradient is derived here from the loops of the chapter before: what was scattered there is gathered here. Then it is
held against those loops, against jax's own differentiation, and against differences.
Next: test_channels.py.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from cnn.convolution import convolve_lax, convolve_loops, convolve_loops_gradient
from cnn.errors import ShapeError
from cnn.fast_convolution import convolve, fold, image_gradient, kernel_gradient
from tests.checkers import assert_equal_arrays, assert_gradient
from tests.test_convolution import IMAGE, KERNEL, convolutions, drawn, kernel_of, noise, picture


def loss_of(way):
    """(images, kernel, upstream, stride, padding) -> sum of upstream * out: its gradient by `out` is `upstream`."""

    def loss(images, kernel, upstream, stride, padding):
        return (way(images, kernel, stride, padding) * upstream).sum()

    return loss


fast = jax.jit(convolve, static_argnums=(2, 3))
fast_gradient = jax.jit(jax.grad(loss_of(convolve), argnums=(0, 1)), static_argnums=(3, 4))


# By hand


def test_the_fast_way_gives_the_sum_of_the_chapter_before():
    # 1*1 - 0*1 + 4*2 + 1*1 + 5*3 = 25 at the first place, and so on (see test_convolution.py)
    assert_equal_arrays(convolve(IMAGE, KERNEL)[0, :, :, 0], [[25, 7], [5, 15]], "a 3 x 3 kernel on 4 x 4")


def test_without_options_the_stride_is_one_and_there_is_no_padding():
    assert convolve(IMAGE, KERNEL).shape == (1, 4 - 3 + 1, 4 - 3 + 1, 1)


def test_the_gradient_of_the_image_is_the_upstream_convolved_with_the_flipped_kernel():
    # image 2 3 5, kernel 7 11, upstream 1 10:      d_image = (1*7, 1*11 + 10*7, 10*11)
    # the upstream, padded by kernel - 1:  [. 1] 10 .     0*11 + 1*7
    #                                       . [1 10] .    1*11 + 10*7          the kernel, flipped: 11 7
    #                                       . 1 [10 .]    10*11 + 0*7
    kernel, upstream = kernel_of([[7, 11]]), picture([[1, 10]])
    got = image_gradient((1, 1, 3, 1), kernel, upstream, (1, 1), ((0, 0), (0, 0)))
    assert got.ravel().tolist() == [0 * 11 + 1 * 7, 1 * 11 + 10 * 7, 10 * 11 + 0 * 7] == [7, 81, 110]


def test_with_a_stride_the_upstream_is_spread_before_it_is_convolved():
    # image of 6, kernel 7 11 13, stride 2, upstream 1 10 at places 0 and 2; pixel 5 is left out
    # spread and padded:    . . 1 0 10 . . .    convolved with 13 11 7
    got = image_gradient((1, 1, 6, 1), kernel_of([[7, 11, 13]]), picture([[1, 10]]), (1, 2), ((0, 0), (0, 0)))
    assert got.ravel().tolist() == [7, 11, 13 + 7 * 10, 11 * 10, 13 * 10, 0]


def test_the_gradient_of_the_kernel_is_the_image_convolved_with_the_upstream():
    # image [2 3] 5 under upstream 1 10: 2*1 + 3*10;  2 [3 5]: 3*1 + 5*10
    image, upstream = picture([[2, 3, 5]]), picture([[1, 10]])
    got = kernel_gradient(image, (1, 2, 1, 1), upstream, (1, 1), ((0, 0), (0, 0)))
    assert got.ravel().tolist() == [2 * 1 + 3 * 10, 3 * 1 + 5 * 10]


def test_the_gradient_of_the_kernel_is_summed_over_the_batch():
    images = np.concatenate([picture([[2, 3, 5]]), picture([[1, 0, 4]])])
    upstream = np.concatenate([picture([[1, 10]]), picture([[100, 0]])])
    got = kernel_gradient(images, (1, 2, 1, 1), upstream, (1, 1), ((0, 0), (0, 0)))
    assert got.ravel().tolist() == [2 * 1 + 3 * 10 + 1 * 100, 3 * 1 + 5 * 10 + 0 * 100]


# Several ways


def assert_as_loops(setting, dtype, precision):
    image_shape, kernel_shape, stride, padding = setting
    images, kernel = noise(*image_shape), noise(*kernel_shape)
    out = convolve_loops(images.astype(np.float64), kernel.astype(np.float64), stride, padding)
    upstream = noise(*out.shape)
    wants = convolve_loops_gradient(*(a.astype(np.float64) for a in (images, kernel, upstream)), stride, padding)
    images, kernel, upstream = (a.astype(dtype) for a in (images, kernel, upstream))
    gots = fast_gradient(images, kernel, upstream, stride, padding)
    for what, got, want in [
        ("the convolution", fast(images, kernel, stride, padding), out),
        ("its gradient by the images", gots[0], wants[0]),
        ("its gradient by the kernel", gots[1], wants[1]),
    ]:
        assert got.dtype == dtype, f"{what} turned {np.dtype(dtype)} into {got.dtype}"
        assert_equal_arrays(got, want, f"{what}{setting}", rtol=precision, atol=precision * np.abs(want).max())


@drawn
@given(setting=convolutions())
def test_the_fast_way_and_its_gradient_are_the_loops_in_float32_to_a_hundred_thousandth(setting):
    assert_as_loops(setting, np.float32, 1e-5)


@drawn
@given(setting=convolutions())
def test_the_fast_way_and_its_gradient_are_the_loops_in_float64_to_a_trillionth(float64, setting):
    assert_as_loops(setting, np.float64, 1e-12)


# Small on purpose, and each unlike the others: a stride that leaves pixels out, padding on one side only, more padding
# than the kernel is wide, a kernel as large as the image.
SETTINGS = {
    "plain": ((2, 4, 5, 2), (3, 2, 2, 3), 1, "VALID"),
    "pixels left out": ((1, 6, 5, 2), (2, 3, 2, 1), (3, 2), "VALID"),
    "one side": ((1, 3, 4, 1), (2, 2, 1, 2), (2, 1), ((0, 1), (2, 0))),
    "much padding": ((1, 2, 3, 1), (1, 2, 1, 1), (2, 3), 2),
    "same": ((1, 5, 4, 1), (4, 3, 1, 2), (2, 3), "SAME"),
    "one place": ((2, 3, 2, 2), (3, 2, 2, 2), 1, "VALID"),
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_the_gradient_written_by_hand_is_that_of_differentiation_and_of_differences(float64, setting):
    image_shape, kernel_shape, stride, padding = setting
    images, kernel = noise(*image_shape, dtype=np.float64), noise(*kernel_shape, dtype=np.float64)
    upstream = noise(*convolve_loops(images, kernel, stride, padding).shape, dtype=np.float64)
    d_images, d_kernel = fast_gradient(images, kernel, upstream, stride, padding)
    automatic = jax.jit(jax.grad(loss_of(convolve_lax), argnums=(0, 1)), static_argnums=(3, 4))
    by_jax = automatic(images, kernel, upstream, stride, padding)
    assert_equal_arrays(d_images, by_jax[0], "by the images, jax's own", rtol=1e-12, atol=1e-12)
    assert_equal_arrays(d_kernel, by_jax[1], "by the kernel, jax's own", rtol=1e-12, atol=1e-12)

    def loss(images, kernel):
        return (fast(images, kernel, stride, padding) * upstream).sum()

    assert_gradient(d_images, lambda images: loss(images, kernel), images, "the convolution by its images")
    assert_gradient(d_kernel, lambda kernel: loss(images, kernel), kernel, "the convolution by its kernel")


def test_inside_a_scan_and_a_batch_of_batches_the_gradient_is_the_same():
    images, kernel, upstream = noise(3, 1, 4, 5, 2), noise(3, 2, 2, 2), noise(3, 1, 2, 4, 2)
    gradient = jax.grad(loss_of(convolve), argnums=(0, 1))
    one_by_one = [fast_gradient(images[i], kernel, upstream[i], 1, "VALID") for i in range(3)]
    _, scanned = jax.lax.scan(
        lambda carry, pair: (carry, gradient(pair[0], kernel, pair[1], 1, "VALID")), None, (images, upstream)
    )
    mapped = jax.vmap(lambda image, above: gradient(image, kernel, above, 1, "VALID"))(images, upstream)
    for i, want in enumerate(one_by_one):
        for name, got in {"scan": scanned, "vmap": mapped}.items():
            assert_equal_arrays(got[0][i], want[0], f"d_images in a {name}", atol=1e-5)
            assert_equal_arrays(got[1][i], want[1], f"d_kernel in a {name}", atol=1e-5)


def test_the_backward_pass_lays_its_operands_out_before_the_compiler_may_fold_them():
    back = jax.make_jaxpr(jax.grad(loss_of(convolve), argnums=(0, 1)), static_argnums=(3, 4))
    program = str(back(noise(1, 4, 4, 8), noise(3, 3, 8, 3), noise(1, 2, 2, 3), 1, "VALID"))
    assert program.count("optimization_barrier") == 2, "one before each of the two convolutions that go back"
    assert program.count("conv_general_dilated[") == 2 + 1, "one forward, two back"


# What follows from the definition


def test_a_shift_of_the_image_shifts_the_result():
    images, kernel = noise(1, 7, 8, 2), noise(3, 2, 2, 2)
    assert_equal_arrays(fast(images[:, 1:, 2:], kernel), fast(images, kernel)[:, 1:, 2:], "a shift", atol=1e-5)


def test_one_image_does_not_influence_another_forward_or_back():
    images, kernel = noise(3, 4, 5, 2), noise(3, 2, 2, 2)
    upstream = np.zeros((3, 2, 4, 2), np.float32)
    upstream[1] = noise(2, 4, 2)  # only image 1 enters the loss
    d_images, _ = fast_gradient(images, kernel, upstream, 1, "VALID")
    assert np.all(d_images[0] == 0)
    assert np.all(d_images[2] == 0)
    assert np.all(d_images[1] != 0)
    assert_equal_arrays(fast(images[1:2], kernel), fast(images, kernel)[1:2], "alone, and among others", atol=1e-5)


# What is refused


def test_shapes_that_do_not_fit_are_told_before_anything_is_computed():
    with pytest.raises(ShapeError) as error:
        convolve(jnp.zeros((1, 4, 4, 3)), jnp.zeros((3, 3, 2, 1)))
    assert str(error.value) == "convolution: got images of shape (1, 4, 4, 3), wants 2 channels on the last axis"
    with pytest.raises(ShapeError) as error:
        convolve(jnp.zeros((1, 2, 4, 1)), jnp.zeros((3, 3, 1, 1)))
    assert str(error.value) == (
        "convolution: got images of shape (1, 2, 4, 1) with padding ((0, 0), (0, 0)), "
        "wants a padded image at least as large as its 3 x 3 kernel"
    )


# Folding


@pytest.mark.parametrize(("channels", "stride"), [(8, 1), (3, 1), (1, 2)], ids=["plain", "patches", "folded"])
def test_an_empty_batch_is_a_batch_and_gives_the_kernel_no_gradient(channels, stride):
    images, kernel = jnp.zeros((0, 6, 6, channels)), jnp.ones((2, 2, channels, 5))
    result, back = jax.vjp(lambda images, kernel: convolve(images, kernel, stride), images, kernel)
    assert result.shape == ((0, 5, 5, 5) if stride == 1 else (0, 3, 3, 5))
    d_images, d_kernel = back(result)
    assert d_images.shape == images.shape
    assert not d_kernel.any()


def test_folding_lays_the_pixels_that_are_stepped_over_into_channels():
    # pixels 1 2 3 4 5 and kernel 10 20 30 40, stride 2, one pixel of padding: places (. 1 2 3) and (2 3 4 5)
    images, kernel = fold(picture([[1, 2, 3, 4, 5]]), kernel_of([[10, 20, 30, 40]]), (1, 2), ((0, 0), (1, 0)), (1, 2))
    assert images[0, 0].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert kernel[0, :, :, 0].tolist() == [[10, 20], [30, 40]]
    assert convolve(images, kernel).ravel().tolist() == [
        0 * 10 + 1 * 20 + 2 * 30 + 3 * 40,
        2 * 10 + 3 * 20 + 4 * 30 + 5 * 40,
    ]


def is_folded(images, kernel, stride, padding) -> bool:
    """Whether going back, the upstream gradient need not be spread as far as the stride."""
    program = jax.make_jaxpr(jax.grad(lambda k: convolve(images, k, stride, padding).sum()))(kernel)
    return set(re.findall(r"rhs_dilation=(\(\d+, \d+\))", str(program))) == {"(1, 1)"}


@pytest.mark.parametrize(
    ("size", "window", "stride", "padding", "channels"),
    [
        ((12, 13), (6, 6), 2, 2, 1),
        ((12, 13), (4, 6), 2, "SAME", 3),
        ((13, 11), (3, 6), (3, 2), "VALID", 2),
        ((9, 10), (2, 2), 2, ((1, 0), (0, 1)), 4),
        ((9, 17), (3, 4), (1, 4), "SAME", 1),
    ],
)
def test_a_folded_convolution_and_its_gradient_are_those_of_the_loops(size, window, stride, padding, channels, float64):
    images, kernel = (noise(*shape, dtype=np.float64) for shape in ((2, *size, channels), (*window, channels, 5)))
    want = convolve_loops(images, kernel, stride, padding)
    upstream = noise(*want.shape, dtype=np.float64)
    assert is_folded(images, kernel, stride, padding)
    assert_equal_arrays(convolve(jnp.asarray(images), jnp.asarray(kernel), stride, padding), want, "folded", rtol=1e-9)
    got = fast_gradient(images, kernel, upstream, stride, padding)
    for found, wanted, what in zip(got, convolve_loops_gradient(images, kernel, upstream, stride, padding), "xk"):
        assert_equal_arrays(found, wanted, f"gradient by {what}", rtol=1e-9)


def test_what_would_not_gain_is_not_folded():
    def folded(channels, window):
        return is_folded(noise(1, 12, 12, channels), noise(window, window, channels, 2), 2, "VALID")

    assert not folded(32, 4), "many channels"
    assert not folded(1, 3), "a kernel that is no multiple of the stride"
    assert folded(4, 4)


# Few channels: patches are copied, and multiplied as one matrix


def is_one_product(images, kernel) -> bool:
    program = str(jax.make_jaxpr(convolve)(images, kernel))
    return "dot_general" in program and "conv_general_dilated" not in program


@pytest.mark.parametrize(
    ("image_shape", "kernel_shape", "stride", "padding"),
    [
        ((2, 7, 8, 3), (3, 3, 3, 5), 1, 0),
        ((1, 6, 9, 1), (2, 5, 1, 3), 1, ((1, 0), (2, 3))),
        ((3, 4, 4, 4), (4, 2, 4, 1), 1, 1),
        ((2, 9, 8, 3), (3, 3, 3, 4), 2, "SAME"),
    ],
    ids=["odd height", "unlike sides", "even kernel", "stride"],
)
def test_patches_as_one_product_give_the_sums_and_gradients_of_the_loops(image_shape, kernel_shape, stride, padding):
    images, kernel = noise(*image_shape), noise(*kernel_shape)
    want = convolve_loops(images, kernel, stride, padding)
    upstream = noise(*want.shape)
    assert is_one_product(images, kernel)
    assert_equal_arrays(convolve(images, kernel, stride, padding), want, "one product", atol=1e-5)
    got = fast_gradient(images, kernel, upstream, stride, padding)
    for found, wanted, what in zip(got, convolve_loops_gradient(images, kernel, upstream, stride, padding), "xk"):
        assert_equal_arrays(found, wanted, f"gradient by {what}", atol=1e-4)


def test_patches_that_are_long_or_one_line_high_are_not_copied():
    images = jnp.ones((1, 12, 12, 3))
    assert is_one_product(images, jnp.ones((5, 5, 3, 2)))
    assert not is_one_product(images, jnp.ones((6, 5, 3, 2))), "90 numbers a patch"
    assert not is_one_product(images, jnp.ones((1, 5, 3, 2))), "one line"
    assert not is_one_product(jnp.ones((1, 12, 12, 8)), jnp.ones((2, 2, 8, 2))), "eight channels"


def test_a_pixel_that_is_not_a_number_spoils_the_places_that_see_it_and_no_other():
    images = noise(1, 6, 7, 3).copy()
    images[0, 2, 3, 1] = np.nan
    spoilt = np.isnan(convolve(images, noise(3, 3, 3, 2))).all(axis=-1)[0]
    want = np.zeros((4, 5), bool)
    want[0:3, 1:4] = True
    assert np.array_equal(spoilt, want)
