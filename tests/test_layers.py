"""Layers: modules that hold a kernel and a bias, and a whole network of them, differentiated.

Each layer is held against the pure function of its chapter and against Flax's own on the same weights. At the end a
tiny network with every kind of layer of 2017: its gradient, parameter by parameter, is that of central differences.
Next: test_network.py.
"""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn import dense, layers, pooling
from cnn.errors import ShapeError, UserError
from cnn.fast_convolution import convolve
from cnn.initialization import fans, he_normal
from cnn.layers import AveragePool, Convolution, Dense, Dropout, Flatten, GlobalAveragePool, MaxPool, ReLU
from cnn.loss import cross_entropy
from cnn.network import Network
from tests.checkers import assert_equal_arrays, assert_gradient_of_each
from tests.test_convolution import noise

KEY = jax.random.key(0)
zeros = jax.nn.initializers.zeros  # where the start does not matter: nothing is drawn, so nothing is waited for


def with_values(layer, kernel, bias):
    """The same layer, with these weights."""
    layer.kernel[...] = jnp.asarray(kernel)
    layer.bias[...] = jnp.asarray(bias)
    return layer


# Each layer is its pure function, with parameters of its own


def test_a_convolution_adds_its_bias_to_every_place():
    #   1 2 4     kernel 1 x 2: (1, 10), bias 100:   1 + 20 + 100, 2 + 40 + 100
    layer = with_values(Convolution(1, 1, (1, 2), key=KEY), np.reshape([1.0, 10.0], (1, 2, 1, 1)), [100.0])
    assert layer(jnp.array([1.0, 2.0, 4.0]).reshape(1, 1, 3, 1)).ravel().tolist() == [1 + 20 + 100, 2 + 40 + 100]


