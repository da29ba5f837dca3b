"""A prepared tfds data set whose images differ in size; prepared and read without TensorFlow."""

import dataclasses
import io
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from resflax.build import build
from resflax.data import tfds_source
from resflax.data.arrays import load_split
from resflax.data.pipeline import HostPipeline
from resflax.data.tfds_source import TfdsImages
from resflax.errors import ConfigError, DataError, InputError
from tests import micro

NAMES = ("dark", "bright", "striped")
COUNTS = {"train": 40, "test": 9}


def jpeg(split, index):
    """Of one of three classes, of a size of its own."""
    rng = np.random.default_rng([len(split), index])
    height, width = rng.integers(12, 40, 2)
    pixels = rng.integers(0, 60, (height, width, 3))
    if index % 3 == 1:
        pixels += 180
    elif index % 3 == 2:
        pixels[:, ::2] += 180
    content = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(content, "JPEG", quality=95)
    return content.getvalue()


class OddSizes(tfds.core.GeneratorBasedBuilder):
    """Images of many sizes; the last of the split `broken` is cut off."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=NAMES),
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in (*COUNTS, "broken")}

    def _generate_examples(self, split):
        for index in range(COUNTS.get(split, 3)):
            content = jpeg(split, index)
            if split == "broken" and index == 2:
                content = content[:-100]
            yield f"{index:03d}", {"image": io.BytesIO(content), "label": index % 3, "file_name": f"{split}{index}"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    tfds_source._prepare(OddSizes(data_dir=folder, file_format="array_record"))
    return str(folder)


def content_of(split):
    return sorted((jpeg(split, index), index % 3) for index in range(COUNTS[split]))


@pytest.mark.parametrize("split", COUNTS)
def test_every_image_is_there_with_its_label(split, data_dir):
    images = load_split("odd_sizes", split, data_dir)
    assert isinstance(images, TfdsImages)
    assert (len(images), images.class_names, images.channels) == (COUNTS[split], NAMES, 3)
    assert images.labels.dtype == np.int32
    found = sorted((np.asarray(images.open(index)).tobytes(), int(label)) for index, label in enumerate(images.labels.tolist()))
    expected = sorted((np.asarray(Image.open(io.BytesIO(content))).tobytes(), label) for content, label in content_of(split))
    assert found == expected
    assert len({images.open(index).size for index in range(len(images))}) > 1


def test_parts_and_fingerprints(data_dir):
    whole, part = (load_split("odd_sizes", split, data_dir) for split in ("train", "train[10:25]"))
    assert part.labels.tolist() == whole.labels[10:25].tolist()
    np.testing.assert_array_equal(part.open(3), whole.open(13))
    prints = {one.fingerprint() for one in (whole, part, load_split("odd_sizes", "test", data_dir))}
    assert len(prints) == 3
    assert load_split("odd_sizes", "train", data_dir).fingerprint() == whole.fingerprint()


@pytest.mark.parametrize("split", ["valid", "train[:x]"])
def test_splits_that_do_not_exist_are_refused(split, data_dir):
    with pytest.raises(ConfigError, match="it has train, test, broken"):
        load_split("odd_sizes", split, data_dir)


@pytest.mark.parametrize("full_name", ["odd_sizes", "odd_sizes:1.0.0"])
def test_names_may_have_a_version(full_name, data_dir):
    assert len(load_split(full_name, "train", data_dir)) == COUNTS["train"]


def test_a_set_is_read_without_the_code_that_made_it(data_dir, tmp_path):
    folder = tmp_path / "unheard_of" / "2.1.0"
    folder.mkdir(parents=True)
    for path in (Path(data_dir) / "odd_sizes" / "1.0.0").iterdir():
        text = path.name.replace("odd_sizes", "unheard_of")
        (folder / text).write_bytes(path.read_bytes().replace(b'"odd_sizes"', b'"unheard_of"').replace(b'"1.0.0"', b'"2.1.0"'))
    images = load_split("unheard_of", "train", str(tmp_path))
    assert (images.full_name, images.class_names) == ("unheard_of/2.1.0:train", NAMES)
    assert images.fingerprint() == load_split("odd_sizes", "train", data_dir).fingerprint()
    with pytest.raises(ConfigError, match=r"got 'unheard', and there is no such folder in \S+; did you mean"):
        load_split("unheard", "train", str(tmp_path))
    with pytest.raises(ConfigError, match=r"an existing path, but there is no \./photos; correct it"):
        load_split("./photos", "train", str(tmp_path))


def test_a_damaged_description_is_named(tmp_path):
    (tmp_path / "odd_sizes" / "1.0.0").mkdir(parents=True)
    (tmp_path / "odd_sizes" / "1.0.0" / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match="the metadata of odd_sizes in"):
        load_split("odd_sizes", "train", str(tmp_path))


class Unlabelled(tfds.core.GeneratorBasedBuilder):
    """Nothing to learn."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()}))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"text": "word"}


def test_a_set_without_images_and_labels_is_refused(tmp_path):
    tfds_source._prepare(Unlabelled(data_dir=tmp_path, file_format="array_record"))
    with pytest.raises(ConfigError, match="data set unlabelled must have an image and a class label, got text; choose another"):
        load_split("unlabelled", "train", str(tmp_path))


def test_an_empty_part_is_refused(data_dir):
    with pytest.raises(ConfigError, match="must hold at least one example"):
        load_split("odd_sizes", "train[:0]", data_dir)


def test_a_damaged_image_is_named(data_dir):
    images = load_split("odd_sizes", "broken", data_dir)
    messages = []
    for index in range(3):
        try:
            images.open(index)
        except InputError as error:
            messages.append((index, str(error)))
    [(index, message)] = messages
    assert message.startswith(f"example {index} of odd_sizes/1.0.0:broken must be a readable JPEG, PNG or WebP image")


def configuration(data_dir, **changes):
    config = micro.config("odd_sizes")
    data = dataclasses.replace(
        config.data, data_dir=data_dir, image_size=16, augment=("random_resized_crop", "flip"), workers=2
    )
    return dataclasses.replace(config, data=dataclasses.replace(data, **changes))


def test_training_through_the_host_path(data_dir):
    run = build(configuration(data_dir), jax.devices()[:1])
    assert isinstance(run.train, HostPipeline)
    assert isinstance(run.test, HostPipeline)
    state = run.initial_state()
    state, reports = run.compile_chunk(state)(state, 0, 3)
    assert np.isfinite(reports.loss).all()
    assert len(set(np.asarray(reports.loss).tolist())) == 3
    evaluation = run.make_evaluate()(state.variables())
    assert evaluation.images_scored == COUNTS["test"]
    assert evaluation.confusion.sum(axis=1).tolist() == [3, 3, 3]


@pytest.mark.long
def test_the_same_images_held_in_memory(data_dir):
    # Without random parts the images can be decoded once, and both forms then train alike.
    losses = []
    for where in ("host", "resident"):
        run = build(configuration(data_dir, augment=("pad_crop:1",), input=where), jax.devices()[:1])
        state = run.initial_state()
        losses.append(np.asarray(run.compile_chunk(state)(state, 0, 3)[1].loss))
    np.testing.assert_array_equal(*losses)
