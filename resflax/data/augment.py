"""Augmentations on the device: pure functions of keys and a batch of images.

Those of `OF_PIXELS` are given pixels, float in 0..1; the others normalised images, so that padding with zeros pads with the
mean, as in He et al. 2015. Every draw names its dtype: JAX's defaults, and with them the numbers drawn, change when 64-bit
types are enabled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from resflax.data.color import color_jitter, pca_lighting
from resflax.data.erasing import cutout, random_erasing
from resflax.data.policies import auto_augment, rand_augment, trivial_augment
from resflax.types import Array


class Draws(NamedTuple):
    """What the randomness of a batch comes from."""

    keys: Array  # [B], of the example and the epoch
    lasting: Array  # [B], of the example alone
    epoch: Array  # int32[B]

    def fold(self, number: int) -> Draws:
        """Draws that are independent of those for other numbers."""
        keys, lasting = (jax.vmap(lambda key: jax.random.fold_in(key, number))(each) for each in self[:2])
        return Draws(keys, lasting, self.epoch)


def make_draws(base: Array, epoch: Array, ids: Array) -> Draws:
    """The draws of examples int32[B] in their epochs int32[B], whatever else is in the batch."""
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    keys = jax.vmap(jax.random.fold_in)(fold(base, epoch), ids)
    return Draws(keys, fold(jax.random.fold_in(base, jnp.uint32(2**32 - 1)), ids), epoch)  # no epoch has that number


class Augmentation(Protocol):
    """`(draws, images[B, H, W, C]) -> images[B, H, W, C]`."""

    def __call__(self, draws: Draws, images: Array) -> Array: ...


def pad_crop(pixels: int) -> Augmentation:
    """Pads `pixels` zeros on each side and crops the old size at a uniformly random place (He et al. 2015, Sec. 4.2)."""
    return _crop(pixels, "constant")


def reflect_crop(pixels: int) -> Augmentation:
    """`pad_crop`, the padding being the reflection of the image at its outermost pixels (Jordan 2024, arXiv:2404.00498)."""
    return _crop(pixels, "reflect")


def _crop(pixels: int, padding: str) -> Augmentation:
    def apply(draws: Draws, images: Array) -> Array:
        height, width, channels = images.shape[1:]
        padded = jnp.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)), padding)
        corners = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, 2 * pixels + 1, jnp.int32))(draws.keys)  # int32[B, 2]

        def crop(image: Array, corner: Array) -> Array:
            return jax.lax.dynamic_slice(image, (corner[0], corner[1], jnp.int32(0)), (height, width, channels))

        return jax.vmap(crop)(padded, corners)

    return apply


def flip() -> Augmentation:
    """Mirrors each image left to right with probability one half."""

    return lambda draws, images: _mirror(_coin(draws.keys), images)


def alternating_flip() -> Augmentation:
    """Mirrors each image in every other epoch, half of them in the even ones (Jordan 2024, arXiv:2404.00498, Sec. 3.6).

    Two consecutive epochs show both forms of each image, where `flip` shows a quarter of them one form three times in four.
    """
    return lambda draws, images: _mirror(_coin(draws.lasting) ^ (draws.epoch % 2 == 1), images)


def _coin(keys: Array) -> Array:
    return jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32) < 0.5)(keys)


def _mirror(which: Array, images: Array) -> Array:
    return jnp.where(which[:, None, None, None], images[:, :, ::-1], images)


def _by_key(rule: Callable[..., Callable[[Array, Array], Array]], *arguments: float) -> Augmentation:
    change = rule(*arguments)
    return lambda draws, images: change(draws.keys, images)


AUGMENTATIONS: dict[str, Callable[..., Augmentation]] = {
    "rand_augment": functools.partial(_by_key, rand_augment),
    "trivial_augment": functools.partial(_by_key, trivial_augment),
    "auto_augment": functools.partial(_by_key, auto_augment),
    "color_jitter": functools.partial(_by_key, color_jitter),
    "pca_lighting": functools.partial(_by_key, pca_lighting),
    "pad_crop": pad_crop,
    "reflect_crop": reflect_crop,
    "flip": flip,
    "alternating_flip": alternating_flip,
    "cutout": functools.partial(_by_key, cutout),
    "random_erasing": functools.partial(_by_key, random_erasing),
}
OF_PIXELS = frozenset({"rand_augment", "trivial_augment", "auto_augment", "color_jitter", "pca_lighting"})  # they come first


def make_augmentation(texts: tuple[str, ...], normalise: Callable[[Array], Array] = lambda images: images) -> Augmentation:
    """The composition of `("color_jitter:0.4", "pad_crop:4", "flip")`, in order; the n-th has draws of its own.

    Args:
      texts: names of `AUGMENTATIONS` with their arguments.
      normalise: applied between those of `OF_PIXELS` and the others.
    """
    parts = []
    for text in texts:
        name, *arguments = text.split(":")
        parts.append(AUGMENTATIONS[name](*(int(one) if one.isdecimal() else float(one) for one in arguments)))
    first = sum(text.partition(":")[0] in OF_PIXELS for text in texts)

    def apply(draws: Draws, images: Array) -> Array:
        for index, part in enumerate(parts):
            images = part(draws.fold(index), normalise(images) if index == first else images)
        return normalise(images) if first == len(parts) else images

    return apply