def test_a_convolution_hands_stride_and_padding_on():
    images = noise(2, 6, 5, 2)
    layer = Convolution(2, 3, (3, 2), stride=(1, 2), padding=((1, 0), (0, 2)), key=KEY)
    want = convolve(images, layer.kernel[...], (1, 2), ((1, 0), (0, 2)))
    assert_equal_arrays(layer(images), want, "stride (1, 2), padding ((1, 0), (0, 2))", rtol=0)
    assert want.shape == (2, (6 + 1 - 3) // 1 + 1, (5 + 2 - 2) // 2 + 1, 3)


def test_without_options_a_convolution_is_three_by_three_with_stride_one_a_bias_and_no_padding():
    layer = Convolution(2, 5, key=KEY)
    assert layer.kernel.shape == (3, 3, 2, 5)
    assert layer(noise(1, 6, 7, 2)).shape == (1, 6 - 3 + 1, 7 - 3 + 1, 5)
    assert layer.bias[...].tolist() == [0] * 5


def test_a_layer_may_go_without_a_bias():
    images, inputs = noise(1, 3, 4, 2), noise(2, 3)
    convolution, flat = Convolution(2, 3, (3, 2), bias=False, key=KEY), Dense(3, 2, bias=False, key=KEY)
    assert convolution.bias is None
    assert flat.bias is None
    assert_equal_arrays(convolution(images), convolve(images, convolution.kernel[...]), "no bias", rtol=0)
    assert_equal_arrays(flat(inputs), inputs @ flat.kernel[...], "no bias")


def test_a_dense_layer_multiplies_and_adds():
    layer = with_values(Dense(2, 3, key=KEY), [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [10.0, 20.0, 30.0])
    assert layer(jnp.array([[1.0, 2.0]])).tolist() == [[1 + 8 + 10, 2 + 10 + 20, 3 + 12 + 30]]


@pytest.mark.parametrize(("layer", "function"), [(MaxPool, pooling.max_pool), (AveragePool, pooling.average_pool)])
def test_a_pool_hands_window_stride_padding_and_ceil_on(layer, function):
    images = noise(1, 6, 7, 2)
    assert_equal_arrays(layer()(images), function(images, 2, 2), "2 x 2 and no more", rtol=0)
    assert_equal_arrays(layer((3, 2))(images), function(images, (3, 2), (3, 2)), "stride is the window", rtol=0)
    options = {"stride": (2, 1), "padding": ((0, 1), (1, 0)), "ceil": True}
    assert_equal_arrays(layer((3, 2), **options)(images), function(images, (3, 2), **options), "all options", rtol=0)
    assert function(images, 3, 2, "VALID", True).shape != function(images, 3, 2).shape
    assert_equal_arrays(layer(3, stride=2, ceil=True)(images), function(images, 3, 2, "VALID", True), "ceil", rtol=0)


def test_layers_without_parameters_are_their_functions():
    images = noise(2, 3, 4, 2)
    assert_equal_arrays(ReLU()(images), dense.relu(images), "ReLU", rtol=0)
    assert_equal_arrays(Flatten()(images), images.reshape(2, 3 * 4 * 2), "flatten", rtol=0)
    assert_equal_arrays(GlobalAveragePool()(images), images.mean(axis=(1, 2)), "global average pool")
    for layer in (ReLU(), Flatten(), GlobalAveragePool(), MaxPool(), AveragePool(), Dropout(0.5)):
        assert jax.tree.leaves(nnx.state(layer)) == [], f"{layer} has parameters"


# A key means training


def test_dropout_drops_when_it_is_given_a_key_and_only_then():
    inputs, layer = noise(20, 30), Dropout(0.4)
    assert layer(inputs) is inputs
    assert_equal_arrays(layer(inputs, key=KEY), dense.dropout(KEY, inputs, 0.4), "with a key", rtol=0)
    assert (np.asarray(layer(inputs, key=KEY)) == 0).mean() == pytest.approx(0.4, abs=4 * (0.24 / 600) ** 0.5)


def test_no_other_layer_is_random():
    images = noise(1, 4, 6, 2)
    pools = MaxPool(), AveragePool(), GlobalAveragePool(), layers.AttentionPool(2, key=KEY)
    for layer in (Convolution(2, 3, (3, 2), key=KEY), *pools, ReLU(), Flatten(), layers.LayerNorm(2), layers.Bias(2)):
        assert_equal_arrays(layer(images, key=KEY), layer(images), str(layer), rtol=0)
    flat = Dense(3, 2, key=KEY)
    assert_equal_arrays(flat(noise(2, 3), key=KEY), flat(noise(2, 3)), "dense", rtol=0)


def test_a_network_runs_its_layers_in_order_and_gives_each_a_randomness_of_its_own():
    inputs = np.ones((4, 50), np.float32)
    network = Network([Dropout(0.5), Flatten(), Dropout(0.2)])
    first = dense.dropout(jax.random.fold_in(KEY, 0), inputs, 0.5)
    last = dense.dropout(jax.random.fold_in(KEY, 2), first, 0.2)
    assert_equal_arrays(network(inputs, key=KEY), last, "fold_in(key, 0), then fold_in(key, 2)")
    assert_equal_arrays(network(inputs), inputs, "without a key nothing is dropped", rtol=0)


# How parameters start


@pytest.mark.parametrize("make", [lambda **o: Convolution(20, 40, (3, 5), **o), lambda **o: Dense(120, 70, **o)])
def test_kernels_start_glorot_uniform_unless_told_and_biases_at_zero(make):
    layer = make(key=KEY)
    kernel, (fan_in, fan_out) = np.asarray(layer.kernel[...]), fans(layer.kernel.shape)
    limit = math.sqrt(6 / (fan_in + fan_out))
    assert 0.99 * limit < np.abs(kernel).max() <= limit
    assert kernel.std() == pytest.approx(limit / math.sqrt(3), rel=0.03)  # of a uniform distribution
    assert abs(kernel.mean()) < 4 * limit / math.sqrt(3 * kernel.size)
    assert not np.asarray(layer.bias[...]).any()
    assert kernel.dtype == layer.bias[...].dtype == np.float32


@pytest.mark.parametrize("make", [lambda **o: Convolution(20, 40, (3, 5), **o), lambda **o: Dense(120, 70, **o)])
def test_he_normal_has_a_variance_of_two_by_fan_in(make):
    kernel = np.asarray(make(key=KEY, initializer=he_normal).kernel[...])
    assert kernel.std() == pytest.approx(math.sqrt(2 / fans(kernel.shape)[0]), rel=0.03)
    assert np.abs(kernel).max() > math.sqrt(3) * kernel.std() * 1.2, "a normal distribution has tails"


def test_the_initialiser_that_is_given_is_asked_for_the_kernel_with_the_key():
    for make, shape in [
        (lambda **options: Convolution(2, 3, (3, 2), **options), (3, 2, 2, 3)),
        (lambda **options: Dense(3, 2, **options), (3, 2)),
    ]:
        want = he_normal(jax.random.key(7), shape, jnp.float32)
        got = make(initializer=he_normal, key=jax.random.key(7)).kernel[...]
        assert_equal_arrays(got, want, "he_normal of this key", rtol=0)
        other = make(initializer=he_normal, key=jax.random.key(8)).kernel[...]
        assert (got != other).all()


# The same as Flax


@pytest.mark.parametrize(("stride", "padding"), [(1, "VALID"), ((2, 1), "SAME"), (1, ((1, 0), (0, 2)))])
def test_flax_convolves_to_the_same_on_the_same_weights(stride, padding):
    images, kernel, bias = noise(2, 5, 6, 2), noise(3, 2, 2, 3), noise(3)
    ours = with_values(Convolution(2, 3, (3, 2), stride=stride, padding=padding, key=KEY), kernel, bias)
    theirs = nnx.Conv(2, 3, (3, 2), strides=stride, padding=padding, kernel_init=zeros, rngs=nnx.Rngs(0))
    assert_equal_arrays(ours(images), with_values(theirs, kernel, bias)(images), "flax.nnx.Conv", atol=1e-5)


def test_flax_gives_the_same_dense_layer_and_the_same_pools_on_the_same_weights():
    inputs, kernel, bias, images = noise(4, 3), noise(3, 2), noise(2), noise(2, 6, 7, 3)
    theirs = with_values(nnx.Linear(3, 2, kernel_init=zeros, rngs=nnx.Rngs(0)), kernel, bias)
    assert_equal_arrays(with_values(Dense(3, 2, key=KEY), kernel, bias)(inputs), theirs(inputs), "flax.nnx.Linear")
    assert_equal_arrays(MaxPool((2, 3))(images), nnx.max_pool(images, (2, 3), (2, 3)), "flax.nnx.max_pool")
    assert_equal_arrays(AveragePool((2, 3))(images), nnx.avg_pool(images, (2, 3), (2, 3)), "flax.nnx.avg_pool")


# A whole network, by its parameters


def tiny() -> tuple[nnx.GraphDef, nnx.State]:
    """Every kind of layer of the network of 2017, and more, in float64, on 6 x 7 images of 2 channels; 3 logits."""
    start = {"initializer": zeros, "key": KEY}  # no matter: other numbers are put in below
    network = Network(
        [
            Convolution(2, 2, (2, 3), padding=((1, 0), (0, 1)), **start),  # 6 x 6
            ReLU(),
            MaxPool(2),  # 3 x 3
            Convolution(2, 3, 2, stride=(1, 2), bias=False, **start),  # 2 x 1
            AveragePool((2, 1)),  # 1 x 1
            Flatten(),
            Dense(3, 4, **start),
            ReLU(),
            Dropout(0.3),
            Dense(4, 3, **start),
        ]
    )
    definition, parameters = nnx.split(network)
    generator = np.random.default_rng(5)
    return definition, jax.tree.map(lambda leaf: jnp.asarray(generator.normal(size=leaf.shape)), parameters)


@pytest.mark.parametrize("key", [None, jax.random.key(3)], ids=["in use", "in training"])
def test_the_gradient_of_a_whole_network_is_that_of_differences_parameter_by_parameter(float64, key):
    definition, parameters = tiny()
    images, labels = noise(3, 6, 7, 2, dtype=np.float64), np.array([2, 0, 1])
    leaves, structure = jax.tree.flatten(parameters)
    shapes = [(2,), (2, 3, 2, 2), (2, 2, 2, 3), (4,), (3, 4), (3,), (4, 3)]
    assert sorted(leaf.shape for leaf in leaves) == sorted(shapes)

    @jax.jit
    def loss(leaves, images):
        network = nnx.merge(definition, jax.tree.unflatten(structure, leaves))
        return cross_entropy(network(images, key=key), labels).mean()

    assert_gradient_of_each(loss, leaves, images)


# What is said, and what is refused


def test_a_layer_says_its_name_and_its_sizes():
    said = [Convolution(2, 3, (3, 2), key=KEY), MaxPool((2, 3)), AveragePool(4), GlobalAveragePool(), Dropout(0.7)]
    assert [*map(str, said), str(Dense(3, 2, key=KEY)), str(ReLU()), str(Flatten())] == [
        *("convolution 3 x 2 x 3", "max pool 2 x 3", "average pool 4 x 4", "global average pool", "dropout 0.7"),
        *("dense 2", "ReLU", "flatten"),
    ]


PAIR = "wants one int or a pair (height, width) of ints, each at least 1"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Convolution(0, 3, key=KEY), "layer: got in_channels = 0, wants an int of at least 1"),
        (lambda: Convolution(3, -2, key=KEY), "layer: got out_channels = -2, wants an int of at least 1"),
        (lambda: Dense(0, 3, key=KEY), "layer: got in_features = 0, wants an int of at least 1"),
        (
            lambda: Convolution(np.int64(3), np.int32(0), key=KEY),
            "layer: got out_channels = 0, wants an int of at least 1",
        ),
        (lambda: Dense(3, 1.5, key=KEY), "layer: got out_features = 1.5, wants an int of at least 1"),
        (lambda: Convolution(1, 1, (3, 0), key=KEY), f"kernel size of a convolution: got (3, 0), {PAIR}"),
        (lambda: Convolution(1, 1, stride=0, key=KEY), f"stride of a convolution: got 0, {PAIR}"),
        (lambda: MaxPool(0), f"window of a pool: got 0, {PAIR}"),
        (lambda: AveragePool(2, stride=(1, 2, 3)), f"stride of a pool: got (1, 2, 3), {PAIR}"),
    ],
)
def test_a_layer_of_impossible_size_is_refused_when_it_is_made(make, message):
    with pytest.raises(ShapeError) as error:
        make()
    assert str(error.value) == message


def test_a_dropout_rate_of_one_is_refused_when_the_layer_is_made():
    with pytest.raises(UserError, match=r"dropout: got a rate of 1, wants 0 or more and less than 1"):
        Dropout(1)


def test_inputs_that_do_not_fit_a_layer_are_told_by_the_function_it_calls():
    with pytest.raises(ShapeError, match=r"convolution: got images of shape \(1, 4, 4, 3\), wants 2 channels"):
        Convolution(2, 3, (3, 2), key=KEY)(jnp.zeros((1, 4, 4, 3)))
    with pytest.raises(ShapeError, match=r"dense: got inputs of shape \(1, 4\), wants \(batch, 3\)"):
        Dense(3, 2, key=KEY)(jnp.zeros((1, 4)))


def test_every_layer_is_called_alike():
    kinds = [kind for _, kind in inspect.getmembers(layers, inspect.isclass) if issubclass(kind, nnx.Module)]
    assert len(kinds) >= 9
    for kind in kinds:
        parameters = inspect.signature(kind.__call__).parameters
        assert list(parameters) == ["self", "inputs", "key"], kind.__name__
        assert parameters["key"].default is None, kind.__name__
