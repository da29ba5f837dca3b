"""Policies that draw an image's operations and their magnitudes: RandAugment, TrivialAugment, AutoAugment.

Each is `(keys [B], images float[B, H, W, C] in 0..1) -> the same`; pixels are rounded to 8 bits. Magnitudes are those of the
authors' code (tensorflow/models research/autoaugment, automl/trivialaugment), where lengths are given for images of 32 pixels;
for others they are the same share of a side. Operations with a direction take it or its opposite with equal probability.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resflax.data.operations import OPERATIONS, Operation
from resflax.types import Array

Policy = Callable[[Array, Array], Array]

_NAMES = tuple(OPERATIONS)
_OF_ALL = _NAMES.index("invert")  # so many operations are in every policy's space; invert is AutoAugment's alone
_DIRECTED = np.array([name.startswith(("shear", "translate", "rotate")) for name in _NAMES])


class Space(NamedTuple):
    """What the levels from 0 to `levels` mean: the magnitudes of the highest, and what comes in from outside of an image."""

    levels: int
    shear: float = 0.3
    translate: float = 10 / 32  # of a side
    rotate: int = 30  # degrees
    bits: tuple[int, int] = (8, 4)  # of posterize: at level 0 and at the highest
    factor: tuple[float, float] = (0.1, 1.9)  # of brightness, color, contrast and sharpness: likewise
    fill: int = 128

    def magnitudes(self, level: int, height: int, width: int) -> np.ndarray:
        """float32[len(OPERATIONS)] for images of this size."""
        share, (first, last) = level / self.levels, self.factor
        found = {
            "shear_x": self.shear * share,
            "shear_y": self.shear * share,
            "translate_x": int(level * round(self.translate * width) / self.levels),
            "translate_y": int(level * round(self.translate * height) / self.levels),
            "rotate": int(level * self.rotate / self.levels),
            "solarize": max(0, 256 - int(level * 256 / self.levels)),
            "posterize": max(1, self.bits[0] - int(level * (self.bits[0] - self.bits[1]) / self.levels)),
            **dict.fromkeys(("brightness", "color", "contrast", "sharpness"), first + (last - first) * share),
        }
        return np.array([found.get(name, 0) for name in _NAMES], np.float32)


def rand_augment(layers: int, level: int) -> Policy:
    """`layers` operations of 14, all at one level of 10, which it may exceed (Cubuk et al. 2020, arXiv:1909.13719, Sec. 3)."""
    space = Space(levels=10)

    def one(key: Array, image: Array) -> Array:
        magnitudes = jnp.asarray(space.magnitudes(level, *image.shape[:2]))
        for for_layer in jax.random.split(key, layers):
            for_operation, for_direction = jax.random.split(for_layer)
            which = jax.random.randint(for_operation, (), 0, _OF_ALL, jnp.int32)
            image = _operate(image, which, magnitudes[which], for_direction, space.fill)
        return image

    return _on_bytes(one)


def trivial_augment() -> Policy:
    """One operation of 14, at one of 31 levels of the wide space (Mueller and Hutter 2021, arXiv:2103.10158, Algorithm 1)."""
    space = Space(levels=30, shear=0.99, translate=1.0, rotate=135, bits=(8, 2), factor=(0.01, 2.0), fill=0)

    def one(key: Array, image: Array) -> Array:
        magnitudes = jnp.asarray([space.magnitudes(level, *image.shape[:2]) for level in range(space.levels + 1)])
        for_operation, for_level, for_direction = jax.random.split(key, 3)
        which = jax.random.randint(for_operation, (), 0, _OF_ALL, jnp.int32)
        level = jax.random.randint(for_level, (), 0, space.levels + 1, jnp.int32)
        return _operate(image, which, magnitudes[level, which], for_direction, space.fill)

    return _on_bytes(one)


# Cubuk et al. 2019, Table 7: pairs of (operation, probability, level); where the operation has no magnitude the level is 0.
CIFAR10 = (
    (("invert", 0.1, 0), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, 0), ("equalize", 0.9, 0)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 0), ("equalize", 0.5, 0)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 0), ("autocontrast", 0.4, 0)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 0)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 0), ("equalize", 0.6, 0)),
    (("color", 0.9, 9), ("equalize", 0.6, 0)),
    (("autocontrast", 0.8, 0), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 0)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, 0), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 0), ("invert", 0.1, 0)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, 0)),
)


def auto_augment() -> Policy:
    """One of the 25 pairs that were found for CIFAR-10 (Cubuk et al. 2019, arXiv:1805.09501, Table 7).

    Bits are from 4 to 0 as in the authors' code; the paper prints 8 to 4.
    """
    space = Space(levels=10, bits=(4, 0))
    operations = np.array([[_NAMES.index(name) for name, _, _ in pair] for pair in CIFAR10], np.int32)
    probabilities = np.array([[probability for _, probability, _ in pair] for pair in CIFAR10], np.float32)

    def one(key: Array, image: Array) -> Array:
        by_level = [space.magnitudes(level, *image.shape[:2]) for level in range(space.levels + 1)]
        magnitudes = np.array([[by_level[level][_NAMES.index(name)] for name, _, level in pair] for pair in CIFAR10])
        for_pair, *for_layers = jax.random.split(key, 3)
        pair = jax.random.randint(for_pair, (), 0, len(CIFAR10), jnp.int32)
        for layer, for_layer in enumerate(for_layers):
            for_coin, for_direction = jax.random.split(for_layer)
            tables = (operations, probabilities, magnitudes)
            which, probability, magnitude = (jnp.asarray(table[:, layer])[pair] for table in tables)
            wanted = jax.random.uniform(for_coin, (), jnp.float32) < probability
            image = _operate(image, jnp.where(wanted, which, 0), magnitude, for_direction, space.fill)
        return image

    return _on_bytes(one)


def _operate(image: Array, which: Array, magnitude: Array, for_direction: Array, fill: int) -> Array:
    opposite = jnp.asarray(_DIRECTED)[which] & (jax.random.uniform(for_direction, (), jnp.float32) < 0.5)
    magnitude = jnp.where(opposite, -magnitude, magnitude)

    def branch(operation: Operation) -> Callable[[Array, Array], Array]:
        return lambda image, magnitude: operation(image, magnitude, fill).astype(jnp.int32)  # with 64-bit types it may be wider

    branches = [branch(operation) for operation in OPERATIONS.values()]
    return jax.lax.switch(which, branches, image, magnitude)


def _on_bytes(one: Callable[[Array, Array], Array]) -> Policy:
    """`one`, of a key and int32[H, W, C] in 0..255, for a batch of images in 0..1."""

    def apply(keys: Array, images: Array) -> Array:
        changed = jax.vmap(one)(keys, jnp.round(images * 255).astype(jnp.int32))
        return changed.astype(images.dtype) / 255

    return apply
