"""Keras 3, on the backend that KERAS_BACKEND names: `Sequential`, `train_on_batch`, `ImageDataGenerator` and `fit`."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
from importlib.metadata import version

import keras
import numpy as np
from keras import layers
from keras.src.legacy.preprocessing.image import ImageDataGenerator  # it has no public name any more

from experiments.peers import BATCH, DEGREES, DEVICE, DROPOUT, EPOCH, LEARNING_RATE, PRECISION, SHEAR_DEGREES, SHIFT

BACKEND = keras.backend.backend()
QUEUED = ()  # `train_on_batch` and `predict_on_batch` wait
if BACKEND == "tensorflow":
    import tensorflow

    VERSIONS = {"keras": version("keras"), "tensorflow": tensorflow.__version__}
    if DEVICE == "gpu" and not tensorflow.config.list_physical_devices("GPU"):
        raise ImportError(name="TensorFlow for a GPU")
    tensorflow.config.experimental.enable_tensor_float_32_execution(PRECISION != "float32")  # left alone, always
else:
    VERSIONS = {"keras": version("keras"), "jax": version("jax")}


def network(weights, policy: str) -> keras.Sequential:
    """The network of 2017 with the given kernels and biases."""
    model = keras.Sequential(
        [
            keras.Input((120, 160, 3)),
            *(layers.Conv2D(32, 3, activation="relu", dtype=policy), layers.MaxPooling2D(2, dtype=policy)),
            *(layers.Conv2D(32, 3, activation="relu", dtype=policy) for _ in range(2)),
            *(layers.MaxPooling2D(2, dtype=policy), layers.Flatten(dtype=policy)),
            *(layers.Dense(64, activation="relu", dtype=policy), layers.Dropout(DROPOUT, dtype=policy)),
            layers.Dense(1, dtype="float32"),  # so that the loss is computed in float32, as the guide advises
        ]
    )
    model.set_weights([array for pair in weights for array in pair])
    return model


class Peer:
    """See `experiments/peers/__init__.py`."""

    def __init__(self, inputs: dict):
        self.images, self.labels = inputs["images"].astype(np.float32) / 255, inputs["labels"].astype(np.float32)
        if DEVICE == "gpu":  # there they wait for all peers alike
            self.images, self.labels = map(keras.ops.convert_to_tensor, (self.images, self.labels))
        self.noise = inputs["noise"].astype(np.float32) / 255, inputs["noise_labels"].astype(np.float32)
        self.originals, self.classes = inputs["originals"].astype(np.float32) / 255, inputs["classes"]
        self.large = inputs["large"].astype(np.float32)
        self.exact = network(inputs["weights"], "float32")
        self.model = network(inputs["weights"], "mixed_bfloat16" if PRECISION == "bfloat16" else "float32")
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

            tf.config.experimental.enable_tensor_float_32_execution(False)
            with tf.GradientTape() as tape:
                value = self.loss(labels[:, None], self.exact(images, training=False))
            found = [np.asarray(a) for a in tape.gradient(value, self.exact.trainable_variables)]
            tf.config.experimental.enable_tensor_float_32_execution(PRECISION != "float32")
        else:
            import jax

            def loss(trainable):
                rest = self.exact.non_trainable_variables
                logits, _ = self.exact.stateless_call(trainable, rest, images, training=False)
                return self.loss(labels[:, None], logits)

            with jax.default_matmul_precision("float32"):
                value, found = jax.jit(jax.value_and_grad(loss))([v.value for v in self.exact.trainable_variables])
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
        flow.workers = os.cpu_count()  # threads that draw while the network learns
        self.model.fit(flow, epochs=1, verbose=0)
