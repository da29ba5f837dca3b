import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflax.data.augment import Draws, flip, make_augmentation, make_draws, pad_crop, reflect_crop

IMAGES = np.random.default_rng(0).normal(size=(16, 6, 7, 3)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(3), 16)
DRAWS = Draws(KEYS, KEYS, jnp.zeros(16, jnp.int32))


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
    np.testing.assert_array_equal(jax.jit(pad_crop(pixels))(DRAWS, IMAGES), expected)


def test_flip():
    expected = [flip_in_numpy(image, key) for image, key in zip(IMAGES, KEYS, strict=True)]
    assert 0 < sum((a != b).any() for a, b in zip(expected, IMAGES, strict=True)) < 16
    np.testing.assert_array_equal(jax.jit(flip())(DRAWS, IMAGES), expected)


def test_composition_gives_each_part_its_own_key():
    expected = []
    for image, key in zip(IMAGES, KEYS, strict=True):
        cropped = crop_in_numpy(image, jax.random.fold_in(key, 0), 2)
        expected.append(flip_in_numpy(cropped, jax.random.fold_in(key, 1)))
    np.testing.assert_array_equal(make_augmentation(("pad_crop:2", "flip"))(DRAWS, IMAGES), expected)


def test_every_offset_is_drawn_and_half_are_mirrored():
    keys = jax.random.split(jax.random.key(0), 4000)
    draws = Draws(keys, keys, jnp.zeros(4000, jnp.int32))
    ramp = jnp.broadcast_to(jnp.arange(25.0).reshape(1, 5, 5, 1) + 1, (4000, 5, 5, 1))
    corners = np.asarray(pad_crop(1)(draws, ramp))[:, 2, 2, 0]  # the middle names the offset
    _, counts = np.unique(corners, return_counts=True)
    assert len(counts) == 9
    assert np.abs(counts - 4000 / 9).max() < 4.5 * np.sqrt(4000 / 9)
    mirrored = int(np.sum(np.asarray(flip()(draws, ramp))[:, 0, 0, 0] == 5))
    assert abs(mirrored - 2000) < 4.5 * np.sqrt(1000)


@pytest.mark.parametrize("pixels", [1, 2])
def test_reflect_crop(pixels):
    expected = []
    for image, key in zip(IMAGES, KEYS, strict=True):
        top, left = np.asarray(jax.random.randint(key, (2,), 0, 2 * pixels + 1, jnp.int32))
        padded = np.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)), "reflect")
        expected.append(padded[top : top + 6, left : left + 7])
    np.testing.assert_array_equal(jax.jit(reflect_crop(pixels))(DRAWS, IMAGES), expected)


def test_alternating_flips_show_both_forms_in_two_epochs():
    images = jnp.broadcast_to(jnp.arange(3.0).reshape(1, 1, 3, 1), (1000, 2, 3, 1))
    ids = jnp.arange(1000)

    def mirrored(epoch):
        draws = make_draws(jax.random.key(0), jnp.full(1000, epoch), ids)
        return np.asarray(make_augmentation(("alternating_flip",))(draws, images))[:, 0, 0, 0] == 2

    epochs = [mirrored(epoch) for epoch in range(4)]
    assert 430 < epochs[0].sum() < 570
    for epoch in (1, 2, 3):
        np.testing.assert_array_equal(epochs[epoch], epochs[0] ^ (epoch % 2 == 1))
