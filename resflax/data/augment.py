"""Augmentations on the device: pure functions of a key an example and a batch of normalised images.

They run after normalisation, so that padding with zeros pads with the mean, as in He et al. 2015. Every draw names its
dtype: JAX's defaults, and with them the numbers drawn, change when 64-bit types are enabled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from resflax.types import Array


class Augmentation(Protocol):
    """`(keys[B], images[B, H, W, C]) -> images[B, H, W, C]`."""

    def __call__(self, keys: Array, images: Array) -> Array: ...


def pad_crop(pixels: int) -> Augmentation:
    """Pads `pixels` zeros on each side and crops the old size at a uniformly random place (He et al. 2015, Sec. 4.2)."""

    def apply(keys: Array, images: Array) -> Array:
        height, width, channels = images.shape[1:]
        padded = jnp.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))
        corners = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, 2 * pixels + 1, jnp.int32))(keys)  # int32[B, 2]

        def crop(image: Array, corner: Array) -> Array:
            return jax.lax.dynamic_slice(image, (corner[0], corner[1], jnp.int32(0)), (height, width, channels))

        return jax.vmap(crop)(padded, corners)

    return apply


def flip() -> Augmentation:
    """Mirrors each image left to right with probability one half."""

    def apply(keys: Array, images: Array) -> Array:
        mirrored = jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32) < 0.5)(keys)
        return jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)

    return apply


AUGMENTATIONS: dict[str, Callable[..., Augmentation]] = {"pad_crop": pad_crop, "flip": flip}


def make_augmentation(texts: tuple[str, ...]) -> Augmentation:
    """The composition of `("pad_crop:4", "flip")`, in order; the n-th folds n into each example's key."""
    parts = []
    for text in texts:
        name, _, argument = text.partition(":")
        parts.append(AUGMENTATIONS[name](*([int(argument)] if argument else [])))

    def apply(keys: Array, images: Array) -> Array:
        for index, part in enumerate(parts):
            images = part(jax.vmap(lambda key, index=index: jax.random.fold_in(key, index))(keys), images)
        return images

    return apply
