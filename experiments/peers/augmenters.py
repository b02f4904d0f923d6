"""albumentations, image by image with OpenCV on all cores."""

from importlib.metadata import version

import albumentations as A

from experiments.peers import moves

VERSIONS = {"albumentations": version("albumentations")}
QUEUED = ()


class Peer:
    """See `experiments/peers/__init__.py`."""

    def __init__(self, inputs: dict):
        self.large = inputs["large"]
        self.moves = A.Compose(moves(A))
        blur = A.GaussianBlur(blur_limit=(7, 7), sigma_limit=(0.1, 1.0), p=1.0)  # radius 3, as ours
        self.moves_and_blur = A.Compose([*moves(A), blur])

    def move(self):
        """See `experiments/peers/__init__.py`."""
        return [self.moves(image=image)["image"] for image in self.large]

    def move_and_blur(self):
        """See `experiments/peers/__init__.py`."""
        return [self.moves_and_blur(image=image)["image"] for image in self.large]
