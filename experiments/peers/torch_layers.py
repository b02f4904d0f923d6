"""PyTorch, channels last, compiled in the mode PEER_COMPILED if set; for the whole job a DataLoader, albumentations."""

import importlib.util
import os
from importlib.metadata import version

import numpy as np
import torch
from torch import nn

from experiments.peers import BATCH, DEVICE, DROPOUT, EPOCH, LEARNING_RATE, PRECISION, moves

VERSIONS = {"torch": version("torch")}
QUEUED = ("step", "forward")
MODE = os.environ.get("PEER_COMPILED")
PLACE = torch.device("cuda" if DEVICE == "gpu" else "cpu")
if DEVICE == "gpu" and not torch.cuda.is_available():
    raise ImportError(name="PyTorch for a GPU")
torch.backends.cudnn.benchmark = True  # tries several ways for each convolution; no use on a processor


def wait() -> None:
    """Until a GPU has done what it was told."""
    if DEVICE == "gpu":
        torch.cuda.synchronize()


def allow_tf32(yes: bool) -> None:
    """Whether a GPU may multiply float32 with 11 bits."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = yes


def in_our_layout(array: np.ndarray) -> np.ndarray:
    """A kernel from OIHW to HWIO, or from (out, in) to (in, out), where `in` counts channels first; a bias as it is."""
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if array.ndim == 2 and array.shape[1] == 31968:
        return array.reshape(64, 32, 27, 37).transpose(2, 3, 1, 0).reshape(31968, 64)
    return array.T


def in_their_layout(array: np.ndarray) -> np.ndarray:
    """The reverse of `in_our_layout`."""
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    if array.ndim == 2 and array.shape[0] == 31968:
        return array.reshape(27, 37, 32, 64).transpose(3, 2, 0, 1).reshape(64, 31968)
    return array.T


def begin_worker(number: int) -> None:
    """One thread in each of the loader's processes, as albumentations advises: they are as many as processors."""
    import cv2

    cv2.setNumThreads(0)


class Augmented(torch.utils.data.Dataset):
    """58 images in memory, drawn again and again, each time augmented by albumentations."""

    def __init__(self, images: np.ndarray, classes: np.ndarray):
        import albumentations as A

        self.images, self.classes = images, classes
        self.augment = A.Compose([*moves(A)])

    def __len__(self):
        return EPOCH

    def __getitem__(self, i):
        image = self.augment(image=self.images[i % len(self.images)])["image"]
        return torch.from_numpy(image).permute(2, 0, 1), int(self.classes[i % len(self.images)])


class Peer:
    """See `experiments/peers/__init__.py`."""

    def __init__(self, inputs: dict):
        if not MODE and not importlib.util.find_spec("albumentations"):
            raise ImportError(name="albumentations")  # which the whole job needs
        self.inputs = inputs
        self.network = nn.Sequential(
            *(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(31968, 64), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(64, 1)),
        ).to(PLACE, memory_format=torch.channels_last)
        with torch.no_grad():
            flat = [array for pair in inputs["weights"] for array in pair]
            for parameter, array in zip(self.network.parameters(), flat):
                parameter.copy_(torch.from_numpy(np.ascontiguousarray(in_their_layout(array))))
        self.images = self.light(torch.from_numpy(inputs["images"]).permute(0, 3, 1, 2))
        self.labels = torch.from_numpy(inputs["labels"]).float().to(PLACE)
        self.adam = torch.optim.Adam(self.network.parameters(), LEARNING_RATE, fused=True)
        # `dynamic`: else, having seen two sizes of batch, it would compile for any
        self.run = torch.compile(self.network, mode=MODE, dynamic=False) if MODE else self.network
        self.loader = None
        allow_tf32(PRECISION != "float32")

    @staticmethod
    def light(images: torch.Tensor) -> torch.Tensor:
        """uint8 to float32 from 0 to 1, channels last."""
        return (images.to(PLACE, non_blocking=True).float() / 255).contiguous(memory_format=torch.channels_last)

    def logits(self, images):
        """In the precision that is timed."""
        with torch.autocast(PLACE.type, torch.bfloat16, enabled=PRECISION == "bfloat16"):
            return self.run(images)[:, 0]

    def loss_and_gradients(self):
        """See `experiments/peers/__init__.py`."""
        self.network.eval()
        self.adam.zero_grad()
        noise = self.light(torch.from_numpy(self.inputs["noise"]).permute(0, 3, 1, 2))
        allow_tf32(False)
        labels = torch.from_numpy(self.inputs["noise_labels"]).float().to(PLACE)
        value = nn.functional.binary_cross_entropy_with_logits(self.run(noise)[:, 0], labels)
        value.backward()
        allow_tf32(PRECISION != "float32")
        found = [in_our_layout(p.grad.cpu().numpy()) for p in self.network.parameters()]
        self.network.train()
        return value.item(), list(zip(found[::2], found[1::2]))

    def learn(self, images, labels):
        """One step of Adam."""
        self.adam.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(self.logits(images).float(), labels).backward()
        self.adam.step()

    def step(self, times: int):
        """See `experiments/peers/__init__.py`."""
        self.network.train()
        for _ in range(times):
            self.learn(self.images, self.labels)
        wait()

    def forward(self, times: int):
        """See `experiments/peers/__init__.py`."""
        self.network.eval()
        with torch.inference_mode():
            for _ in range(times):
                self.logits(self.images)
        wait()

    def epoch(self):
        """See `experiments/peers/__init__.py`."""
        self.network.train()
        if self.loader is None:  # its processes are started once, and stay for all epochs
            data = Augmented(self.inputs["originals"], self.inputs["classes"])
            options = {"num_workers": os.cpu_count(), "persistent_workers": True, "pin_memory": DEVICE == "gpu"}
            options["worker_init_fn"] = begin_worker
            self.loader = torch.utils.data.DataLoader(data, BATCH, shuffle=True, **options)
        for images, labels in self.loader:
            self.learn(self.light(images), labels.to(PLACE, non_blocking=True).float())
        wait()
