"""Other libraries that do the same work, for `experiments/benchmark.py`: each the way that its own guides show.

Each runs in a process of its own (`serve.py`), because they bring thread pools and settings that would disturb each
other. Keras, PyTorch and albumentations keep freed memory there, as this project does (`processes.py`); JAX as one
writes it first, and Flax's layers, do not: nobody has told them to. A peer is a module with a class `Peer(inputs)` and,
of these, the methods that it can do:

    loss_and_gradients()   the loss of four images of noise and its gradient by every kernel and bias, in our layouts,
                           in float32, whatever the precision in which it is timed
    step()                 one training step on the batch: forward, backward, Adam
    forward()              the logits of the batch
    move(), move_and_blur()  variants of 32 images: flips and one affine map; and a Gaussian blur
    epoch()                from 58 images in memory to a trained epoch with augmentation

A GPU does what it is told while the program goes on. What a peer leaves to it stands in the module's QUEUED; these
methods take a number of `times`, ask for the work so often, as a training would, and wait for the last.

`inputs`, what all get: "weights", a list of (kernel, bias), HWIO or (in, out); "images", (32, 120, 160, 3) uint8;
"labels", (32,) int32; "noise" and "noise_labels", four such; "large", (32, 240, 320, 3) uint8; "originals",
(58, 120, 160, 3) uint8, and "classes", (58,).
"""

import os

DEVICE = os.environ.get("PEER_DEVICE", "cpu")  # or "gpu"
PRECISION = os.environ.get("PEER_PRECISION", "float32")  # or "tf32", or "bfloat16": of the work that is timed

EPOCH = 640  # images an epoch of the whole job
BATCH = 32
SIZE, LARGE = (120, 160), (240, 320)  # of the network's images, and of those that are augmented alone
# What is drawn, for all alike: the settings of 2017, sampled bilinearly.
DEGREES, SHIFT, SHEAR_DEGREES = 50.0, 0.1, 11.46
DROPOUT, LEARNING_RATE = 0.7, 1e-3


def moves(A) -> list:
    """Flips and one affine map, as all peers draw them, of albumentations (the module `A`)."""
    shift, shear = (-SHIFT, SHIFT), (-SHEAR_DEGREES, SHEAR_DEGREES)
    affine = A.Affine(rotate=(-DEGREES, DEGREES), translate_percent=shift, shear=shear, p=1.0)
    return [affine, A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)]
