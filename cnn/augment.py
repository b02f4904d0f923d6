"""Putting augmentations together: one after the other, over a batch, and the settings that have a name.

An augmentation never sees a label, and never changes a shape, but for a crop, which gives all images the same new one.
It runs on the device before each training step, so every epoch sees new variants and none is ever stored.
"""

import functools
import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from cnn.appearance import compiled_blur, random_blur, random_brightness_and_contrast, random_stain
from cnn.errors import UserError
from cnn.geometry import (
    MAPS,
    compiled_map,
    random_affine,
    random_crop,
    random_flip_horizontal,
    random_flip_vertical,
    random_transpose,
    taken_apart,
)
from cnn.stains import as_light

Augmentation = Callable[[jax.Array, jax.Array], jax.Array]  # (key, image) -> image
# These exchange pixels or leave some out, and mix none: bytes stay bytes, until the next part.
MOVE_BYTES = (random_flip_horizontal, random_flip_vertical, random_transpose, random_crop)


def compose(*augmentations: Augmentation) -> Augmentation:
    """One augmentation that applies all, the first first; number i gets `fold_in(key, i)`.

    >>> flip = partial(random_flip_horizontal, probability=1.0)
    >>> compose(flip, flip)(jax.random.key(0), jnp.array([[[1.0], [2.0]]])).ravel().tolist()
    [1.0, 2.0]
    """

    def composed(key: jax.Array, image: jax.Array) -> jax.Array:
        for i, augmentation in enumerate(augmentations):
            image = augmentation(jax.random.fold_in(key, i), image)
        return image

    composed.parts = augmentations  # for `compiled`
    return composed


def batched(augmentation: Augmentation) -> Augmentation:
    """The same for a batch, (batch, height, width, channels): every image gets a key, and so a variant, of its own."""

    def over_batch(key: jax.Array, images: jax.Array) -> jax.Array:
        return jax.vmap(augmentation)(jax.random.split(key, len(images)), images)

    return over_batch


def _is(part: Augmentation, *functions: Augmentation) -> bool:
    """Whether a part is one of these functions, with or without options."""
    return taken_apart(part)[0] in functions


def _together(parts: tuple[Augmentation, ...]) -> list[tuple[Augmentation, ...]]:
    """Flips beside an affine map in one group, since one resampling does them all; every other part by itself."""
    groups = []
    for part in parts:
        longer = [*groups[-1], part] if groups else [part]
        resamplings = sum(_is(one, random_affine) for one in longer)
        if groups and all(_is(one, *MAPS) for one in longer) and resamplings <= 1:
            groups[-1] = longer
        else:
            groups.append([part])
    together = []
    for group in groups:  # flips alone need no resampling
        resampled = any(_is(part, random_affine) for part in group)
        together += [tuple(group)] if resampled else [(part,) for part in group]
    return together


def _compiled_group(parts: tuple[Augmentation, ...]) -> Callable[..., jax.Array]:
    """A group of `_together`, (images, for each part a key an image) -> images, as so many programs as make it fast."""
    if any(_is(part, random_affine) for part in parts):
        return compiled_map(*parts)
    (part,) = parts
    if _is(part, random_blur):
        return compiled_blur(**taken_apart(part)[1])
    if _is(part, *MOVE_BYTES):
        return jax.jit(lambda images, keys: jax.vmap(part)(keys, images))
    return jax.jit(lambda images, keys: jax.vmap(part)(keys, as_light(images)))


@functools.cache  # who asks twice gets the same programs
def compiled(augmentation: Augmentation) -> Augmentation:
    """`batched`, compiled: (key, images) -> light, (batch, height, width, 3), of bytes or light.

    On a processor, what `compose` put together becomes a program for each part, and some parts several; flips beside an
    affine map become one map with it. In one program XLA joins the parts into a single loop over the result's pixels,
    and computes, for each of them, all that the earlier parts make of every pixel that the later ones look at. 32
    images of 240 x 320, two flips, an affine map and a blur: 189 ms as one program, 26 as several (two cores).
    """
    composed = hasattr(augmentation, "parts")
    groups = _together(augmentation.parts if composed else (augmentation,))
    programs = [_compiled_group(group) for group in groups]

    @partial(jax.jit, static_argnums=1)
    def keys_for(key: jax.Array, images: int) -> list[jax.Array]:  # for each part, a key for each image
        keys = jax.random.split(key, images)
        fold = jax.vmap(jax.random.fold_in, (0, None))
        return [fold(keys, number) for number in range(sum(map(len, groups)))] if composed else [keys]

    light = jax.jit(as_light)

    def over_batch(key: jax.Array, images: jax.Array) -> jax.Array:
        keys = iter(keys_for(key, len(images)))
        for program, group in zip(programs, groups):
            images = program(images, *(next(keys) for _ in group))
        return light(images) if images.dtype == jnp.uint8 else images

    # On a GPU starting a program takes longer than most of them need: flips and an affine map 73 us as one, 296 apart.
    return over_batch if jax.default_backend() == "cpu" else jax.jit(over_batch)


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": compose(),
    # What the pipeline of 2017 drew: Keras' `ImageDataGenerator(rotation_range=50, width_shift_range=0.1,
    # height_shift_range=0.1, shear_range=0.2, horizontal_flip=True, vertical_flip=True, fill_mode="constant")`; its
    # shear of 0.2 was in radians, and its sampling nearest-neighbour. The corners of a turned image are black.
    "seed": compose(
        partial(
            random_affine,
            max_degrees=50.0,
            max_shift=0.1,
            max_shear=math.degrees(0.2),
            sampling="nearest",
            fill="constant",
        ),
        random_flip_horizontal,
        random_flip_vertical,
    ),
    # Tissue has no up or down, so any angle is as likely; mirrored edges add no black corners that a network could
    # take for tissue; stain and focus differ from laboratory to laboratory. (A vertical flip is a horizontal one
    # and half a turn: one flip is enough.)
    "default": compose(
        random_flip_horizontal,
        partial(random_affine, max_degrees=180.0, max_shift=0.05, max_zoom=1.1, sampling="bilinear", fill="reflect"),
        partial(random_blur, max_sigma=0.6),
        partial(random_stain, max_scale=0.15, max_offset=0.02),
        partial(random_brightness_and_contrast, max_brightness=0.05, max_contrast=0.1),
    ),
    # For networks that take any size. A square of a large image shows nuclei as sharp as they are, and another one at
    # every step; it is laid in one of eight ways, so that no pixel is resampled.
    "crop": compose(
        partial(random_crop, size=128),
        random_flip_horizontal,
        random_flip_vertical,
        random_transpose,
        partial(random_stain, max_scale=0.5, max_offset=0.05),
    ),
}


def named(name: str) -> Augmentation:
    """The augmentation of that name; UserError lists the names there are."""
    if name not in AUGMENTATIONS:
        raise UserError(f'augmentation: got "{name}", wants one of {", ".join(AUGMENTATIONS)}')
    return AUGMENTATIONS[name]
