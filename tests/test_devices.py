"""Several devices, and several hosts: the same training as on one, but for the order of additions."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cnn.devices import feeder, share_batch

ROOT = Path(__file__).parents[1]
# Trains a network with a batch norm, dropout and augmentation, and prints its losses and a sum over its weights.
PROGRAM = """
import json, sys
import jax, numpy as np, optax
if len(sys.argv) > 1:
    jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]))
from cnn import augment, layers, training
from cnn.network import Network
from cnn.weights import named_arrays
keys = jax.random.split(jax.random.key(0), 3)
network = Network([
    layers.Convolution(3, 4, bias=False, key=keys[0]), layers.MaxPool(2), layers.BatchNorm(4), layers.ReLU(),
    layers.Convolution(4, 4, key=keys[1]), layers.GlobalAveragePool(), layers.Dropout(0.3),
    layers.Dense(4, 1, key=keys[2]),
])
rng = np.random.default_rng(0)
images, labels = rng.integers(0, 256, (24, 18, 22, 3), np.uint8), (np.arange(24) % 2).astype(np.int32)
*_, last = events = list(training.train(
    network, (images, labels), (images[:6], labels[:6]), epochs=2, batch=8, optimizer=optax.sgd(0.1),
    augmentation=augment.named("default"), seed=3,
))
state = last.point.state.parameters
used = len({device for leaf in jax.tree.leaves(state) for device in leaf.sharding.device_set})
sums = {name: float(np.abs(array).sum()) for name, array in named_arrays(state).items()}
losses = [loss for event in events for loss in (event.loss, event.validation_loss)]
print(json.dumps({"devices": used, "losses": losses, "sums": sums}))
"""


def start(devices: int, *arguments) -> subprocess.Popen:
    """Runs the program in a process of its own, in which the processor counts as so many devices."""
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process: subprocess.Popen) -> dict:
    """What the program printed."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def alone() -> dict:
    return result(start(1))


def assert_same_training(got: dict, want: dict) -> None:
    np.testing.assert_allclose(got["losses"], want["losses"], rtol=2e-5)
    for name, value in want["sums"].items():
        np.testing.assert_allclose(got["sums"][name], value, rtol=2e-4, err_msg=name)


def test_four_devices_train_as_one(alone):
    several = result(start(4))
    assert (alone["devices"], several["devices"]) == (1, 4)
    assert_same_training(several, alone)


def test_two_hosts_train_as_one(alone):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    hosts = [start(2, port, number) for number in (0, 1)]
    for host in map(result, hosts):
        assert host["devices"] == 4, "two of each host"
        assert_same_training(host, alone)


def test_a_batch_that_three_devices_cannot_share_evenly_takes_fewer(monkeypatch):
    monkeypatch.setattr("jax.devices", lambda: ["a", "b", "c"])
    monkeypatch.setattr("cnn.devices.Mesh", lambda devices, names: list(devices))
    monkeypatch.setattr("cnn.devices.NamedSharding", lambda mesh, spec: mesh)
    assert [share_batch(batch) and share_batch(batch)[0] for batch in (6, 8, 7)] == [["a", "b", "c"], ["a", "b"], None]


def test_a_batch_is_fetched_where_the_images_wait():
    images, labels = np.arange(5 * 3, dtype=np.uint8).reshape(5, 1, 1, 3), np.arange(5, dtype=np.int32)
    shown = feeder(images, labels, None)(np.array([4, 0]), np.ones(2))
    assert np.asarray(shown[0])[:, 0, 0, 0].tolist() == [12, 0]
    assert np.asarray(shown[1]).tolist() == [4, 0]
