"""Weights on disk: plain arrays, the same bytes for the same network, and a refusal that says the difference.

Next: test_unsound.py.
"""

import jax
import numpy as np
import pytest
from flax import nnx

from cnn.errors import UserError
from cnn.layers import Convolution, Dense, Dropout, Flatten, ReLU
from cnn.network import Network
from cnn.weights import load_weights, named_arrays, save_weights


def small_network(channels: int = 2, seed: int = 0) -> Network:
    """4 x 5 x 3 images -> 3 x 4 x channels -> one logit."""
    keys = jax.random.split(jax.random.key(seed), 2)
    convolution = Convolution(3, channels, kernel_size=2, key=keys[0])
    return Network([convolution, ReLU(), Flatten(), Dropout(0.5), Dense(3 * 4 * channels, 1, key=keys[1])])


def test_each_array_is_named_by_its_place_in_the_network():
    arrays = named_arrays(nnx.state(small_network(), nnx.Param))
    assert {name: array.shape for name, array in arrays.items()} == {
        "layers.0.bias": (2,),
        "layers.0.kernel": (2, 2, 3, 2),
        "layers.4.bias": (1,),
        "layers.4.kernel": (24, 1),
    }


def test_weights_that_are_read_back_are_the_same_to_the_bit(tmp_path):
    network = small_network(seed=3)
    parameters = nnx.state(network, nnx.Param)
    save_weights(tmp_path / "weights.npz", parameters)
    read = load_weights(tmp_path / "weights.npz", small_network(seed=4))
    for name, array in named_arrays(parameters).items():
        assert array.tobytes() == named_arrays(read)[name].tobytes(), name
    images = np.random.default_rng(0).random((2, 4, 5, 3), np.float32)
    again = nnx.merge(nnx.graphdef(small_network()), read)(images)
    assert np.array_equal(again, network(images))


def test_the_same_weights_give_the_same_file(tmp_path):
    for name in ("a.npz", "b.npz"):
        save_weights(tmp_path / name, nnx.state(small_network(), nnx.Param))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_weights_of_another_network_are_refused_with_the_difference(tmp_path):
    save_weights(tmp_path / "w.npz", nnx.state(small_network(channels=2), nnx.Param))
    with pytest.raises(UserError, match=r"layers.0.kernel is float32 \(2, 2, 3, 2\) instead of float32 \(2, 2, 3, 5\)"):
        load_weights(tmp_path / "w.npz", small_network(channels=5))


def test_missing_and_unknown_arrays_are_both_named(tmp_path):
    arrays = named_arrays(nnx.state(small_network(), nnx.Param))
    arrays["layers.9.kernel"] = arrays.pop("layers.4.bias")
    np.savez(tmp_path / "w.npz", **arrays)
    with pytest.raises(UserError, match=r"layers.4.bias is missing; layers.9.kernel is unknown"):
        load_weights(tmp_path / "w.npz", small_network())


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "w.npz"
    save_weights(path, nnx.state(small_network(), nnx.Param))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"w.npz: is damaged"):
        load_weights(path, small_network())
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    path.write_bytes(bytes(flipped))
    with pytest.raises(UserError, match=r"w.npz: is damaged|does not fit"):
        load_weights(path, small_network())


def test_an_object_that_could_run_code_is_refused(tmp_path):
    np.savez(tmp_path / "w.npz", **{"layers.0.kernel": np.array([{"any": "object"}], dtype=object)})
    with pytest.raises(UserError, match="allow_pickle=False"):
        load_weights(tmp_path / "w.npz", small_network())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        load_weights(tmp_path / "absent.npz", small_network())
