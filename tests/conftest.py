"""What the chapters share: float64 where a test asks for it, and the real slides where they are at hand."""

import os
from pathlib import Path

import jax
import pytest


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
