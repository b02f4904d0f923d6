"""The network for few slides: statistics that are no parameters, any size, eight views. Next: test_resampling.py."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cnn import models
from cnn.attention import attention_pool, attention_weights
from cnn.augment import named
from cnn.errors import ShapeError
from cnn.layers import (
    AttentionPool,
    BatchNorm,
    Bias,
    Convolution,
    Dense,
    Dropout,
    GlobalAveragePool,
    LayerNorm,
    MaxPool,
    ReLU,
    SeparateStains,
)
from cnn.loss import cross_entropy
from cnn.network import Network
from cnn.normalization import EPSILON, layer_norm
from cnn.stains import combine_stains, relative_stains, separate_stains
from cnn.step import State as TrainingState
from cnn.step import make_step
from cnn.training import make_predictor, train
from tests.checkers import assert_equal_arrays, assert_gradient_of_each

KEY = jax.random.key(0)
IMAGES = jnp.array([1.0, 2.0, 3.0, 6.0]).reshape(2, 1, 2, 1)  # mean 3, variance 3.5


@pytest.fixture(scope="module")
def network() -> Network:
    return models.tissue((32, 48, 3), 2, key=KEY)


def test_a_batch_norm_in_training_uses_the_batch_and_remembers_a_tenth_of_it():
    layer = BatchNorm(1)
    outputs = layer(IMAGES, key=KEY)
    assert_equal_arrays(outputs.ravel(), np.array([-2, -1, 0, 3]) / np.sqrt(3.5 + EPSILON), "in training", rtol=1e-6)
    assert layer.mean[...].item() == pytest.approx(0.9 * 0 + 0.1 * 3)
    assert layer.variance[...].item() == pytest.approx(0.9 * 1 + 0.1 * 3.5)


def test_a_batch_norm_in_use_knows_nothing_of_the_other_images():
    layer = BatchNorm(1)
    layer.mean[...], layer.variance[...] = jnp.array([2.0]), jnp.array([4.0])
    together = layer(IMAGES)
    assert_equal_arrays(together.ravel(), np.array([-1, 0, 1, 4]) / np.sqrt(4 + EPSILON), "in use", rtol=1e-6)
    assert_equal_arrays(layer(IMAGES[1:]), together[1:], "alone")
    assert (layer.mean[...].item(), layer.variance[...].item()) == (2.0, 4.0), "use leaves no trace"


def test_layers_for_stains_norms_and_attention_call_their_functions():
    light = combine_stains(jnp.array([[[[0.9, 0.5, 0.1], [0.4, 0.2, 0.0]]]]))
    assert_equal_arrays(SeparateStains()(light), separate_stains(light), "stains")
    assert_equal_arrays(SeparateStains(2, relative=True)(light), relative_stains(light)[..., :2], "relative stains")
    attention = AttentionPool(3, 4, key=KEY)
    weights = attention_weights(light, attention.content[...], attention.gate[...], attention.score[...])
    assert_equal_arrays(attention.weights(light), weights, "weights")
    assert_equal_arrays(attention(light), attention_pool(light, weights), "attention")
    layer = LayerNorm(1)
    assert_equal_arrays(layer(IMAGES, key=KEY), layer_norm(IMAGES, jnp.ones(1), jnp.zeros(1)), "layer norm")
    named = SeparateStains(), SeparateStains(1), SeparateStains(1, relative=True), attention, BatchNorm(1), LayerNorm(1)
    assert ", ".join(map(str, named)) == (
        "stains, haematoxylin, relative haematoxylin, attention pool, batch norm, layer norm"
    )
    for refused in (BatchNorm(2), LayerNorm(2)):
        with pytest.raises(ShapeError, match=r"norm: got inputs of shape \(2, 1, 2, 1\), wants \(batch, height, width"):
            refused(IMAGES)


def test_parameters_and_statistics_are_told_apart(network):
    learned, statistics = nnx.split_state(nnx.state(network), nnx.Param, nnx.BatchStat)
    rows = models.table(network, (32, 48, 3))
    assert sum(leaf.size for leaf in jax.tree.leaves(learned)) == sum(row.parameters for row in rows)
    norms = [layer for layer in network.layers if isinstance(layer, BatchNorm)]
    assert sum(leaf.size for leaf in jax.tree.leaves(statistics)) == sum(2 * norm.mean.shape[0] for norm in norms)


def test_it_takes_any_size(network):
    for height, width in ((32, 48), (33, 70), (16, 16)):
        logits = jax.jit(network)(jnp.ones((2, height, width, 3)) / 2)
        assert logits.shape == (2, 1)
        assert np.isfinite(logits).all()


def test_a_step_moves_the_statistics_and_adam_does_not():
    network = Network([BatchNorm(3), GlobalAveragePool()])  # the means of three channels are three logits
    graph, parameters = nnx.split(network)
    images = np.random.default_rng(0).integers(0, 256, (4, 2, 2, 3), np.uint8)
    optimizer = optax.sgd(0.0)
    step = make_step(graph, optimizer, named("none"))
    state = TrainingState(parameters, optimizer.init(nnx.filter_state(parameters, nnx.Param)))
    state, _ = step(state, KEY, images, np.array([0, 1, 2, 0]), np.ones(4, np.float32))
    after = nnx.merge(graph, state.parameters).layers[0]
    assert_equal_arrays(after.mean[...], 0.1 * (images / 255).mean((0, 1, 2)), "running mean", rtol=1e-5)
    assert_equal_arrays(after.variance[...], 0.9 + 0.1 * (images / 255).var((0, 1, 2)), "running variance", rtol=1e-5)
    assert after.scale[...].tolist() == [1, 1, 1], "a learning rate of 0 moves no parameter"


def test_eight_views_are_the_mean_over_flips_and_turns(network):
    graph, state = nnx.split(network)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), np.uint8)
    got = make_predictor(graph, 2, views=True)(state, images)
    one = make_predictor(graph, 3)
    views = [np.rot90(flipped, k, (1, 2)) for flipped in (images, images[:, :, ::-1]) for k in range(4)]
    assert len({view.tobytes() for view in views}) == 8
    expected = np.mean([one(state, np.ascontiguousarray(view)) for view in views], axis=0)
    assert_equal_arrays(got, expected, "mean over views", rtol=1e-4, atol=1e-5)
    turned = make_predictor(graph, 2, views=True)(state, np.ascontiguousarray(np.rot90(images, 1, (1, 2))))
    assert_equal_arrays(turned, got, "an image and the same turned", rtol=1e-4, atol=1e-5)


def test_the_map_of_attention_says_what_each_place_counts_in_the_logit(network):
    images = jnp.asarray(np.random.default_rng(0).random((2, 32, 48, 3)), jnp.float32)
    weights = models.attention_map(network, images)
    assert weights.shape == (2, 32 // 16, 48 // 16)
    assert_equal_arrays(weights.sum((1, 2)), [1, 1], "sums")
    features = images
    for layer in network.layers[:-3]:
        features = layer(features)
    per_place = features @ network.layers[-1].kernel[...] + network.layers[-1].bias[...]  # a logit for each place
    assert_equal_arrays((weights[..., None] * per_place).sum((1, 2)), network(images), "logits", rtol=1e-4, atol=1e-5)
    assert models.attention_map(models.MODELS["tissue-mean"]((32, 48, 3), 2, key=KEY), images) is None


def test_it_is_trained_on_squares_and_used_on_whole_images():
    images = np.random.default_rng(0).integers(0, 256, (6, 140, 150, 3), np.uint8)
    labels = np.array([0, 1] * 3, np.int32)
    network = models.tissue((140, 150, 3), 2, key=KEY)
    options = {"epochs": 1, "batch": 4, "optimizer": optax.sgd(0.01), "augmentation": named("crop"), "seed": 0}
    (epoch,) = train(network, (images, labels), (images, labels), **options)
    assert np.isfinite([epoch.loss, epoch.validation_loss]).all()
    (silent,) = train(network, (images, labels), None, **options)
    assert np.isnan(silent.validation_loss)
    assert silent.loss == epoch.loss, "looking at the validation images changes nothing"


def test_dropout_of_the_last_features_is_the_only_chance_in_it(network):
    images = jnp.asarray(np.random.default_rng(0).random((4, 32, 48, 3)), jnp.float32)
    assert [layer.rate for layer in network.layers if isinstance(layer, Dropout)] == [0.5]
    graph, state = nnx.split(network)
    answer = jax.jit(lambda key: nnx.merge(graph, state, copy=True)(images, key=key))
    first, second, other = (answer(jax.random.key(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    graph, state = nnx.split(models.tissue((32, 48, 3), 2, dropout=0.0, key=KEY))
    still = jax.jit(lambda key: nnx.merge(graph, state, copy=True)(images, key=key))
    assert np.array_equal(still(jax.random.key(1)), still(jax.random.key(2))), "without dropout no key matters"


def test_norms_scale_and_shift_in_training_and_in_use():
    batch, layer = BatchNorm(1), LayerNorm(1)
    for norm in (batch, layer):
        norm.scale[...], norm.shift[...] = jnp.array([2.0]), jnp.array([10.0])
    want = 10 + 2 * np.array([-2, -1, 0, 3]) / np.sqrt(3.5 + 0.001)
    assert_equal_arrays(batch(IMAGES, key=KEY).ravel(), want, "in training")
    batch.mean[...], batch.variance[...] = jnp.array([3.0]), jnp.array([3.5])
    assert_equal_arrays(batch(IMAGES).ravel(), want, "in use")
    one, other = 1 / np.sqrt(0.251), 3 / np.sqrt(2.251)  # 1, 2 and 3, 6: twice half of 1 and of 3
    assert_equal_arrays(layer(IMAGES).ravel(), [10 - one, 10 + one, 10 - other, 10 + other], "layer norm")


def test_the_network_for_few_slides_has_88161_parameters_and_starts_he_normal(network):
    kernels = [36 * 16, 9 * 16 * 32, 9 * 32 * 48, 9 * 48 * 64, 9 * 64 * 64]
    norms, attention, dense = 2 * (16 + 32 + 48 + 64 + 64), 2 * 64 * 32 + 32, 64 + 1
    rows = models.table(network, (32, 48, 3))
    assert sum(row.parameters for row in rows) == sum(kernels) + norms + attention + dense == 88161
    for layer in network.layers:
        if isinstance(layer, Convolution):
            deviation = np.sqrt(2 / np.prod(layer.kernel.shape[:3]))
            assert layer.kernel[...].std() == pytest.approx(deviation, rel=0.08)


@pytest.mark.parametrize(
    ("name", "seen"), [("tissue", 1), ("tissue-haematoxylin", 1), ("tissue-stains", 3), ("tissue-colours", 3)]
)
def test_every_variant_has_a_logit_a_class_and_sees_what_it_is_named_for(name, seen):
    network = models.MODELS[name]((32, 48, 3), 3, key=KEY)
    assert models.table(network, (32, 48, 3))[-1].shape == (3,)
    assert next(layer for layer in network.layers if isinstance(layer, Convolution)).kernel.shape[2] == seen


def test_attention_starts_with_three_arrays_of_its_own_glorot_uniform():
    layer = AttentionPool(64, key=KEY)
    for array, shape, ends in ((layer.content, (64, 32), 96), (layer.gate, (64, 32), 96), (layer.score, (32,), 33)):
        limit = np.sqrt(6 / ends)
        assert array.shape == shape
        assert 0.9 * limit < np.abs(array[...]).max() <= limit
    assert (layer.content[...] != layer.gate[...]).all()


@pytest.mark.parametrize("number", [0, 4])
def test_a_number_of_stains_other_than_1_2_or_3_is_refused(number):
    with pytest.raises(ShapeError, match=f"number = {number}"):
        SeparateStains(number)


def small() -> Network:
    """The kinds of layers that learn and are not in the network of 2017, on 6 x 7 light of 3 colours; 3 logits.

    (A bias just before a batch norm would get no gradient: the norm takes it away again.)
    """
    start = {"initializer": jax.nn.initializers.zeros, "key": KEY}
    layers = [SeparateStains(2), Convolution(2, 2, 2, bias=False, **start), BatchNorm(2), ReLU(), MaxPool(2), Bias(2)]
    return Network([*layers, LayerNorm(2), AttentionPool(2, 3, key=KEY), Dense(2, 3, **start)])


@pytest.mark.parametrize("key", [None, jax.random.key(3)], ids=["in use", "in training"])
def test_the_gradient_through_norms_and_attention_is_that_of_differences_too(float64, key):
    graph, learned, statistics = nnx.split(small(), nnx.Param, nnx.BatchStat)
    statistics = jax.tree.map(lambda a: a.astype(jnp.float64), statistics)  # means of 0 and variances of 1
    generator = np.random.default_rng(5)
    leaves, structure = jax.tree.flatten(jax.tree.map(lambda a: jnp.asarray(generator.normal(size=a.shape)), learned))
    images, labels = generator.uniform(0.05, 0.95, (3, 6, 7, 3)), np.array([2, 0, 1])
    assert len(leaves) == 1 + 2 + 1 + 2 + 3 + 2  # kernel; scale, shift; bias; scale, shift; attention; kernel, bias

    @jax.jit
    def loss(leaves, images):
        network = nnx.merge(graph, jax.tree.unflatten(structure, leaves), statistics, copy=True)
        return cross_entropy(network(images, key=key), labels).mean()

    assert_gradient_of_each(loss, leaves, images)
