"""Pooling: one number a window, and the way its gradient goes back.

The largest pixel wins, and gets the whole gradient; a mean shares it. Where windows overlap, gradients add up; where a
window hangs over the edge, only the pixels on the image count. Next: test_attention.py.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cnn.errors import ShapeError
from cnn.pooling import average_pool, global_average_pool, max_pool
from cnn.windows import places, resolve_padding
from tests.checkers import assert_equal_arrays, assert_gradient
from tests.test_convolution import noise, picture

drawn = settings(
    max_examples=14, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
POOLS = {"max": max_pool, "average": average_pool}
compiled = {name: jax.jit(pool, static_argnums=(1, 2, 3, 4)) for name, pool in POOLS.items()}


@partial(jax.jit, static_argnums=(0, 3, 4, 5, 6))
def gradient(name, images, upstream, window=2, stride=None, padding="VALID", ceil=False):
    """The gradient by the images of sum(upstream * pool(images))."""
    return jax.grad(lambda images: (POOLS[name](images, window, stride, padding, ceil) * upstream).sum())(images)


def pool_loops(name, images, upstream, window, stride, padding, ceil):
    """The definition, and the gradient that follows from it, as loops over the places: (pooled, d_images)."""
    (height, width), sides = images.shape[1:3], resolve_padding(padding, images.shape[1:3], window, stride)
    out = [places(n, w, s, side, ceil) for n, w, s, side in zip((height, width), window, stride, sides)]
    pooled, d_images = np.zeros((len(images), *out, images.shape[3]), images.dtype), np.zeros_like(images)
    for n, y, x, c in np.ndindex(pooled.shape):
        top, left = y * stride[0] - sides[0][0], x * stride[1] - sides[1][0]
        seen = [
            (n, v, u, c)
            for v in range(max(top, 0), min(top + window[0], height))
            for u in range(max(left, 0), min(left + window[1], width))
        ]
        if name == "max":
            winner = max(seen, key=lambda place: images[place])  # of equal ones, max() takes the first
            pooled[n, y, x, c] = images[winner]
            d_images[winner] += upstream[n, y, x, c]
        else:
            pooled[n, y, x, c] = sum(images[place] for place in seen) / len(seen)
            for place in seen:
                d_images[place] += upstream[n, y, x, c] / len(seen)
    return pooled, d_images


# By hand


def test_a_max_pool_takes_the_largest_pixel_of_each_window():
    #   1 5 | 2 0
    #   3 4 | 8 7        each channel by itself: the second holds the negatives
    first = np.array([[1, 5, 2, 0], [3, 4, 8, 7]])
    pooled = max_pool(picture(np.stack([first, -first], axis=-1)), 2)
    assert pooled.tolist() == [[[[max(1, 5, 3, 4), -min(1, 5, 3, 4)], [max(2, 0, 8, 7), -min(2, 0, 8, 7)]]]]


def test_an_average_pool_takes_the_mean_of_each_window():
    pooled = average_pool(picture([[1, 5, 2, 0], [3, 4, 8, 7]]), 2)
    assert pooled.ravel().tolist() == [(1 + 5 + 3 + 4) / 4, (2 + 0 + 8 + 7) / 4]


def test_without_options_the_window_is_two_by_two_and_steps_by_its_own_size():
    #   1 5 2 | 0 6 1     window 1 x 3, stride (1, 3)
    image = picture([[1, 5, 2, 0, 6, 1]])
    assert max_pool(image, (1, 3)).ravel().tolist() == [5, 6]
    assert average_pool(image, (1, 3)).ravel().tolist() == [pytest.approx(8 / 3), pytest.approx(7 / 3)]
    assert max_pool(noise(1, 4, 6, 1)).shape == average_pool(noise(1, 4, 6, 1)).shape == (1, 2, 3, 1)


def test_windows_overlap_where_the_stride_is_smaller_than_the_window():
    #   [1 [5  2] 0]      window 1 x 3, stride 1:  (1 5 2) and (5 2 0)
    image = picture([[1, 5, 2, 0]])
    assert max_pool(image, (1, 3), 1).ravel().tolist() == [5, 5]
    assert average_pool(image, (1, 3), (1, 1)).ravel().tolist() == [pytest.approx(8 / 3), pytest.approx(7 / 3)]


def test_padding_never_wins_and_is_not_counted():
    #   . [-3 -1] .       window 1 x 2, stride 2, padding 1 left and right: (. -3) and (-1 .)
    image = picture([[-3, -1]])
    assert max_pool(image, (1, 2), padding=((0, 0), (1, 1))).ravel().tolist() == [-3, -1]
    assert average_pool(image, (1, 2), padding=((0, 0), (1, 1))).ravel().tolist() == [-3 / 1, -1 / 1]


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_ceil_mode_pools_the_pixels_that_are_left_over(pool):
    #   [1 2 [3] 4 5] 6     window 1 x 3, stride 2: without ceil, pixel 6 is in no window
    image = picture([[1, 2, 3, 4, 5, 6]])
    whole = [(1, 2, 3), (3, 4, 5), (5, 6)]
    value = max if pool is max_pool else lambda window: sum(window) / len(window)
    assert pool(image, (1, 3), (1, 2)).ravel().tolist() == [value(window) for window in whole[:2]]
    assert pool(image, (1, 3), (1, 2), ceil=True).ravel().tolist() == [value(window) for window in whole]


def test_global_average_pooling_makes_one_number_of_each_channel():
    #   1 2        10 0
    #   3 6         0 2      of two images: this one, and one that is twice it
    image = np.stack([np.array([[1, 2], [3, 6]]), np.array([[10, 0], [0, 2]])], axis=-1)[None].astype(np.float32)
    got = global_average_pool(jnp.concatenate([image, 2 * image]))
    assert got.tolist() == [[(1 + 2 + 3 + 6) / 4, (10 + 2) / 4], [2 * 3, 2 * 3]]


# The gradient


def test_the_gradient_of_a_max_pool_goes_to_the_largest_input():
    #   1 5 | 2 0         upstream 10 | 100
    #   3 4 | 8 7
    got = gradient("max", picture([[1, 5, 2, 0], [3, 4, 8, 7]]), picture([[10, 100]]))
    assert got[0, :, :, 0].tolist() == [[0, 10, 0, 0], [0, 0, 100, 0]]


@pytest.mark.parametrize(
    ("window", "winner"),
    [
        ([[7, 7], [7, 7]], [[1, 0], [0, 0]]),
        ([[1, 7], [7, 7]], [[0, 1], [0, 0]]),
        ([[1, 2], [7, 7]], [[0, 0], [1, 0]]),
        ([[0, 0], [-1, 0]], [[1, 0], [0, 0]]),
    ],
    ids=str,
)
def test_of_equal_inputs_the_first_in_reading_order_gets_the_gradient_wholly(window, winner):
    got = gradient("max", picture(window), picture([[3]]))
    assert got[0, :, :, 0].tolist() == (3 * np.array(winner)).tolist()


@pytest.mark.parametrize("places", [127, 128, 129, 300])  # one byte with a sign holds up to 127
def test_a_window_may_have_more_places_than_a_byte_can_number(places):
    got = gradient("max", picture([range(2 * places)]), picture([[3, 5]]), (1, places))
    assert got.ravel().tolist() == [0] * (places - 1) + [3] + [0] * (places - 1) + [5]


def test_the_gradient_of_an_average_pool_is_shared_by_the_window():
    got = gradient("average", picture([[1, 5, 2, 0], [3, 4, 8, 7]]), picture([[10, 100]]))
    assert got[0, :, :, 0].tolist() == [[10 / 4, 10 / 4, 100 / 4, 100 / 4]] * 2


def test_gradients_of_overlapping_windows_add_up():
    #   1 5 2 0     window 1 x 3, stride 1: the 5 wins twice;      a mean's pixels: 0 in one window, 1 and 2 in both
    image, upstream = picture([[1, 5, 2, 0]]), picture([[10, 100]])
    assert gradient("max", image, upstream, (1, 3), 1).ravel().tolist() == [0, 10 + 100, 0, 0]
    want = [10 / 3, 10 / 3 + 100 / 3, 10 / 3 + 100 / 3, 100 / 3]
    assert_equal_arrays(gradient("average", image, upstream, (1, 3), 1).ravel(), want, "overlapping means")


@pytest.mark.parametrize("name", POOLS)
def test_the_gradient_by_differentiation_and_by_differences_is_one(float64, name):
    images, upstream = noise(2, 5, 4, 2, dtype=np.float64), noise(2, 3, 3, 2, dtype=np.float64)
    settings = (3, (2, 1), ((1, 0), (1, 0)), True)  # rows 0-1, 1-3, 3-4 of 5; height ceil((5 + 1 - 3) / 2) + 1 = 3
    got = gradient(name, images, upstream, *settings)
    assert_gradient(
        got, lambda images: (compiled[name](images, *settings) * upstream).sum(), images, f"the {name} pool"
    )


def test_the_gradient_of_global_average_pooling_is_shared_by_the_image(float64):
    images, upstream = noise(2, 2, 3, 2, dtype=np.float64), noise(2, 2, dtype=np.float64)

    def loss(images):
        return (global_average_pool(jnp.asarray(images)) * upstream).sum()

    by_hand = np.broadcast_to(upstream[:, None, None, :] / (2 * 3), images.shape)
    assert_equal_arrays(jax.grad(loss)(images), by_hand, "upstream / (height * width)", rtol=1e-12)
    assert_gradient(by_hand, loss, images, "global average pooling")


# Several ways


@st.composite
def pools(draw):
    """(image shape, window, stride, padding, ceil): windows that fit, and that see at least one pixel each."""
    window = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    height, width = window[0] + draw(st.integers(0, 4)), window[1] + draw(st.integers(0, 4))
    side = [st.tuples(st.integers(0, w - 1), st.integers(0, w - 1)) for w in window]
    padding = draw(st.sampled_from(["VALID", "SAME"]) | st.tuples(*side))
    stride = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    shape = draw(st.integers(1, 2)), height, width, draw(st.integers(1, 2))
    return shape, window, stride, padding, draw(st.booleans())


@pytest.mark.parametrize("name", POOLS)
@drawn
@given(pool=pools())
def test_pools_and_their_gradients_are_those_of_the_loops(float64, name, pool):
    image_shape, *setting = pool
    images = np.round(noise(*image_shape, dtype=np.float64))  # whole numbers: there will be ties
    out = compiled[name](images, *setting)
    upstream = noise(*out.shape, dtype=np.float64)
    pooled, d_images = pool_loops(name, images, upstream, *setting)
    assert_equal_arrays(out, pooled, f"{name} pool {pool}", rtol=1e-12, atol=1e-12)
    got = gradient(name, images, upstream, *setting)
    assert_equal_arrays(got, d_images, f"gradient of the {name} pool {pool}", rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_flax_pools_alike(padding):
    images = noise(2, 7, 5, 3)
    for window, stride in [((2, 2), (2, 2)), ((3, 2), (2, 1))]:
        theirs = nnx.max_pool(jnp.asarray(images), window, stride, padding)
        assert_equal_arrays(compiled["max"](images, window, stride, padding), theirs, "flax.nnx.max_pool")
        theirs = nnx.avg_pool(jnp.asarray(images), window, stride, padding, count_include_pad=False)
        assert_equal_arrays(compiled["average"](images, window, stride, padding), theirs, "flax.nnx.avg_pool")


# Properties


def test_a_pool_does_not_see_a_shift_inside_its_window():
    #   0 9 | 0 0         9 0 | 0 0
    #   0 0 | 0 5         0 0 | 5 0      one to the left: other pixels, the same windows
    here, there = picture([[0, 9, 0, 0], [0, 0, 0, 5]]), picture([[9, 0, 0, 0], [0, 0, 5, 0]])
    assert max_pool(here).ravel().tolist() == max_pool(there).ravel().tolist() == [9, 5]
    assert average_pool(here).ravel().tolist() == average_pool(there).ravel().tolist() == [9 / 4, 5 / 4]
    beyond = picture([[0, 0, 9, 0], [0, 0, 0, 5]])  # over the border of the windows it does see it
    assert max_pool(beyond).ravel().tolist() == [0, 9]


def test_the_global_mean_does_not_see_any_shift_that_goes_round():
    images = noise(2, 4, 5, 3)
    rolled = np.roll(images, (1, 2), axis=(1, 2))
    assert_equal_arrays(global_average_pool(rolled), global_average_pool(images), "rolled round")


def test_a_max_pool_commutes_with_every_rising_function_and_a_mean_with_linear_ones():
    images = noise(2, 4, 6, 3)
    assert_equal_arrays(max_pool(np.exp(images)), np.exp(max_pool(images)), "exp")
    assert_equal_arrays(max_pool(np.maximum(images, 0)), np.maximum(max_pool(images), 0), "ReLU may follow the pool")
    assert_equal_arrays(average_pool(2 * images + 3), 2 * average_pool(images) + 3, "2x + 3")


@pytest.mark.parametrize("name", POOLS)
def test_one_image_does_not_influence_another(name):
    images = noise(3, 4, 6, 2)
    assert_equal_arrays(compiled[name](images)[1:2], compiled[name](images[1:2]), "alone, and among others", rtol=0)


@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("name", [*POOLS, "global"])
def test_nan_is_not_hidden(name, place):
    images = picture([[4, 1], [2, 3]])
    images[(0, *place, 0)] = np.nan
    pool = global_average_pool if name == "global" else compiled[name]
    assert np.isnan(pool(images)).all(), f"NaN at {place} was hidden by the {name} pool"


@pytest.mark.parametrize("name", [*POOLS, "global"])
def test_the_dtype_stays(float64, name):
    pool = global_average_pool if name == "global" else compiled[name]
    for dtype in (np.float16, np.float32, np.float64):
        assert pool(jnp.ones((1, 2, 2, 1), dtype)).dtype == dtype


# What is refused


@pytest.mark.parametrize(("name", "title"), [("max", "max pool"), ("average", "average pool")])
def test_a_pool_that_does_not_fit_is_told_by_its_name(name, title):
    cases = [
        (((4, 4, 1), 2), "{}: got images of shape (4, 4, 1), wants (batch, height, width, channels)"),
        (
            ((1, 2, 4, 1), (3, 2)),
            "{}: got images of shape (1, 2, 4, 1) with padding ((0, 0), (0, 0)), "
            "wants a padded image at least as large as its 3 x 2 window",
        ),
        (
            ((1, 5, 4, 1), (3, 2), None, ((2, 0), (0, 2))),
            "{}: got padding ((2, 0), (0, 2)), "
            "wants less padding than its window (3, 2), which else would see no pixel",
        ),
        (
            ((1, 4, 4, 1), 0),
            "window of {}: got 0, wants one int or a pair (height, width) of ints, each at least 1",
        ),
        (
            ((1, 4, 4, 1), 2, (2, 0)),
            "stride of {}: got (2, 0), wants one int or a pair (height, width) of ints, each at least 1",
        ),
    ]
    for (shape, *setting), message in cases:
        with pytest.raises(ShapeError) as error:
            POOLS[name](jnp.zeros(shape), *setting)
        assert str(error.value) == message.format(title)
    # global average pooling has no window, but it too wants images
    with pytest.raises(ShapeError) as error:
        global_average_pool(jnp.zeros((2, 3)))
    assert str(error.value) == "global average pool: got images of shape (2, 3), wants (batch, height, width, channels)"
