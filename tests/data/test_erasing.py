"""Cutout and random erasing against the authors' loops; only the draws are JAX's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflax.data.erasing import ATTEMPTS, cutout, random_erasing

COUNT = 60
KEYS = jax.random.split(jax.random.key(0), COUNT)
IMAGES = np.random.default_rng(0).normal(size=(COUNT, 14, 11, 3)).astype(np.float32)


def draw(key, count):
    return int(jax.random.randint(key, (), 0, count, jnp.int32))


def cutout_in_numpy(key, image, size):
    """`helper_utils.py` of AutoAugment and `cutout.py` of DeVries and Taylor, for one hole."""
    height, width, _ = image.shape
    for_rows, for_columns = jax.random.split(key)
    y, x = draw(for_rows, height), draw(for_columns, width)
    top, bottom = np.clip([y - size // 2, y + size // 2], 0, height)
    left, right = np.clip([x - size // 2, x + size // 2], 0, width)
    image = image.copy()
    image[top:bottom, left:right] = 0
    return image


def erasing_in_numpy(key, image, probability):
    """`transforms.py` of Zhong et al."""
    height, width, _ = image.shape
    for_coin, for_size, for_place = jax.random.split(key, 3)
    if float(jax.random.uniform(for_coin, (), jnp.float32)) >= probability:
        return image
    low, high = np.float32([0.02 * height * width, 0.3]), np.float32([0.4 * height * width, 1 / 0.3])
    for area, ratio in np.asarray(jax.random.uniform(for_size, (ATTEMPTS, 2), jnp.float32, low, high)):
        tall, wide = round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))
        if tall < height and wide < width:
            for_top, for_left = jax.random.split(for_place)
            top, left = draw(for_top, height - tall + 1), draw(for_left, width - wide + 1)
            image = image.copy()
            image[top : top + tall, left : left + wide] = 0
            return image
    return image


@pytest.mark.parametrize("size", [2, 6, 16])
def test_cutout(size):
    expected = [cutout_in_numpy(key, image, size) for key, image in zip(KEYS, IMAGES, strict=True)]
    np.testing.assert_array_equal(jax.jit(cutout(size))(KEYS, IMAGES), expected)


@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_random_erasing(probability):
    expected = [erasing_in_numpy(key, image, probability) for key, image in zip(KEYS, IMAGES, strict=True)]
    found = np.asarray(jax.jit(random_erasing(probability))(KEYS, IMAGES))
    np.testing.assert_array_equal(found, expected)
    untouched = sum(np.array_equal(a, b) for a, b in zip(found, IMAGES, strict=True))
    assert (untouched == 0) if probability == 1 else (15 < untouched < 45)


def test_erased_areas_are_those_of_the_paper():
    keys = jax.random.split(jax.random.key(1), 3000)
    erased = np.asarray(jax.jit(random_erasing(1.0))(keys, jnp.ones((3000, 32, 32, 1)))) == 0
    shares = erased.mean(axis=(1, 2, 3))
    assert shares.min() > 0.015
    assert shares.max() < 0.42  # 0.4, but whole pixels
    assert shares.mean() == pytest.approx(0.2, abs=0.02)  # 0.21, less what is too long
    assert erased.any(axis=0).all()  # anywhere


def test_dtypes_are_kept():
    for dtype in (jnp.bfloat16, jnp.float32):
        for rule in (cutout(4), random_erasing(1.0)):
            assert jax.eval_shape(rule, KEYS, jnp.asarray(IMAGES, dtype)).dtype == dtype
