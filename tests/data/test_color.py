"""Changes of colour equal a computation in NumPy, image by image, for the same keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflax.data.augment import Draws, make_augmentation, make_draws
from resflax.data.color import color_jitter, pca_lighting

IMAGES = np.random.default_rng(0).random((24, 5, 6, 3)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(3), 24)


def jitter_in_numpy(image, key, strength):
    first, second = jax.random.split(key)
    factors = np.asarray(jax.random.uniform(first, (3,), jnp.float32, 1 - strength, 1 + strength))
    for which in np.argsort(np.asarray(jax.random.uniform(second, (3,), jnp.float32))):
        grey = 0.299 * image[..., 0] + 0.587 * image[..., 1] + 0.114 * image[..., 2]
        if which == 0:  # brightness
            image = factors[0] * image
        elif which == 1:  # contrast
            image = factors[1] * image + (1 - factors[1]) * grey.mean()
        else:  # saturation
            image = factors[2] * image + (1 - factors[2]) * np.stack([grey] * 3, axis=-1)
        image = np.minimum(np.maximum(image, 0), 1)
    return image


def lighting_in_numpy(image, key, deviation):
    values = np.array([0.2175, 0.0188, 0.0045])
    vectors = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    drawn = deviation * np.asarray(jax.random.normal(key, (3,), jnp.float32))
    return np.clip(image + vectors @ (drawn * values), 0, 1)


RULES = {"color_jitter": (color_jitter, jitter_in_numpy), "pca_lighting": (pca_lighting, lighting_in_numpy)}


@pytest.mark.parametrize(("name", "strength"), [("color_jitter", 0.4), ("color_jitter", 1.0), ("pca_lighting", 0.1)])
def test_equals_numpy_and_keeps_dtype_and_range(name, strength):
    rule, in_numpy = RULES[name]
    made = np.asarray(jax.jit(rule(strength))(KEYS, jnp.asarray(IMAGES)))
    expected = [in_numpy(image.astype(np.float64), key, strength) for image, key in zip(IMAGES, KEYS, strict=True)]
    np.testing.assert_allclose(made, expected, atol=2e-6)
    assert (made.dtype, made.shape) == (np.float32, IMAGES.shape)
    assert made.min() >= 0
    assert made.max() <= 1
    assert (np.abs(made - IMAGES).max(axis=(1, 2, 3)) > 1e-3).all()


def test_every_order_is_drawn():
    keys = jax.random.split(jax.random.key(1), 600)
    orders = np.argsort(jax.vmap(lambda key: jax.random.uniform(jax.random.split(key)[1], (3,), jnp.float32))(keys), axis=1)
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 6
    assert counts.min() > 60


def test_pixels_are_changed_before_and_the_rest_after_normalisation():
    draws = Draws(KEYS, KEYS, jnp.zeros(24, jnp.int32))
    made = make_augmentation(("pca_lighting:0.1", "pad_crop:1"), lambda images: 2 * images - 1)(draws, jnp.asarray(IMAGES))
    expected = []
    for image, key in zip(IMAGES, KEYS, strict=True):
        lit = 2 * lighting_in_numpy(image, jax.random.fold_in(key, 0), 0.1) - 1
        top, left = np.asarray(jax.random.randint(jax.random.fold_in(key, 1), (2,), 0, 3, jnp.int32))
        expected.append(np.pad(lit, ((1, 1), (1, 1), (0, 0)))[top : top + 5, left : left + 6])
    np.testing.assert_allclose(made, expected, atol=5e-6)
    alone = make_augmentation(("pca_lighting:0.1",), lambda images: 2 * images - 1)(draws, jnp.asarray(IMAGES))
    assert alone.min() < -0.9  # normalised where nothing follows as well


@pytest.mark.parametrize("count", [2, 8])
def test_the_same_on_any_number_of_devices(count):
    augment = jax.jit(make_augmentation(("color_jitter:0.4", "pca_lighting:0.1", "flip")))
    draws = make_draws(jax.random.key(0), jnp.zeros(24, jnp.int32), jnp.arange(24))
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:count]), ("data",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    over = augment(jax.device_put(draws, split), jax.device_put(IMAGES, split))
    np.testing.assert_array_equal(over, augment(draws, jnp.asarray(IMAGES)))
