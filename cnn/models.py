"""Networks, each a plain list of layers, and a table that shows what becomes of an image on its way through one."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from cnn.errors import ShapeError, UserError
from cnn.initialization import glorot_uniform, he_normal
from cnn.layers import (
    AttentionPool,
    AveragePool,
    BatchNorm,
    Bias,
    Convolution,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool,
    MaxPool,
    ReLU,
    SeparateStains,
)
from cnn.network import Network
from cnn.windows import receptive_fields


class Row(NamedTuple):
    """One line of the table: a layer, what comes out of it, its parameters, and how far one output sees (pixels).

    It sees so far through the windows of convolutions and pools; relative stains measure the whole image besides.
    """

    layer: str
    shape: tuple[int, ...]  # without the batch
    parameters: int
    receptive_field: int | None  # the longer side; None once the image is flat


def outputs_for(classes: int) -> int:
    """How many logits a network needs: one for two classes, else one a class."""
    if classes < 2:
        raise UserError(f"a network needs at least 2 classes to tell apart, got {classes}")
    return 1 if classes == 2 else classes


def _channels(image_shape: tuple[int, int, int]) -> int:
    if len(image_shape) != 3:
        raise ShapeError("network", f"images of shape {tuple(image_shape)}", "(height, width, channels)")
    return image_shape[2]


def table(network: Network, image_shape: tuple[int, int, int]) -> list[Row]:
    """What each layer makes of one image of (height, width, channels), without computing it.

    Raises:
        ShapeError: if a layer cannot take what the one before gives; the message names the layer's place.
    """
    _channels(image_shape)
    shape, rows, windows = (1, *image_shape), [], [((1, 1), (1, 1))]
    for number, layer in enumerate(network.layers):
        try:
            shape = jax.eval_shape(layer, jax.ShapeDtypeStruct(shape, jnp.float32)).shape
        except ShapeError as error:
            size = " x ".join(map(str, image_shape))
            raise ShapeError(f"layer {number}, {layer}, of a network for {size} images", *error.got_and_want) from error
        count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(layer, nnx.Param)))
        if hasattr(layer, "window"):
            windows.append((layer.window, layer.stride))
        sides = [receptive_fields([(w[axis], s[axis]) for w, s in windows])[-1] for axis in (0, 1)]
        field = max(sides) if len(shape) == 4 else None
        rows.append(Row(str(layer), shape[1:], count, field))
    return rows


def _finish(layers: list[nnx.Module], image_shape, hidden: int, dropout: float, classes: int, keys, initializer):
    """Appends flatten, a hidden dense layer, dropout and the logits; the flattened size comes from the table."""
    features = math.prod(table(Network(layers), image_shape)[-1].shape)
    logits = outputs_for(classes)
    return Network(
        [
            *layers,
            Flatten(),
            Dense(features, hidden, initializer=initializer, key=keys[-2]),
            ReLU(),
            Dropout(dropout),
            Dense(hidden, logits, key=keys[-1]),
        ]
    )


def seed(image_shape: tuple[int, int, int], classes: int, *, dropout: float = 0.7, key: jax.Array) -> Network:
    """The network of 2017: three 3 x 3 convolutions of 32 channels, two max-pools, a dense layer of 64.

    2,065,473 parameters for 120 x 160 x 3 images and two classes; 99 % of them in the first dense layer. In 2017 the
    pools came after bias and ReLU. Both keep order, max(relu(x + b)) = relu(max(x) + b), so that before them a pool
    gives the same numbers and gradients, and leaves them a quarter of the work (with the pool's gradient of
    `pooling.py`: 207 ms a step of 32 images before, 167 after).

    Args:
        image_shape: (height, width, channels); images hold values from 0 to 1.
        classes: 2 gives one logit, more give one each.
        dropout: share of the 64 features dropped in training.
        key: for the initial kernels (Glorot uniform, as Keras).
    """
    keys = jax.random.split(key, 5)
    layers = [
        *(Convolution(_channels(image_shape), 32, bias=False, key=keys[0]), MaxPool(2), Bias(32), ReLU()),
        *(Convolution(32, 32, key=keys[1]), ReLU()),
        *(Convolution(32, 32, bias=False, key=keys[2]), MaxPool(2), Bias(32), ReLU()),
    ]
    return _finish(layers, image_shape, 64, dropout, classes, keys, glorot_uniform)


def wbc(image_shape: tuple[int, int, int], classes: int, *, dropout: float = 0.7, key: jax.Array) -> Network:
    """The network that the one of 2017 was adapted from (white blood cells): a pool after every convolution.

    987,233 parameters for 120 x 160 x 3 images and two classes: one pool more, and half as many parameters.
    Source: dhruvp/wbc-classification on GitHub. Arguments as for `seed`.
    """
    keys = jax.random.split(key, 5)
    layers, channels = [], _channels(image_shape)
    for number, out_channels in enumerate((32, 32, 64)):
        convolution = Convolution(channels, out_channels, bias=False, key=keys[number])
        layers += [convolution, MaxPool(2), Bias(out_channels), ReLU()]  # in this order for speed: see `seed`
        channels = out_channels
    return _finish(layers, image_shape, 64, dropout, classes, keys, glorot_uniform)


def spanhol(image_shape: tuple[int, int, int], classes: int, *, dropout: float = 0.0, key: jax.Array) -> Network:
    """The network of Spanhol, Oliveira, Petitjean and Heutte (IJCNN 2016) for patches of breast tissue (BreaKHis).

    5 x 5 convolutions, overlapping 3 x 3 pools in Caffe's ceil mode. 64 x 64 x 3 patches have sides 64, 32, 16, 8.
    With two classes it has 341,601 parameters here and 341,666 in the paper, which gives each class a logit of its own.
    Arguments as for `seed`.
    """
    keys = jax.random.split(key, 5)
    layers, channels = [], _channels(image_shape)
    for number, (out_channels, pool) in enumerate([(32, MaxPool), (32, AveragePool), (64, AveragePool)]):
        convolution = Convolution(
            channels, out_channels, kernel_size=5, padding=2, initializer=he_normal, key=keys[number]
        )
        layers += [convolution, ReLU(), pool(3, stride=2, ceil=True)]
        channels = out_channels
    return _finish(layers, image_shape, 64, dropout, classes, keys, he_normal)


def tissue(
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    dropout: float = 0.5,
    sees: str = "relative haematoxylin",
    pool: str = "attention",
    key: jax.Array,
) -> Network:
    """A small network for few slides, that takes any size from 16 x 16: trained on squares, used on whole slides.

    In the networks above nearly all parameters are in a dense layer that learns where in the image something is; tissue
    may lie anywhere. Here 64 features are averaged over all places before 64 weights judge them, and attention decides
    which places count. Colour differs more from day to day than from tissue to tissue. So the network sees haematoxylin
    alone, which shows the nuclei, and only how much more or less of it there is than elsewhere in the image.
    `experiments/choose_recipe.py` asks what each of these brings. 88,161 parameters for two classes.

    Args:
        image_shape, classes, dropout, key: see `seed`.
        sees: "relative haematoxylin", "haematoxylin", "relative stains" (three of them), or "colours".
        pool: "attention" or "mean".
    """
    if pool not in ("attention", "mean"):
        raise UserError(f'tissue: got pool "{pool}", wants "attention" or "mean"')
    ways = {
        "relative haematoxylin": [SeparateStains(1, relative=True)],
        "haematoxylin": [SeparateStains(1)],
        "relative stains": [SeparateStains(3, relative=True)],
        "colours": [],
    }
    if sees not in ways:
        raise UserError(f'tissue: got sees "{sees}", wants one of {", ".join(ways)}')
    inputs = ways[sees]
    colours = _channels(image_shape)
    channels = inputs[0].number if inputs else colours
    widths = (16, 32, 48, 64, 64)
    keys = jax.random.split(key, len(widths) + 2)
    # 6 x 6 with stride 2: as much in view as 3 x 3 after halving the image, and no large first layer to keep.
    first = Convolution(channels, widths[0], 6, stride=2, padding=2, bias=False, initializer=he_normal, key=keys[0])
    layers = [*inputs, first]
    for number, width in enumerate(widths):
        if number > 0:
            before = widths[number - 1]
            layers.append(
                Convolution(before, width, padding="SAME", bias=False, initializer=he_normal, key=keys[number])
            )
        # No biases: a normalisation would take them away again, and adds a shift of its own. It comes after the pool,
        # on a quarter of the numbers. (Unlike a bias and a ReLU, see `seed`, that makes it another network: mean and
        # variance are those of the winners, and a scale below 0 would turn their order round.)
        layers += [*([MaxPool(2)] if number < 3 else []), BatchNorm(width), ReLU()]
    pooling = AttentionPool(widths[-1], key=keys[-2]) if pool == "attention" else GlobalAveragePool()
    return Network([*layers, pooling, Dropout(dropout), Dense(widths[-1], outputs_for(classes), key=keys[-1])])


def attention_map(network: Network, images: jax.Array) -> jax.Array | None:
    """How much each place counts for a network's attention pool, or None if it has none.

    (batch, height, width, 3) -> (batch, places down, places across), with sum 1 for each image.
    """
    for layer in network.layers:
        if isinstance(layer, AttentionPool):
            return layer.weights(images)
        images = layer(images)
    return None


MODELS: dict[str, Callable[..., Network]] = {
    "tissue": tissue,
    "seed": seed,
    "wbc": wbc,
    "spanhol": spanhol,
    # `tissue` with one part changed, to see what that part brings:
    "tissue-mean": partial(tissue, pool="mean"),
    "tissue-haematoxylin": partial(tissue, sees="haematoxylin"),
    "tissue-stains": partial(tissue, sees="relative stains"),
    "tissue-colours": partial(tissue, sees="colours"),
}
