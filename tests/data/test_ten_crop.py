"""Ten crops of a file: the same pixels and the same mean as a loop over crops of the resized image."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from resflax.build.inputs import evaluation_pipeline, make_preprocessing, open_split
from resflax.config import Config, DataConfig
from resflax.data.geometry import center_crop, five_crops
from resflax.data.views import average_over_views
from resflax.errors import ConfigError
from resflax.results.record import VIEWS
from resflax.training import sharding

SIZE, SHORTER = 12, 16
WEIGHTS = np.random.default_rng(1).normal(size=(SIZE * SIZE * 3, 4)).astype(np.float32)
# With these the resized image has whole pixels: 32 x 16, 16 x 24 and 16 x 16.
SHAPES = ((64, 32), (40, 60), (48, 48))


def network(images):
    return jnp.tanh(jnp.asarray(images).reshape(len(images), -1) @ WEIGHTS / 10)


def photograph(width, height, seed):
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "test"):
        for label, (width, height) in enumerate(SHAPES):
            path = tmp_path / split / f"c{label}" / "0.png"
            path.parent.mkdir(parents=True)
            photograph(width, height, label).save(path)
    return tmp_path


def config_of(folder, **changes):
    data = DataConfig(str(folder), batch_size=2, eval_batch_size=2, image_size=SIZE, crop_ratio=SIZE / SHORTER)
    return Config(total_steps=1, data=dataclasses.replace(data, **{"eval_views": "ten_crop", "workers": 0, **changes}))


def in_two_steps(image):
    """The image resized to a shorter side of 16, then its middle and four corners by slicing: uint8[5, 12, 12, 3]."""
    scale = SHORTER / min(image.size)
    resized = np.asarray(image.resize([round(side * scale) for side in image.size], Image.Resampling.BILINEAR))
    down, right = resized.shape[0] - SIZE, resized.shape[1] - SIZE
    corners = [(down // 2, right // 2), (0, 0), (0, right), (down, 0), (down, right)]
    return np.stack([resized[top : top + SIZE, left : left + SIZE] for top, left in corners])


@pytest.mark.parametrize("shape", SHAPES)
def test_crops_are_those_of_the_resized_image(shape):
    image = photograph(*shape, 3)
    crops = np.stack([np.asarray(crop) for crop in five_crops(image, SIZE, SIZE / SHORTER)])
    np.testing.assert_array_equal(crops[0], center_crop(image, SIZE, SIZE / SHORTER))
    assert np.abs(crops.astype(int) - in_two_steps(image).astype(int)).max() <= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_logits_are_the_mean_of_a_loop_over_crops(folder, workers):
    config = config_of(folder, workers=workers)
    images = open_split(config, "test")
    preprocessing = make_preprocessing(config, open_split(config, "train"))
    pipeline = evaluation_pipeline(config, images, preprocessing, sharding.make_mesh(jax.devices()[:1]))
    scored = {}
    for batch in pipeline.evaluation_batches():
        assert batch["image"].shape == (2, 5, SIZE, SIZE, 3)
        made = jax.jit(pipeline.materialise)(batch, pipeline.resident)
        logits = average_over_views(network, made["image"], "ten_crop")
        scored |= {int(one): logits[row] for row, one in enumerate(batch["id"]) if batch["mask"][row]}
    assert sorted(scored) == [0, 1, 2]
    for index, shape in enumerate(SHAPES):
        total = np.zeros(4)
        for crop in in_two_steps(photograph(*shape, index)):
            for view in (crop, crop[:, ::-1]):
                total += np.asarray(network(preprocessing(jnp.asarray(view[None])))[0])
        np.testing.assert_allclose(scored[index], total / VIEWS["ten_crop"], atol=2e-3)


def test_a_batch_of_padding_alone_has_its_shape(folder):
    config = config_of(folder)
    preprocessing = make_preprocessing(config, open_split(config, "train"))
    pipeline = evaluation_pipeline(config, open_split(config, "test"), preprocessing, sharding.make_mesh(jax.devices()[:1]))
    empty = dataclasses.replace(pipeline, rows=(1, 2))  # of the host that has nothing of the last batch
    assert [batch["image"].shape for batch in empty.evaluation_batches()] == [(1, 5, SIZE, SIZE, 3)] * 2


@pytest.mark.parametrize("count", [2, 8])
def test_the_same_on_any_number_of_devices(count):
    crops = jnp.asarray(np.random.default_rng(0).normal(size=(8, 5, SIZE, SIZE, 3)), jnp.float32)
    mesh = sharding.make_mesh(jax.devices()[:count])
    score = jax.jit(lambda images: average_over_views(network, images, "ten_crop"), out_shardings=sharding.batch_sharded(mesh))
    made = score(jax.device_put(crops, sharding.batch_sharded(mesh)))
    np.testing.assert_allclose(made, average_over_views(network, crops, "ten_crop"), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"input": "resident"}, "needs the files and crops smaller than the image, got config.data.input=resident"),
        ({"crop_ratio": 1.0}, "and config.data.crop_ratio=1; set them to host and, for example, 0.875"),
        ({"name": "digits", "crop_ratio": 1.0}, "ten_crop is for image files, but digits has images of one shape"),
    ],
)
def test_what_has_no_ten_crops_is_refused(folder, changes, says):
    with pytest.raises(ConfigError) as caught:
        open_split(config_of(folder, **changes), "test")
    assert says in str(caught.value)
