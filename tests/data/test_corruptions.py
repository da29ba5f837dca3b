"""Corruptions against independent implementations, and what holds for all of them."""

import colorsys
import functools
import io
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from resflax.data import corruptions
from resflax.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt

NAMES = list(CORRUPTIONS)


@pytest.fixture(scope="module")
def images():
    """uint8[6, 32, 32, 3]: smooth shapes with some texture, none of them black or white."""
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.normal(size=(6, 32, 32, 3)), (0, 2.5, 2.5, 0))
    texture = ndimage.gaussian_filter(rng.normal(size=(6, 32, 32, 3)), (0, 0.7, 0.7, 0))
    mixed = 128 + 45 * noise / noise.std() + 12 * texture / texture.std()
    return np.clip(mixed, 10, 245).astype(np.uint8)


@functools.cache
def compiled(name):
    return jax.jit(functools.partial(corrupt, name))


def floats(name, images, severity):
    return np.asarray(corrupt(name, 7, jnp.arange(len(images)), jnp.asarray(images, jnp.float32), severity))


def apply(name, images, severity, ids=None):
    ids = jnp.arange(len(images)) if ids is None else jnp.asarray(ids)
    return np.asarray(compiled(name)(7, ids, jnp.asarray(images), severity))


def test_the_list_is_that_of_the_paper():
    assert NAMES == [
        "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
        "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
    ]  # fmt: skip
    assert all(len(table) == len(SEVERITIES) == 5 for _, table in CORRUPTIONS.values())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.faults if name in ("snow", "frost", "motion_blur") else ()) for name in NAMES]
)
def test_images_move_away_with_severity(name, images):
    """The mean distance to the clean image grows, and shape, dtype and range stay; noise is that of the example alone."""
    distances = []
    for severity in SEVERITIES:
        made = apply(name, images, severity)
        assert made.shape == images.shape
        assert made.dtype == np.uint8
        distances.append(np.sqrt(np.mean((made.astype(float) - images) ** 2)))
    assert distances[0] > 0.5
    assert all(after > before for before, after in itertools.pairwise(distances)), distances
    assert distances[-1] < 100
    alone = np.concatenate([apply(name, images[[index]], 3, [index]) for index in (4, 1)])
    batch = apply(name, images, 3)[[4, 1]]
    assert np.abs(alone.astype(int) - batch).max() <= 1  # a value on the edge between two levels may round otherwise
    assert np.mean(alone != batch) < 0.01


@pytest.mark.faults
@pytest.mark.parametrize("name", NAMES)
def test_floats_and_grey_and_other_sizes(name, images):
    grey = images[:2, :28, :, :1].astype(np.float32) / 255
    made = np.asarray(compiled(name)(7, jnp.arange(2), jnp.asarray(grey), 5))
    assert (made.shape, made.dtype) == (grey.shape, np.float32)
    assert made.min() >= 0
    assert made.max() <= 1
    assert np.isfinite(made).all()
    assert np.abs(made - grey).mean() > 0.005


def test_noise_has_the_stated_moments():
    grey = np.full((4, 64, 64, 3), 0.5, np.float32)
    for severity, deviation in zip(SEVERITIES, CORRUPTIONS["gaussian_noise"][1], strict=True):
        assert floats("gaussian_noise", grey, severity).std() == pytest.approx(deviation, rel=0.03)
    for severity, photons in zip(SEVERITIES[:4], CORRUPTIONS["shot_noise"][1], strict=False):
        made = floats("shot_noise", grey, severity)
        assert (made.mean(), made.std()) == (pytest.approx(0.5, rel=0.02), pytest.approx(np.sqrt(0.5 / photons), rel=0.05))
    made = floats("impulse_noise", grey, 5)
    assert (np.mean(made == 0), np.mean(made == 1)) == (pytest.approx(0.085, rel=0.1), pytest.approx(0.085, rel=0.1))


