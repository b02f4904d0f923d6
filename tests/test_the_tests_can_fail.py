"""A test that cannot fail proves nothing: here the mistakes are planted, and the checkers must object.

Each mistake is one that has been made in earnest: a kernel that is flipped, height and width exchanged, padding on the
wrong side, a division that is missing, a tie that goes to the last pixel, a sign. Beside each stands the right way,
which the same check lets pass: so the objection is to the mistake, and to nothing else.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn.convolution import convolve_loops, convolve_loops_gradient
from cnn.dense import dropout, relu
from cnn.loss import cross_entropy
from cnn.pooling import average_pool, max_pool
from tests.checkers import assert_equal_arrays, assert_gradient, numeric_gradient
from tests.test_convolution import noise

IMAGES, KERNEL = noise(2, 4, 5, 2, dtype=np.float64), noise(3, 2, 2, 3, dtype=np.float64)
STRIDE, SIDES = (1, 2), ((1, 0), (0, 2))
WANT = convolve_loops(IMAGES, KERNEL, STRIDE, SIDES)
UPSTREAM = noise(*WANT.shape, dtype=np.float64)
LABELS = np.array([2, 0])


def pad(before, after):
    """The images with rows and columns of zeros: (top, left), (bottom, right)."""
    return np.pad(IMAGES, ((0, 0), (before[0], after[0]), (before[1], after[1]), (0, 0)))


def no_padding(images, kernel, stride=STRIDE):
    return convolve_loops(images, kernel, stride)


# What a convolution may be mistaken for: name -> result. The first one is right.
CONVOLUTIONS = {
    "right": lambda: no_padding(pad((1, 0), (0, 2)), KERNEL),
    "flipped in both directions": lambda: no_padding(pad((1, 0), (0, 2)), KERNEL[::-1, ::-1]),
    "flipped upside down": lambda: no_padding(pad((1, 0), (0, 2)), KERNEL[::-1]),
    "mirrored": lambda: no_padding(pad((1, 0), (0, 2)), KERNEL[:, ::-1]),
    "channels in another order": lambda: no_padding(pad((1, 0), (0, 2)), KERNEL[:, :, ::-1]),
    "outputs in another order": lambda: no_padding(pad((1, 0), (0, 2)), KERNEL[..., ::-1]),
    "images in another order": lambda: no_padding(pad((1, 0), (0, 2)), KERNEL)[::-1],
    "padding on the other side": lambda: no_padding(pad((0, 2), (1, 0)), KERNEL),
    "padding at top and bottom exchanged": lambda: no_padding(pad((0, 0), (1, 2)), KERNEL),
    "padding shared by both sides": lambda: no_padding(pad((1, 1), (0, 1)), KERNEL),
    "a row of padding too many": lambda: no_padding(pad((2, 0), (0, 2)), KERNEL),
    "no padding on the right": lambda: no_padding(pad((1, 0), (0, 0)), KERNEL),
    "padding with ones": lambda: no_padding(np.where(pad((1, 0), (0, 2)) == 0, 1, pad((1, 0), (0, 2))), KERNEL),
    "stride down and sideways exchanged": lambda: no_padding(pad((1, 0), (0, 2)), KERNEL, (2, 1)),
    "no stride": lambda: no_padding(pad((1, 0), (0, 2)), KERNEL, 1),
    "places taken one too late": lambda: no_padding(pad((1, 0), (0, 3))[:, :, 1:], KERNEL),
    "height and width of the image exchanged": lambda: no_padding(pad((1, 0), (0, 2)).swapaxes(1, 2), KERNEL),
    "the result transposed": lambda: WANT.swapaxes(1, 2),
    "a sign": lambda: -WANT,
    "the mean over the kernel, not the sum": lambda: WANT / 6,
    "one value off by a tenth of a percent": lambda: (
        WANT * np.where(np.arange(WANT.size) == 7, 1.001, 1).reshape(WANT.shape)
    ),
    "one value NaN": lambda: np.where(np.arange(WANT.size).reshape(WANT.shape) == 7, np.nan, WANT),
    "one axis too many": lambda: WANT[None],
}


def loss_by_images(images):
    return (convolve_loops(images, KERNEL, STRIDE, SIDES) * UPSTREAM).sum()


def loss_by_kernel(kernel):
    return (convolve_loops(IMAGES, kernel, STRIDE, SIDES) * UPSTREAM).sum()


D_IMAGES, D_KERNEL = convolve_loops_gradient(IMAGES, KERNEL, UPSTREAM, STRIDE, SIDES)
SLIGHTLY = np.where(np.arange(D_KERNEL.size).reshape(D_KERNEL.shape) == abs(D_KERNEL).argmin(), 1.001, 1)
BACK_WITH_WRONG = {  # gradients by the images, of forward passes that were mistaken
    "a flipped kernel": (KERNEL[::-1, ::-1], STRIDE, SIDES),
    "padding on the other side": (KERNEL, STRIDE, ((0, 1), (2, 0))),
}
GRADIENTS_BY_IMAGES = {
    "right": D_IMAGES,
    "off by 0.1 % everywhere": D_IMAGES * 1.001,
    "a sign": -D_IMAGES,
    "that of another image": D_IMAGES[::-1],
    "averaged over the batch": D_IMAGES / 2,
    "upside down": D_IMAGES[:, ::-1],
    "height and width exchanged": D_IMAGES.swapaxes(1, 2),
} | {name: convolve_loops_gradient(IMAGES, k, UPSTREAM, s, p)[0] for name, (k, s, p) in BACK_WITH_WRONG.items()}
GRADIENTS_BY_KERNEL = {
    "right": D_KERNEL,
    "off by 0.1 % everywhere": D_KERNEL * 0.999,
    "off by 0.1 % in the smallest value": D_KERNEL * SLIGHTLY,
    "a sign": -D_KERNEL,
    "flipped": D_KERNEL[::-1, ::-1],
    "of the first image alone": convolve_loops_gradient(IMAGES[:1], KERNEL, UPSTREAM[:1], STRIDE, SIDES)[1],
    "channels in another order": D_KERNEL[:, :, ::-1],
    "the squared one": D_KERNEL**2,
}


def objects(check, is_right: bool) -> None:
    """Runs a check that must pass for what is right, and must object to what is not."""
    if is_right:
        check()
    else:
        with pytest.raises(AssertionError):
            check()


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_that_is_mistaken_is_told_from_the_right_one(name):
    def check():
        assert_equal_arrays(CONVOLUTIONS[name](), WANT, name)

    objects(check, name == "right")


@pytest.mark.parametrize("name", GRADIENTS_BY_IMAGES)
def test_a_wrong_gradient_by_the_images_is_told_from_the_right_one(name):
    objects(lambda: assert_gradient(GRADIENTS_BY_IMAGES[name], loss_by_images, IMAGES, name), name == "right")


@pytest.mark.parametrize("name", GRADIENTS_BY_KERNEL)
def test_a_wrong_gradient_by_the_kernel_is_told_from_the_right_one(name):
    objects(lambda: assert_gradient(GRADIENTS_BY_KERNEL[name], loss_by_kernel, KERNEL, name), name == "right")


# Pools, dropout, ReLU and the loss: the mistake is in the operation, and its own gradient is checked against the truth

TIE = np.array([[7.0, 7.0], [1.0, 7.0]]).reshape(1, 2, 2, 1)
FIRST = np.array([[1.0, 0.0], [0.0, 0.0]]).reshape(1, 2, 2, 1)


@pytest.mark.parametrize(
    ("name", "pool"),
    [
        ("right", max_pool),
        ("the last of equal ones", lambda images: max_pool(images[:, ::-1, ::-1])),
        ("shared among equal ones", lambda images: images.max(axis=(1, 2), keepdims=True)),
        ("shared by maximum", lambda images: jnp.maximum(images[:, :, :1], images[:, :, 1:]).max(axis=1)),
        ("the mean", average_pool),
    ],
)
def test_a_tie_that_goes_elsewhere_is_noticed(name, pool):
    got = jax.grad(lambda images: pool(images).sum())(jnp.asarray(TIE))
    objects(lambda: assert_equal_arrays(got, FIRST, f"the gradient of a tie: {name}"), name == "right")


@pytest.mark.parametrize(
    ("name", "drop"),
    [
        ("right", dropout),
        ("no 1 / keep", lambda key, inputs, rate: dropout(key, inputs, rate) * (1 - rate)),
        ("1 / rate", lambda key, inputs, rate: dropout(key, inputs, rate) * (1 - rate) / rate),
        ("rate and keep exchanged", lambda key, inputs, rate: dropout(key, inputs, 1 - rate)),
        ("nothing dropped", lambda key, inputs, rate: inputs),
    ],
)
def test_dropout_without_its_scaling_or_with_another_rate_is_noticed(name, drop):
    def check():
        dropped = np.asarray(drop(jax.random.key(0), np.ones((100, 200), np.float32), 0.7))
        assert_equal_arrays(dropped.mean(), 1.0, f"the mean of dropout: {name}", atol=0.05)  # 4 sigma = 0.043
        assert_equal_arrays((dropped == 0).mean(), 0.7, f"the share that is dropped: {name}", atol=0.013)

    objects(check, name == "right")


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        ("right", relu),
        ("half a gradient at zero", lambda inputs: jnp.maximum(inputs, 0)),
        ("a gradient of one at zero", lambda inputs: jnp.where(inputs >= 0, inputs, 0)),
        ("leaky", lambda inputs: jnp.where(inputs > 0, inputs, 0.01 * inputs)),
        ("of the other sign", lambda inputs: -relu(-inputs)),
    ],
)
def test_another_slope_of_the_relu_is_noticed(name, cut):
    got = jax.grad(lambda inputs: cut(inputs).sum())(jnp.array([-2.0, 0.0, 3.0]))
    objects(lambda: assert_equal_arrays(got, [0, 0, 1], f"the slope of the ReLU: {name}"), name == "right")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("right", lambda slope: slope),
        ("a sign", lambda slope: -slope),
        ("what is true minus what was said, for one class", lambda slope: slope * np.array([1, 1, -1])),
        ("the mean over the batch", lambda slope: slope / 2),
        ("off by 0.1 %", lambda slope: slope * 1.001),
        ("without the truth", lambda slope: slope + np.eye(3)[LABELS]),
        ("off by a thousandth in one place", lambda slope: slope + 0.001 * (np.arange(6).reshape(2, 3) == 4)),
    ],
)
def test_a_wrong_slope_of_the_loss_is_noticed(float64, name, change):
    logits = noise(2, 3, dtype=np.float64)

    def loss(logits):
        return cross_entropy(jnp.asarray(logits), LABELS).sum()

    slope = np.asarray(jax.grad(loss)(jnp.asarray(logits)))
    objects(lambda: assert_gradient(change(slope), loss, logits, f"cross-entropy: {name}"), name == "right")


# What an objection says


def test_central_differences_find_a_derivative_that_is_known():
    #   x^3 has the slope 3x^2:  at 1, -2 and 0.5:  3, 12, 0.75
    got = numeric_gradient(lambda x: (x**3).sum(), np.array([[1.0, -2.0, 0.5]]))
    assert_equal_arrays(got, [[3 * 1, 3 * 4, 3 * 0.25]], "3 x^2", rtol=1e-8)


def test_an_objection_says_what_where_and_how_much():
    with pytest.raises(AssertionError) as error:
        assert_equal_arrays([[1.0, 2.0, 3.0], [4.0, 5.5, 6.0]], [[1, 2, 3.1], [4, 5, 6]], "a matrix")
    assert str(error.value).startswith("a matrix: 2 of 6 values differ, most at (1, 1): got 5.5, expected 5")
    with pytest.raises(AssertionError, match=r"^a row: shape \(1, 3\), expected \(3,\)$"):
        assert_equal_arrays([[1, 2, 3]], [1, 2, 3], "a row")  # numpy would stretch the one over the other
    with pytest.raises(AssertionError, match=r"^the gradient of a square: 1 of 2 values differ, most at"):
        assert_gradient([2.0, 4.004], lambda x: (x**2).sum(), np.array([1.0, 2.0]), "a square")
    with pytest.raises(AssertionError, match=r"^nothing: 1 of 1 values differ.*got nan"):
        assert_equal_arrays([np.nan], [0.0], "nothing")


def test_a_difference_of_rounding_is_no_objection():
    assert assert_equal_arrays([1.000001, 0.0], [1.0, 1e-7], "rounding") is None
    assert assert_gradient([2.0, 4.0], lambda x: (x**2).sum(), np.array([1.0, 2.0]), "a square") is None


def test_with_no_tolerance_the_last_bit_counts():
    assert_equal_arrays([1e-7], [1e-7], "the same", rtol=0)
    with pytest.raises(AssertionError, match="1 of 1 values differ"):
        assert_equal_arrays([1e-7], [0.0], "to the bit", rtol=0)
