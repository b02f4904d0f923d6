"""albumentations, image by image, with a thread for each core."""

import os
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import albumentations as A
import cv2
import numpy as np

from experiments.peers import moves

VERSIONS = {"albumentations": version("albumentations")}
QUEUED = ()


class Peer:
    """See `experiments/peers/__init__.py`."""

    def __init__(self, inputs: dict):
        cv2.setNumThreads(0)  # OpenCV's own threads bring little beside these, as albumentations advises
        threads = os.cpu_count()
        self.shares = [inputs["large"][i::threads] for i in range(threads)]
        self.threads = ThreadPoolExecutor(threads)
        self.moves = A.Compose(moves(A))
        blur = A.GaussianBlur(blur_limit=(7, 7), sigma_limit=(0.1, 1.0), p=1.0)  # radius 3, as ours
        self.moves_and_blur = A.Compose([*moves(A), blur])

    def move(self):
        """See `experiments/peers/__init__.py`."""
        return self.each(self.moves)

    def move_and_blur(self):
        """See `experiments/peers/__init__.py`."""
        return self.each(self.moves_and_blur)

    def each(self, augment: A.Compose) -> list[list[np.ndarray]]:
        """A variant of every image, each thread one of its share after the other."""
        return list(self.threads.map(lambda share: [augment(image=image)["image"] for image in share], self.shares))
