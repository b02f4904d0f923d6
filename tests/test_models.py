"""Models: what becomes of an image on its way through a network, to the last parameter.

The tables of three published networks are recomputed here from their layers, then held against what runs. How far an
output sees is measured with ink: a NaN in one pixel of the image blackens every output that sees it.
Next: test_tissue_network.py.
"""

import math
from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn.command_line import Recipe
from cnn.errors import ShapeError, UserError
from cnn.layers import AveragePool, Convolution, Dense, Dropout, Flatten, GlobalAveragePool, MaxPool, ReLU
from cnn.models import MODELS, Row, outputs_for, seed, spanhol, table, tissue, wbc
from cnn.network import Network
from cnn.windows import receptive_fields
from tests.test_convolution import noise

KEY = jax.random.key(0)


def parameters_of(network) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))


def seen_by_one_output(layers, side: int, at: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the part of a side x side image that the output at `at` sees, found with NaN as ink.

    In five channels: of images of four or fewer the fast convolution multiplies neighbours by 0, which ink blots.
    """
    use = jax.jit(Network(layers).__call__)
    extent = []
    for axis in (0, 1):
        images = np.ones((side, side, side, 5), np.float32)
        for n in range(side):  # in image n, row (or column) n is inked
            images[(n, n) if axis == 0 else (n, slice(None), n)] = np.nan
        extent.append(int(np.isnan(np.asarray(use(images))[:, at[0], at[1], 0]).sum()))
    return tuple(extent)


# The network of 2017


def test_the_table_of_the_network_of_2017_to_the_last_parameter():
    rows = table(seed((120, 160, 3), 2, key=KEY), (120, 160, 3))
    assert rows == [
        Row("convolution 3 x 3 x 32", (120 - 2, 160 - 2, 32), 3 * 3 * 3 * 32, 3),
        Row("max pool 2 x 2", (118 // 2, 158 // 2, 32), 0, 3 + 1),
        Row("bias", (59, 79, 32), 32, 4),
        Row("ReLU", (59, 79, 32), 0, 4),
        Row("convolution 3 x 3 x 32", (59 - 2, 79 - 2, 32), 3 * 3 * 32 * 32 + 32, 4 + 2 * 2),
        Row("ReLU", (57, 77, 32), 0, 8),
        Row("convolution 3 x 3 x 32", (57 - 2, 77 - 2, 32), 3 * 3 * 32 * 32, 8 + 2 * 2),
        Row("max pool 2 x 2", (55 // 2, 75 // 2, 32), 0, 12 + 1 * 2),
        Row("bias", (27, 37, 32), 32, 14),
        Row("ReLU", (27, 37, 32), 0, 14),
        Row("flatten", (27 * 37 * 32,), 0, None),
        Row("dense 64", (64,), 31968 * 64 + 64, None),
        Row("ReLU", (64,), 0, None),
        Row("dropout 0.7", (64,), 0, None),
        Row("dense 1", (1,), 64 + 1, None),
    ]
    assert [row.parameters for row in rows if row.parameters] == [864, 32, 9248, 9216, 32, 2046016, 65]
    assert sum(row.parameters for row in rows) == (864 + 32) + 9248 + (9216 + 32) + 2046016 + 65 == 2065473
    assert rows[11].parameters / 2065473 > 0.99, "nearly all of them in one dense layer"


def test_the_network_it_was_adapted_from_has_one_pool_more_and_half_the_parameters():
    #   120 x 160 -> 118 x 158 -> 59 x 79 -> 57 x 77 -> 28 x 38 -> 26 x 36 -> 13 x 18
    rows = table(wbc((120, 160, 3), 2, key=KEY), (120, 160, 3))
    assert [row.shape for row in rows if row.layer.startswith(("conv", "max"))] == [
        *((118, 158, 32), (59, 79, 32), (57, 77, 32), (28, 38, 32), (26, 36, 64), (13, 18, 64))
    ]
    assert [row.layer for row in rows] == [
        *("convolution 3 x 3 x 32", "max pool 2 x 2", "bias", "ReLU"),
        *("convolution 3 x 3 x 32", "max pool 2 x 2", "bias", "ReLU"),
        *("convolution 3 x 3 x 64", "max pool 2 x 2", "bias", "ReLU"),
        *("flatten", "dense 64", "ReLU", "dropout 0.7", "dense 1"),
    ]
    counts = [3 * 3 * 3 * 32, 32, 3 * 3 * 32 * 32, 32, 3 * 3 * 32 * 64, 64, 13 * 18 * 64 * 64 + 64, 65]
    assert [row.parameters for row in rows if row.parameters] == counts
    assert sum(counts) == 987233


def test_the_network_of_spanhol_has_the_sides_64_32_16_8():
    rows = table(spanhol((64, 64, 3), 2, key=KEY), (64, 64, 3))
    assert [row.layer for row in rows] == [
        *("convolution 5 x 5 x 32", "ReLU", "max pool 3 x 3", "convolution 5 x 5 x 32", "ReLU", "average pool 3 x 3"),
        *("convolution 5 x 5 x 64", "ReLU", "average pool 3 x 3", "flatten"),
        *("dense 64", "ReLU", "dropout 0", "dense 1"),
    ]
    shapes = [row.shape for row in rows[:9]]
    assert shapes == [(64, 64, 32)] * 2 + [(32, 32, 32)] * 3 + [(16, 16, 32), (16, 16, 64), (16, 16, 64), (8, 8, 64)]
    #   5x5, 3x3 stride 2 each: 5; 5 + 2 = 7; 7 + 4*2 = 15; 15 + 2*2 = 19; 19 + 4*4 = 35; 35 + 2*4 = 43
    assert [row.receptive_field for row in rows[:10]] == [5, 5, 7, 15, 15, 19, 35, 35, 43, None]
    counts = [5 * 5 * 3 * 32 + 32, 5 * 5 * 32 * 32 + 32, 5 * 5 * 32 * 64 + 64, 8 * 8 * 64 * 64 + 64, 64 + 1]
    assert [row.parameters for row in rows if row.parameters] == counts
    assert sum(counts) == 341601


def test_the_paper_of_spanhol_counts_one_logit_a_class():
    #   two logits take 64 + 1 more than one, three take 65 more again
    three = parameters_of(spanhol((64, 64, 3), 3, key=KEY))
    assert three == 341601 + 2 * 65
    assert three - 65 == 341666


# Tables are true


@pytest.mark.parametrize(
    ("model", "image_shape", "classes"), [(seed, (19, 32, 4), 2), (wbc, (29, 24, 1), 5), (spanhol, (26, 17, 1), 3)]
)
def test_the_table_is_what_runs_for_other_images_and_classes_too(model, image_shape, classes):
    network = model(image_shape, classes, key=KEY)
    rows = table(network, image_shape)
    shapes = []

    def walk(images):
        for layer in network.layers:
            images = layer(images)
            shapes.append(images.shape[1:])
        return images

    logits = jax.jit(walk)(noise(2, *image_shape))
    assert [row.shape for row in rows] == shapes
    assert logits.shape == (2, outputs_for(classes)) == (2, 1 if classes == 2 else classes)
    assert np.isfinite(logits).all()
    assert sum(row.parameters for row in rows) == parameters_of(network)


def test_the_receptive_field_is_as_far_as_ink_reaches():
    start = {"initializer": jax.nn.initializers.ones, "key": KEY}
    layers = [Convolution(5, 2, 3, **start), ReLU(), MaxPool(2), Convolution(2, 1, 3, stride=2, **start)]
    layers.append(AveragePool(3, stride=1))
    #   3; 3 + 1*1 = 4; 4 + 2*2 = 8; 8 + 2*4 = 16
    fields = [row.receptive_field for row in table(Network(layers), (24, 24, 5))]
    assert fields == [3, 3, 4, 8, 16] == [3, *receptive_fields([(3, 1), (2, 2), (3, 2), (3, 1)])]
    assert seen_by_one_output(layers, 24, at=(1, 0)) == (16, 16)
    assert seen_by_one_output(layers[:4], 24, at=(1, 2)) == (8, 8)
    assert seen_by_one_output(layers[:1], 24, at=(5, 7)) == (3, 3)


def test_of_a_window_that_is_no_square_the_longer_side_counts():
    rows = table(Network([Convolution(1, 1, (2, 5), stride=(3, 1), key=KEY), MaxPool((4, 2))]), (20, 20, 1))
    assert [row.receptive_field for row in rows] == [5, max(2 + (4 - 1) * 3, 5 + (2 - 1) * 1)]
    start = {"initializer": jax.nn.initializers.ones, "key": KEY}
    layers = [Convolution(5, 1, (3, 5), stride=(3, 1), **start), MaxPool((4, 2))]
    assert seen_by_one_output(layers, 24, at=(0, 1)) == (12, 6)
    assert table(Network(layers), (24, 24, 5))[-1].receptive_field == 12


def test_a_flat_image_has_no_receptive_field():
    layers = [ReLU(), Convolution(1, 2, key=KEY), GlobalAveragePool(), Dense(2, 3, key=KEY)]
    assert table(Network(layers), (5, 6, 1)) == [
        Row("ReLU", (5, 6, 1), 0, 1),  # no window yet: each pixel sees itself
        Row("convolution 3 x 3 x 2", (3, 4, 2), 3 * 3 * 1 * 2 + 2, 3),
        Row("global average pool", (2,), 0, None),
        Row("dense 3", (3,), 2 * 3 + 3, None),
    ]


def test_what_a_network_cannot_see_or_pool_by_is_one_sentence():
    with pytest.raises(UserError, match='tissue: got sees "eosin", wants one of relative haematoxylin, haematoxylin'):
        tissue((64, 64, 3), 2, sees="eosin", key=KEY)
    with pytest.raises(UserError, match='tissue: got pool "max", wants "attention" or "mean"'):
        tissue((64, 64, 3), 2, pool="max", key=KEY)


# How a model starts


def weights_of(network) -> list[np.ndarray]:
    return [np.asarray(layer.kernel[...]) for layer in network.layers if hasattr(layer, "kernel")]


def half_width(kernel) -> tuple[float, float]:
    """The bound of a Glorot-uniform kernel, and the deviation of a He-normal one, from the kernel's shape."""
    fan_in, fan_out = math.prod(kernel.shape[:-1]), math.prod(kernel.shape[:-2]) * kernel.shape[-1]
    return math.sqrt(6 / (fan_in + fan_out)), math.sqrt(2 / fan_in)


@pytest.mark.parametrize("model", [seed, wbc])
def test_the_networks_of_keras_start_glorot_uniform(model):
    kernels = weights_of(model((34, 36, 3), 2, key=KEY))
    assert len(kernels) == 5
    for kernel in kernels:
        assert 0.9 * half_width(kernel)[0] < np.abs(kernel).max() <= half_width(kernel)[0]


def test_the_network_of_spanhol_starts_he_normal_up_to_its_logits():
    *kernels, last = weights_of(spanhol((16, 18, 3), 2, key=KEY))
    assert [kernel.shape[-2] for kernel in kernels] == [3, 32, 32, 2 * 2 * 64]  # 16 x 18 shrinks to 2 x 2
    for kernel in kernels:  # Glorot's deviation would be smaller by 11 % or more
        assert kernel.std() == pytest.approx(half_width(kernel)[1], rel=0.05)
    assert 0.9 * half_width(last)[0] < np.abs(last).max() <= half_width(last)[0]


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_same_key_gives_the_same_weights_and_no_two_layers_start_alike(model):
    first, again, other = (weights_of(model((34, 36, 3), 2, key=jax.random.key(n))) for n in (0, 0, 1))
    for a, b, c in zip(first, again, other):
        assert (a == b).all()
        assert (a != c).all()
    for i, a in enumerate(first):
        for b in first[i + 1 :]:  # drawn from one key, the numbers would be the same up to a factor
            numbers = min(a.size, b.size, 32)
            assert abs(np.corrcoef(a.ravel()[:numbers], b.ravel()[:numbers])[0, 1]) < 0.9


@pytest.mark.parametrize(("model", "rate"), [(tissue, 0.5), (seed, 0.7), (wbc, 0.7), (spanhol, 0.0)])
def test_dropout_stands_before_the_logits_at_the_rate_of_the_source_unless_told(model, rate):
    for options, want in [({}, rate), ({"dropout": 0.25}, 0.25)]:
        network = model((34, 36, 3), 2, key=KEY, **options)
        assert [layer.rate for layer in network.layers if isinstance(layer, Dropout)] == [want]
        assert isinstance(network.layers[-2], Dropout)


def test_a_model_is_found_by_its_name():
    assert [MODELS[name] for name in ("tissue", "seed", "wbc", "spanhol")] == [tissue, seed, wbc, spanhol]
    offered = get_args(get_type_hints(Recipe)["model"])
    assert list(MODELS) == list(offered), "what --model offers is what there is"


@pytest.mark.parametrize(
    ("name", "first", "pool"),
    [
        ("tissue", "relative haematoxylin", "attention pool"),
        ("tissue-mean", "relative haematoxylin", "global average pool"),
        ("tissue-haematoxylin", "haematoxylin", "attention pool"),
        ("tissue-stains", "relative stains", "attention pool"),
        ("tissue-colours", "convolution 6 x 6 x 16", "attention pool"),
    ],
)
def test_a_variant_of_the_network_for_few_slides_differs_in_one_part(name, first, pool):
    layers = list(map(str, MODELS[name]((34, 36, 3), 2, key=KEY).layers))
    assert (layers[0], layers[-3]) == (first, pool)
    assert [layer for layer in layers[1:-3] if "6 x 6" not in layer] == [
        *("max pool 2 x 2", "batch norm", "ReLU", "convolution 3 x 3 x 32"),
        *("max pool 2 x 2", "batch norm", "ReLU", "convolution 3 x 3 x 48"),
        *("max pool 2 x 2", "batch norm", "ReLU", "convolution 3 x 3 x 64"),
        *("batch norm", "ReLU", "convolution 3 x 3 x 64", "batch norm", "ReLU"),
    ]


# Classes, and what is refused


def test_two_classes_need_one_logit_and_more_need_one_each():
    assert [outputs_for(classes) for classes in (2, 3, 8)] == [1, 3, 8]


@pytest.mark.parametrize("classes", [1, 0, -1])
def test_one_class_cannot_be_told_apart(classes):
    with pytest.raises(UserError) as error:
        outputs_for(classes)
    assert str(error.value) == f"a network needs at least 2 classes to tell apart, got {classes}"
    with pytest.raises(UserError, match="at least 2 classes"):
        seed((34, 36, 3), classes, key=KEY)


def test_a_layer_that_cannot_take_its_input_is_told_by_its_place():
    layers = [Convolution(3, 32, key=KEY), Flatten(), Dense(64, 1, key=KEY)]
    with pytest.raises(ShapeError) as error:
        table(Network(layers), (5, 6, 3))
    assert str(error.value) == (
        "layer 2, dense 1, of a network for 5 x 6 x 3 images: got inputs of shape (1, 384), wants (batch, 64)"
    )  # 3 * 4 * 32 = 384


def test_an_image_that_is_too_small_is_told_before_anything_is_computed():
    #   8 x 9 -> 6 x 7 -> 3 x 3 -> 1 x 1, and the third convolution finds no room
    with pytest.raises(ShapeError) as error:
        seed((8, 9, 3), 2, key=KEY)
    assert str(error.value) == (
        "layer 6, convolution 3 x 3 x 32, of a network for 8 x 9 x 3 images: got images of shape (1, 1, 1, 32) "
        "with padding ((0, 0), (0, 0)), wants a padded image at least as large as its 3 x 3 kernel"
    )


def test_the_logits_of_a_model_do_not_depend_on_the_other_images():
    use = jax.jit(seed((18, 20, 3), 3, key=KEY).__call__)
    images = noise(3, 18, 20, 3)
    assert np.asarray(use(images))[1] == pytest.approx(np.asarray(use(images[1:2]))[0], rel=1e-4, abs=1e-5)
    assert use(jnp.asarray(images)).dtype == jnp.float32


@pytest.mark.parametrize("name", MODELS)
def test_an_image_shape_without_channels_is_refused(name):
    with pytest.raises(ShapeError, match=r"network: got images of shape \(64, 64\), wants \(height, width, channels\)"):
        MODELS[name]((64, 64), 2, key=jax.random.key(0))
