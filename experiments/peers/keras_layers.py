"""Keras 3, on the backend that KERAS_BACKEND names: `Sequential`, `train_on_batch`, `ImageDataGenerator` and `fit`."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
from importlib.metadata import version

import keras
import numpy as np
from keras import layers
from keras.src.legacy.preprocessing.image import ImageDataGenerator  # it has no public name any more

from experiments.peers import BATCH, DEGREES, DROPOUT, EPOCH, LEARNING_RATE, SHEAR_DEGREES, SHIFT

BACKEND = keras.backend.backend()
PACKAGE = {"tensorflow": "tensorflow-cpu", "jax": "jax"}[BACKEND]
VERSIONS = {"keras": version("keras"), PACKAGE: version(PACKAGE)}


class Peer:
    """See `experiments/peers/__init__.py`."""

    def __init__(self, inputs: dict):
        self.images, self.labels = inputs["images"].astype(np.float32) / 255, inputs["labels"].astype(np.float32)
        self.noise = inputs["noise"].astype(np.float32) / 255, inputs["noise_labels"].astype(np.float32)
        self.originals, self.classes = inputs["originals"].astype(np.float32) / 255, inputs["classes"]
        self.large = inputs["large"].astype(np.float32)
        self.model = keras.Sequential(
            [
                keras.Input((120, 160, 3)),
                *(layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(2)),
                *(layers.Conv2D(32, 3, activation="relu"), layers.Conv2D(32, 3, activation="relu")),
                *(layers.MaxPooling2D(2), layers.Flatten()),
                *(layers.Dense(64, activation="relu"), layers.Dropout(DROPOUT), layers.Dense(1)),
            ]
        )
        self.model.set_weights([array for pair in inputs["weights"] for array in pair])
        self.loss = keras.losses.BinaryCrossentropy(from_logits=True)
        self.model.compile(optimizer=keras.optimizers.Adam(LEARNING_RATE), loss=self.loss)
        self.generator = ImageDataGenerator(
            rotation_range=DEGREES,
            width_shift_range=SHIFT,
            height_shift_range=SHIFT,
            shear_range=SHEAR_DEGREES,
            horizontal_flip=True,
            vertical_flip=True,
            fill_mode="constant",
            interpolation_order=1,
        )

    def loss_and_gradients(self):
        """See `experiments/peers/__init__.py`."""
        images, labels = self.noise
        if BACKEND == "tensorflow":
            import tensorflow as tf

            with tf.GradientTape() as tape:
                value = self.loss(labels[:, None], self.model(images, training=False))
            found = [np.asarray(a) for a in tape.gradient(value, self.model.trainable_variables)]
        else:
            import jax

            def loss(trainable):
                rest = self.model.non_trainable_variables
                logits, _ = self.model.stateless_call(trainable, rest, images, training=False)
                return self.loss(labels[:, None], logits)

            value, found = jax.jit(jax.value_and_grad(loss))([v.value for v in self.model.trainable_variables])
        return value, list(zip(found[::2], found[1::2]))

    def step(self):
        """See `experiments/peers/__init__.py`."""
        self.model.train_on_batch(self.images, self.labels)

    def forward(self):
        """See `experiments/peers/__init__.py`."""
        self.model.predict_on_batch(self.images)

    def move(self):
        """See `experiments/peers/__init__.py`."""
        next(self.generator.flow(self.large, batch_size=BATCH, shuffle=False))

    def epoch(self):
        """See `experiments/peers/__init__.py`."""
        repeated = np.arange(EPOCH) % len(self.originals)  # an epoch of `fit` is one pass over what it is given
        flow = self.generator.flow(self.originals[repeated], self.classes[repeated], batch_size=BATCH)
        self.model.fit(flow, epochs=1, verbose=0)
