import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflax.data.augment import flip, make_augmentation, pad_crop

IMAGES = np.random.default_rng(0).normal(size=(16, 6, 7, 3)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(3), 16)


def crop_in_numpy(image, key, pixels):
    height, width, _ = image.shape
    top, left = np.asarray(jax.random.randint(key, (2,), 0, 2 * pixels + 1, jnp.int32))
    padded = np.zeros((height + 2 * pixels, width + 2 * pixels, 3), image.dtype)
    padded[pixels : pixels + height, pixels : pixels + width] = image
    return padded[top : top + height, left : left + width]


def flip_in_numpy(image, key):
    return image[:, ::-1] if float(jax.random.uniform(key, (), jnp.float32)) < 0.5 else image


@pytest.mark.parametrize("pixels", [1, 4])
def test_pad_crop(pixels):
    expected = [crop_in_numpy(image, key, pixels) for image, key in zip(IMAGES, KEYS, strict=True)]
    np.testing.assert_array_equal(jax.jit(pad_crop(pixels))(KEYS, IMAGES), expected)


def test_flip():
    expected = [flip_in_numpy(image, key) for image, key in zip(IMAGES, KEYS, strict=True)]
    assert 0 < sum((a != b).any() for a, b in zip(expected, IMAGES, strict=True)) < 16
    np.testing.assert_array_equal(jax.jit(flip())(KEYS, IMAGES), expected)


def test_composition_gives_each_part_its_own_key():
    expected = []
    for image, key in zip(IMAGES, KEYS, strict=True):
        cropped = crop_in_numpy(image, jax.random.fold_in(key, 0), 2)
        expected.append(flip_in_numpy(cropped, jax.random.fold_in(key, 1)))
    np.testing.assert_array_equal(make_augmentation(("pad_crop:2", "flip"))(KEYS, IMAGES), expected)


def test_every_offset_is_drawn_and_half_are_mirrored():
    keys = jax.random.split(jax.random.key(0), 4000)
    ramp = jnp.broadcast_to(jnp.arange(25.0).reshape(1, 5, 5, 1) + 1, (4000, 5, 5, 1))
    corners = np.asarray(pad_crop(1)(keys, ramp))[:, 2, 2, 0]  # the middle names the offset
    _, counts = np.unique(corners, return_counts=True)
    assert len(counts) == 9
    assert np.abs(counts - 4000 / 9).max() < 4.5 * np.sqrt(4000 / 9)
    mirrored = int(np.sum(np.asarray(flip()(keys, ramp))[:, 0, 0, 0] == 5))
    assert abs(mirrored - 2000) < 4.5 * np.sqrt(1000)
