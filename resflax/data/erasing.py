"""Erasing a part of each image: cutout and random erasing.

Both are `(keys [B], images float[B, H, W, C]) -> the same` on normalised images and put zero, the mean, in the part's place.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from resflax.types import Array

ATTEMPTS = 10  # at a rectangle that is smaller than the image


def cutout(size: int) -> Callable[[Array, Array], Array]:
    """A square with its centre at any pixel; what lies outside of the image is cut off (DeVries and Taylor 2017, Sec. 3.2)."""

    def part(key: Array, height: int, width: int) -> tuple[Array, ...]:
        top, left = (jax.random.randint(key, (), 0, end, jnp.int32) - size // 2 for key, end in _each(key, height, width))
        return top, top + size // 2 * 2, left, left + size // 2 * 2

    return _erase(part)


def random_erasing(probability: float) -> Callable[[Array, Array], Array]:
    """A rectangle of 0.02 to 0.4 of the area and an aspect ratio of 0.3 to 1/0.3 (Zhong et al. 2020, Sec. 4.1).

    As in the authors' code: both are drawn uniformly, and again until it is smaller than the image, then its place is drawn
    among all inside of it; after 10 attempts the image stays whole. The code fills with the mean, the paper with random values.
    """

    def part(key: Array, height: int, width: int) -> tuple[Array, ...]:
        for_coin, for_size, for_place = jax.random.split(key, 3)
        low, high = (jnp.array(pair, jnp.float32) for pair in ((0.02 * height * width, 0.3), (0.4 * height * width, 1 / 0.3)))
        area, ratio = jax.random.uniform(for_size, (ATTEMPTS, 2), jnp.float32, low, high).T
        tall, wide = jnp.round(jnp.sqrt(area * ratio)).astype(jnp.int32), jnp.round(jnp.sqrt(area / ratio)).astype(jnp.int32)
        fits = (tall < height) & (wide < width)
        first = jnp.argmax(fits)
        erased = jnp.any(fits) & (jax.random.uniform(for_coin, (), jnp.float32) < probability)
        tall, wide = (jnp.where(erased, side[first], 0) for side in (tall, wide))
        (for_top, height), (for_left, width) = _each(for_place, height, width)
        top = jax.random.randint(for_top, (), 0, height - tall + 1, jnp.int32)
        left = jax.random.randint(for_left, (), 0, width - wide + 1, jnp.int32)
        return top, top + tall, left, left + wide

    return _erase(part)


def _each(key: Array, height: int, width: int) -> tuple[tuple[Array, int], ...]:
    for_rows, for_columns = jax.random.split(key)
    return (for_rows, height), (for_columns, width)


def _erase(part: Callable[[Array, int, int], tuple[Array, ...]]) -> Callable[[Array, Array], Array]:
    """Puts zero in the place of `part(key, height, width) -> top, bottom, left, right` of each image."""

    def one(key: Array, image: Array) -> Array:
        height, width, _ = image.shape
        top, bottom, left, right = part(key, height, width)
        rows, columns = jnp.arange(height)[:, None], jnp.arange(width)
        inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
        return jnp.where(inside[..., None], 0, image)

    return jax.vmap(one)