def test_gaussian_smoothing_is_scipys(images):
    image = images[0] / np.float32(255)
    found = corruptions._smooth(jnp.asarray(image), 0.8)
    expected = ndimage.gaussian_filter(image, (0.8, 0.8, 0), mode="reflect", truncate=3 / 0.8)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_defocus_is_a_mean_over_a_disk(images):
    image, radius = images[0] / np.float32(255), 0.055 * 32
    offsets = np.arange(-2, 3)
    disk = np.clip(radius + 0.5 - np.hypot(offsets[:, None], offsets[None]), 0, 1)
    expected = ndimage.convolve(image, (disk / disk.sum())[..., None], mode="reflect")
    np.testing.assert_allclose(floats("defocus_blur", image[None], 5)[0], expected, atol=1e-5)


def test_lines_and_displacements_are_scipys(images):
    image = images[0] / np.float32(255)
    rows, columns = np.mgrid[:32, :32].astype(np.float32)
    at = np.stack([rows + 0.3 * np.sin(columns), columns - 1.7], axis=-1)
    expected = np.stack(
        [ndimage.map_coordinates(image[..., c], [at[..., 0], at[..., 1]], order=1, mode="reflect") for c in range(3)], -1
    )
    np.testing.assert_allclose(corruptions._sample(jnp.asarray(image), jnp.asarray(at)), expected, atol=1e-5)
    along = corruptions._along(jnp.asarray(image), 6.0, 0.0)
    shifts = [ndimage.shift(image, (0, 6 * (0.5 - step / 14), 0), order=1, mode="reflect") for step in range(15)]
    np.testing.assert_allclose(along, np.mean(shifts, axis=0), atol=1e-5)


def test_brightness_is_addition_to_the_value_of_hsv(images):
    made = floats("brightness", images[:1] / np.float32(255), 3)[0]
    for row, column in ((0, 0), (5, 9), (31, 2), (16, 16)):
        hue, saturation, value = colorsys.rgb_to_hsv(*(images[0, row, column] / 255))
        expected = colorsys.hsv_to_rgb(hue, saturation, min(value + CORRUPTIONS["brightness"][1][2], 1))
        np.testing.assert_allclose(made[row, column], expected, atol=1e-5)
    black = np.zeros((1, 4, 4, 3), np.float32)
    np.testing.assert_allclose(floats("brightness", black, 1), CORRUPTIONS["brightness"][1][0], atol=1e-6)


def test_contrast_keeps_the_mean(images):
    image = images[0] / 255
    expected = image.mean(axis=(0, 1)) + 0.38 * (image - image.mean(axis=(0, 1)))
    np.testing.assert_allclose(floats("contrast", image[None].astype(np.float32), 3)[0], expected, atol=1e-5)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_pixelate_is_pillows(severity, images):
    side = round(32 * CORRUPTIONS["pixelate"][1][severity - 1])
    for image, made in zip(images, apply("pixelate", images, severity), strict=True):
        small = Image.fromarray(image).resize((side, side), Image.Resampling.BOX)
        # Pillow's BOX takes whole pixels by their centres, which is another rule where boxes cut through them.
        distance = np.abs(made.astype(int) - np.asarray(small.resize((32, 32), Image.Resampling.NEAREST)))
        assert distance.mean() < (0.6 if 32 % side == 0 else 9)


def test_pixelate_with_boxes_of_whole_pixels_is_a_mean(images):
    made = corruptions.pixelate(None, jnp.asarray(images[0], jnp.float32), jnp.array([0.5]))
    means = images[0].reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(made, means.repeat(2, 0).repeat(2, 1), rtol=1e-5)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_jpeg_is_pillows(severity, images):
    """The same quantisation: nearer to Pillow's file by far than either is to the image."""
    quality = CORRUPTIONS["jpeg_compression"][1][severity - 1]
    for image, made in zip(images, apply("jpeg_compression", images, severity), strict=True):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=2)
        decoded = np.asarray(Image.open(file)).astype(int)
        between, change = np.abs(made - decoded).mean(), np.abs(decoded - image.astype(int)).mean()
        assert between < 0.2 * change + 0.5, (between, change)


@pytest.mark.faults
def test_devices_change_nothing(images):
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    split = jax.NamedSharding(mesh, jax.P("data"))
    for name in ("gaussian_noise", "glass_blur", "fog"):
        alone = apply(name, images, 3)
        both = compiled(name)(7, jax.device_put(np.arange(6), split), jax.device_put(images, split), 3)
        assert np.abs(alone.astype(int) - np.asarray(both)).max() <= 1
        assert np.mean(alone != np.asarray(both)) < 0.01
