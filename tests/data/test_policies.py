"""Policies against the authors' code, which works on images of Pillow; only the draws are JAX's."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from resflax.build import build
from resflax.config import PrecisionConfig
from resflax.data import policies
from resflax.data.augment import make_draws, pad_crop
from resflax.data.erasing import cutout
from resflax.prng import stream_key
from resflax.training import sharding
from tests import micro
from tests.data.test_operations import PILLOW

SIDE = 32
FLOWER = load_sample_image("flower.jpg")
PATCHES = np.stack([FLOWER[y : y + SIDE, x : x + SIDE] for y in (90, 170) for x in range(150, 450, 75)])
ORDER = (
    *("identity", "autocontrast", "equalize", "rotate", "solarize", "color", "posterize", "contrast", "brightness"),
    *("sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
)


def magnitude(name, level, levels, wide=False, bits=(8, 4)):
    """`augmentation_transforms.py` and `aug_lib.py`: `int_parameter` and `float_parameter` of their ranges."""
    if name.startswith("shear"):
        return level * (0.99 if wide else 0.3) / levels
    if name.startswith("translate"):
        return int(level * (32 if wide else 10) / levels)
    if name == "rotate":
        return int(level * (135 if wide else 30) / levels)
    if name == "solarize":
        return max(256 - int(level * 256 / levels), 0)
    if name == "posterize":
        return bits[0] - int(level * (bits[0] - bits[1]) / levels)
    low, high = (0.01, 2.0) if wide else (0.1, 1.9)
    return level * (high - low) / levels + low


def in_pillow(picture, name, amount, for_direction, fill):
    if name.startswith(("shear", "translate", "rotate")) and float(jax.random.uniform(for_direction, (), jnp.float32)) < 0.5:
        amount = -amount
    if fill == 128:
        return PILLOW[name][3](amount)(picture)
    outside = Image.new("RGB", picture.size, (255, 255, 255))  # what came from outside of a white image is black here
    inside = np.asarray(PILLOW[name][3](amount)(outside)) if name.startswith(("shear", "translate", "rotate")) else 255
    return Image.fromarray(np.where(inside == 255, np.asarray(PILLOW[name][3](amount)(picture)), fill).astype(np.uint8))


def draw(key, count):
    return int(jax.random.randint(key, (), 0, count, jnp.int32))


def rand_augment(key, picture, layers, level):
    for for_layer in jax.random.split(key, layers):
        for_operation, for_direction = jax.random.split(for_layer)
        name = ORDER[draw(for_operation, 14)]
        picture = in_pillow(picture, name, magnitude(name, level, 10), for_direction, 128)
    return picture


def trivial_augment(key, picture):
    for_operation, for_level, for_direction = jax.random.split(key, 3)
    name, level = ORDER[draw(for_operation, 14)], draw(for_level, 31)
    return in_pillow(picture, name, magnitude(name, level, 30, True, (8, 2)), for_direction, 0)


def auto_augment(key, picture):
    for_pair, *for_layers = jax.random.split(key, 3)
    pair = policies.CIFAR10[draw(for_pair, 25)]
    for (name, probability, level), for_layer in zip(pair, for_layers, strict=True):
        for_coin, for_direction = jax.random.split(for_layer)
        if float(jax.random.uniform(for_coin, (), jnp.float32)) < probability:
            picture = in_pillow(picture, name, magnitude(name, level, 10, bits=(4, 0)), for_direction, 128)
    return picture


@pytest.mark.parametrize(
    ("policy", "expected", "arguments"),
    [
        (policies.rand_augment, rand_augment, (2, 9)),
        (policies.rand_augment, rand_augment, (1, 14)),
        (policies.trivial_augment, trivial_augment, ()),
        (policies.auto_augment, auto_augment, ()),
    ],
)
def test_a_policy_is_that_of_its_authors(policy, expected, arguments):
    keys = jax.random.split(jax.random.key(len(arguments)), 120)
    images = np.tile(PATCHES, (15, 1, 1, 1))
    found = jax.jit(policy(*arguments))(keys, images.astype(np.float32) / 255)
    assert found.dtype == jnp.float32
    found = np.asarray(found) * 255
    np.testing.assert_allclose(found, np.round(found), atol=1e-4)
    assert (found.min(), found.max()) == (0, 255)
    for key, image, changed in zip(keys, images, found, strict=True):
        pillow = np.asarray(expected(key, Image.fromarray(image), *arguments), np.float32)
        off = np.abs(changed - pillow) > 0.5
        assert off.mean() < 0.03  # see PILLOW; equalize can carry a pixel that is off by one to its neighbours' values


def test_what_is_drawn_is_uniform(monkeypatch):
    def operate(image, which, amount, for_direction, fill):
        return image + which + 0 * amount.astype(jnp.int32)

    monkeypatch.setattr(policies, "_operate", operate)
    keys = jax.random.split(jax.random.key(0), 2800)
    drawn = np.asarray(jax.jit(policies.trivial_augment())(keys, jnp.zeros((2800, 1, 1, 1)))) * 255
    values, counts = np.unique(np.round(drawn), return_counts=True)
    assert values.tolist() == list(range(14))
    assert np.abs(counts - 200).max() < 4.5 * np.sqrt(200)


def test_grey_images_and_other_sizes():
    images = np.random.default_rng(0).integers(0, 256, (6, 12, 9, 1)).astype(np.float32) / 255
    keys = jax.random.split(jax.random.key(1), 6)
    changed = np.asarray(jax.jit(policies.trivial_augment())(keys, images))
    assert (changed.shape, changed.dtype) == (images.shape, images.dtype)
    assert 0 <= changed.min() < changed.max() <= 1
    assert not np.array_equal(changed, images)


def test_in_a_pipeline_they_come_before_normalisation_on_any_number_of_devices(tmp_path):
    """And in double precision, where JAX's integers are of 64 bits."""
    config = micro.config(micro.write_npz(tmp_path))
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, batch_size=32, augment=("auto_augment", "pad_crop:1", "cutout:2")),
        precision=PrecisionConfig("float64"),
    )
    with jax.enable_x64(True):
        made = []
        for devices in (1, 8):
            run = build(config, jax.devices()[:devices])
            rows = sharding.put_rows(run.train.training_batches()(0), sharding.batch_sharded(run.mesh))
            resident = run.resident(run.train)
            materialise = jax.jit(run.train.materialise).lower(rows, resident).compile()
            assert not re.search("all-reduce|all-gather|all-to-all|collective-permute", materialise.as_text())
            made.append(materialise(rows, resident))
        one, eight = (np.asarray(each["image"]) for each in made)
        np.testing.assert_array_equal(one, eight)
        pipeline, batch = run.train, run.train.training_batches()(0)

        @jax.jit
        def expected(pixels):
            draws = make_draws(stream_key(config.seed, "augment"), batch["epoch"], batch["id"])
            changed = policies.auto_augment()(draws.fold(0).keys, pixels)
            cropped = pad_crop(1)(draws.fold(1), pipeline.preprocessing.normalise(changed))
            return changed, cutout(2)(draws.fold(2).keys, cropped)

        pixels = pipeline.arrays.images[batch["id"]] / 255
        changed, images = expected(pixels)
        assert np.abs(changed - pixels).max() > 0.1
        np.testing.assert_allclose(one, images, rtol=0, atol=1e-12)
