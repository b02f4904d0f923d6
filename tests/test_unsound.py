"""Where a number first became infinite or NaN: each place is planted, and found. Next: test_step.py."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cnn.errors import UserError
from cnn.layers import Dropout, ReLU
from cnn.network import Network
from cnn.unsound import first_unsound
from tests.test_ends import treacherous
from tests.test_training import run, tiny_network

KEY = jax.random.key(0)
IMAGES = jnp.full((2, 6, 8, 3), 0.5)


def place(network: Network, images: jax.Array = IMAGES, dtype: jnp.dtype = jnp.float32) -> str:
    """What is said of one step on two images."""
    return first_unsound(network, images, jnp.array([0, 1]), jnp.ones(2), KEY, dtype)


def test_a_weight_that_is_no_number_is_named():
    network = tiny_network()
    network.layers[5].kernel[...] = network.layers[5].kernel[...].at[3, 0].set(jnp.nan)
    assert place(network) == "1 of the 24 numbers in layers.5.kernel became infinite or NaN"


def test_an_augmentation_is_told_from_the_network():
    assert place(tiny_network(), IMAGES.at[0, 0, 0].set(jnp.inf)) == (
        "the augmentation makes 3 of 288 numbers infinite or NaN"
    )


def test_the_first_layer_whose_outputs_overflow_is_named_with_its_inputs():
    network = tiny_network()
    network.layers[0].kernel[...] = jnp.full((3, 3, 3, 4), 1e38)  # 27 * 0.5 * 1e38 is beyond float32
    assert place(network) == (
        "layer 0 (convolution 3 x 3 x 4) makes 192 of 192 numbers infinite or NaN, out of inputs from 0.5 to 0.5"
    )


def test_randomness_is_drawn_as_in_the_step():
    class Seen(Dropout):
        def __call__(self, inputs, *, key=None):
            seen.append(key)
            return super().__call__(inputs, key=key)

    seen = []
    place(Network([Seen(0.5), *tiny_network().layers]))
    wanted = jax.random.fold_in(KEY, 0)  # as Network gives it to its first layer
    assert [bool((jax.random.key_data(key) == jax.random.key_data(wanted)).all()) for key in seen] == [True, True]


class Treacherous(ReLU):
    """Passes its inputs on, and makes their gradient NaN."""

    def __call__(self, inputs, *, key=None):
        return treacherous(inputs)


def test_a_gradient_is_followed_from_the_last_layer_back():
    layers = tiny_network().layers
    early, late = (place(Network([*layers[:at], Treacherous(), *layers[at:]])) for at in (3, 6))
    assert early.startswith("the gradient of layers.0.bias is the first to be infinite or NaN")
    assert late == "the gradient of layers.5.bias is the first to be infinite or NaN, in 1 place"


def test_where_all_is_sound_the_device_is_suspected():
    assert place(tiny_network()).endswith("it came from the device, or from another order of sums")


def test_layers_are_looked_at_in_the_precision_in_which_they_learned():
    network = tiny_network()
    network.layers[0].kernel[...] = jnp.full((3, 3, 3, 4), 1e4)  # 27 * 0.5 * 1e4 is beyond float16, of 65,504 at most
    assert place(network, dtype=jnp.float16).startswith("layer 0 (convolution 3 x 3 x 4) makes 192 of 192 numbers")
    assert not place(network).startswith("layer 0")


def test_a_training_that_runs_away_says_in_which_step_and_where():
    explodes = optax.sgd(lambda count: jnp.where(count < 3, 0.0, 1e38))  # from the first step of the second epoch
    with pytest.raises(UserError, match=r"^training: in step 5 layer \d+ \(.*\) makes \d+ of \d+ .*; try a smaller"):
        list(run(epochs=3, optimizer=explodes, debug_nans=True))


def test_a_training_in_another_precision_is_looked_at_in_it(monkeypatch):
    seen = []
    monkeypatch.setattr("cnn.training.first_unsound", lambda *operands: seen.append(operands[-1]) or "somewhere")
    explodes = optax.sgd(lambda count: jnp.where(count < 3, 0.0, 1e38))
    with pytest.raises(UserError, match="training: in step 5 somewhere"):
        list(run(epochs=3, optimizer=explodes, debug_nans=True, dtype=jnp.bfloat16))
    assert seen == [jnp.bfloat16]


def test_looking_changes_no_weight():
    quiet, looked = ([nnx.to_pure_dict(epoch.parameters) for epoch in run(debug_nans=on)] for on in (False, True))
    jax.tree.map(np.testing.assert_array_equal, quiet, looked)
