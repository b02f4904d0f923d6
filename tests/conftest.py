"""What the chapters share: float64 where a test asks for it, and the real slides where they are at hand."""

import os
import shutil
import tempfile
from pathlib import Path

# What is compiled for one test is not compiled again for the next, nor in a process that it starts: many train the same
# network. Set before jax is imported; a folder for each process, since jax does not lock it.
COMPILED = tempfile.mkdtemp(prefix="cnn-tests-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # of a GPU's memory, which several processes share

import jax  # noqa: E402
import pytest  # noqa: E402


def pytest_unconfigure():
    """Leaves nothing behind."""
    shutil.rmtree(COMPILED, ignore_errors=True)


@pytest.fixture
def float64():
    """Computes in float64 for one test: a difference of 1e-12 is then a mistake, and not rounding."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def ucsb() -> Path:
    """The folder of the 58 UCSB slides, from CNN_UCSB or beside the project; skips where it is absent."""
    beside = Path(__file__).parents[2] / "shared" / "data" / "ucsb"
    folder = Path(os.environ.get("CNN_UCSB", beside))
    if not any(folder.glob("ytma*.tif")):
        pytest.skip("needs the 58 UCSB slides: set CNN_UCSB to their folder")
    return folder
