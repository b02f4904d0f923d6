"""PyTorch as torchvision moves images: an affine grid for the batch, then one bilinear sampling of it."""

import math

import torch
from torch.nn import functional

from experiments.peers import BATCH, DEGREES, SHEAR_DEGREES, SHIFT
from experiments.peers.torch_layers import PLACE, wait

VERSIONS = {"torch": torch.__version__}
QUEUED = ("move",)


class Peer:
    """See `experiments/peers/__init__.py`."""

    def __init__(self, inputs: dict):
        self.large = torch.from_numpy(inputs["large"]).permute(0, 3, 1, 2).float().to(PLACE) / 255

    def move(self, times: int):
        """See `experiments/peers/__init__.py`."""
        for _ in range(times):
            self.draw()
        wait()

    def draw(self) -> torch.Tensor:
        """One variant of each image."""
        drawn = torch.rand(5, BATCH, device=PLACE) * 2 - 1
        turn, slant = drawn[0] * math.radians(DEGREES), drawn[1] * math.radians(SHEAR_DEGREES)
        flips = torch.where(torch.rand(2, BATCH, device=PLACE) < 0.5, -1.0, 1.0)
        rows = [
            torch.stack([turn.cos() * flips[0], -(turn + slant).sin(), 2 * SHIFT * drawn[2]], 1),
            torch.stack([turn.sin(), (turn + slant).cos() * flips[1], 2 * SHIFT * drawn[3]], 1),
        ]
        grid = functional.affine_grid(torch.stack(rows, 1), self.large.shape, align_corners=False)
        return functional.grid_sample(self.large, grid, align_corners=False)
