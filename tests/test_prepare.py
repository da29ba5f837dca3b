"""Preparing data sets: packed folders, converted TFRecords, and what can go wrong; none of it needs TensorFlow."""

import dataclasses
import importlib.util
import io
import json
import struct
import sys

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from requests import ConnectionError as NoNetwork
from tensorboardX.record_writer import masked_crc32c as slow_masked_crc32c

from resflax import prepare
from resflax.build import build
from resflax.data import packing, preparing
from resflax.data.arrays import load_split
from resflax.data.folders import load_folder
from resflax.data.tfrecord import crc32c, masked_crc32c, records
from resflax.errors import ConfigError, DataError, InputError, StorageError
from tests import micro

# Written by TensorFlow 2.21: three records, of 0, 1 and 45 bytes.
OF_TENSORFLOW = bytes.fromhex(
    "000000000000000029039807d8ea82a201000000000000000175de4161786ee4282d000000000000003c418afb0001020304050607"
    "08090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c000788ba"
)


def files_below(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- packing


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def photos(tmp_path):
    """Two classes in three splits: JPEG with an EXIF orientation, grey and CMYK, PNG with transparency, WebP."""
    rng = np.random.default_rng(0)
    upside_down = Image.Exif()
    upside_down[0x0112] = 3
    root = tmp_path / "photos"
    for split, count in (("train", 8), ("test", 3), ("val", 2)):
        for name in ("cat", "Dög"):
            for index in range(count):
                pixels = rng.integers(0, 255, (rng.integers(18, 40), rng.integers(18, 40), 3), np.uint8)
                save(root / split / name / f"{index}.jpg", pixels, exif=upside_down)
    save(root / "train" / "cat" / "grey.jpg", rng.integers(0, 255, (20, 30), np.uint8))
    save(root / "train" / "cat" / "clear.png", rng.integers(0, 255, (20, 30, 4), np.uint8))
    save(root / "train" / "cat" / "below" / "small.webp", rng.integers(0, 255, (20, 30, 3), np.uint8))
    Image.new("CMYK", (20, 20), (9, 99, 199, 50)).save(root / "train" / "cat" / "print.jpg")
    return root


def test_a_packed_folder_is_the_folder(photos, tmp_path):
    done = prepare.pack(str(photos), "pets", str(tmp_path / "data"))
    assert done == {
        "name": "pets",
        "version": "1.0.0",
        "folder": str(tmp_path / "data" / "pets" / "1.0.0"),
        "examples": {"train": 20, "test": 6, "val": 4},
    }
    for split in done["examples"]:
        packed, files = load_split("pets", split, str(tmp_path / "data")), load_folder(photos, split)
        assert packed.fingerprint() == files.fingerprint()
        assert packed.class_names == files.class_names
        np.testing.assert_array_equal(packed.labels, files.labels)
        for index, path in enumerate(files.paths):
            assert packed.source[index]["image"] == path.read_bytes()
            np.testing.assert_array_equal(packed.open(index), files.open(index))
    assert "tensorflow" not in sys.modules


@pytest.fixture
def large(tmp_path):
    """Two classes of photographs, upright ones and ones that EXIF turns, of which two are smaller than they are packed."""
    from sklearn.datasets import load_sample_images

    turned = Image.Exif()
    turned[0x0112] = 6
    root = tmp_path / "large"
    for split in ("train", "test"):
        for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
            for index in range(4):
                options = {"exif": turned, "quality": 95} if index == 1 else {"quality": 95}
                save(root / split / name / f"{index}.jpg", pixels[20 * index :, : 640 - 60 * index], **options)
            save(root / split / name / "small.png", pixels[:90, :64])
    return root


def test_a_folder_can_be_packed_smaller(large, tmp_path):
    done = prepare.pack(str(large), "small", str(tmp_path), shorter_side=96)
    assert done["examples"] == {"train": 10, "test": 10}
    for split in done["examples"]:
        packed, files = load_split("small", split, str(tmp_path)), load_folder(large, split)
        assert packed.class_names == files.class_names
        np.testing.assert_array_equal(packed.labels, files.labels)
        assert packed.fingerprint() != files.fingerprint()
        for index, path in enumerate(files.paths):
            content, image, original = packed.source[index]["image"], packed.open(index), files.open(index)
            assert packed.source[index]["file_name"].decode() == path.relative_to(files.root).as_posix()
            if path.suffix == ".png":
                assert content == path.read_bytes()
                continue
            width, height = original.size
            assert image.size == ((round(width * 96 / height), 96) if width > height else (96, round(height * 96 / width)))
            expected = np.asarray(original.resize(image.size, Image.Resampling.BILINEAR), float)
            assert np.abs(np.asarray(image) - expected).mean() <= 4  # what quality 90 leaves of them
            assert len(content) < len(path.read_bytes()) / 4
    recorded = json.loads((tmp_path / "small" / "1.0.0" / "dataset_info.json").read_text())
    shards = [path.stat().st_size for path in (tmp_path / "small" / "1.0.0").glob("*train.array*")]
    assert [int(one["numBytes"]) for one in recorded["splits"] if one["name"] == "train"] == [sum(shards)]


def test_what_is_packed_smaller_is_known_again(large, tmp_path, capsys):
    first = prepare.pack(str(large), "small", str(tmp_path), shorter_side=96)
    before = files_below(tmp_path / "small")
    assert prepare.pack(str(large), "small", str(tmp_path), shorter_side=96) == first
    assert "small/1.0.0 is already prepared in" in capsys.readouterr().err
    for other, what in ((None, "train"), (97, "description")):
        with pytest.raises(ConfigError, match=f"must hold the same images or none, but its {what} differs"):
            prepare.pack(str(large), "small", str(tmp_path), shorter_side=other)
    prepare.pack(str(large), "whole", str(tmp_path))
    with pytest.raises(ConfigError, match="must hold the same images or none, but its description differs"):
        prepare.pack(str(large), "whole", str(tmp_path), shorter_side=96)
    (large / "test" / "china" / "1.jpg").unlink()
    with pytest.raises(ConfigError, match="must hold the same images or none"):
        prepare.pack(str(large), "small", str(tmp_path), shorter_side=96)
    assert files_below(tmp_path / "small") == before


@pytest.mark.long
def test_what_is_packed_smaller_trains(large, tmp_path):
    prepare.pack(str(large), "small", str(tmp_path), shorter_side=64)
    config = micro.config("small")
    changes = {"data_dir": str(tmp_path), "image_size": 16, "augment": ("random_resized_crop", "flip"), "workers": 2}
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, input="host", batch_size=4, **changes))
    run = build(config, jax.devices()[:1])
    state = run.initial_state()
    _, reports = run.compile_chunk(state)(state, 0, 2)
    assert np.isfinite(reports.loss).all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["photos", "--shorter_side=256"], "--shorter_side is for folders of images, and needs --name"),
        (["photos", "--name=x", "--shorter_side=0"], "--shorter_side must be a whole number at least 1, got '0'"),
        (["photos", "--name=x", "--shorter_side=25.6"], "--shorter_side must be a whole number at least 1, got '25.6'"),
    ],
)
def test_a_shorter_side_that_makes_no_sense(arguments, says):
    with pytest.raises(ConfigError) as caught:
        prepare.main(arguments)
    assert says in str(caught.value)


@pytest.mark.parametrize("augment", [("flip",), ("random_resized_crop", "flip")])
def test_training_sees_the_same_batches(augment, photos, tmp_path):
    prepare.pack(str(photos), "pets", str(tmp_path))
    runs = []
    for name in (photos, "pets"):
        config = micro.config(name)
        changes = {"data_dir": str(tmp_path), "image_size": 16, "augment": augment, "workers": 2, "input": "host"}
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, **changes))
        runs.append(build(config, jax.devices()[:1]))
    folder, packed = runs
    assert packed.fingerprint == folder.fingerprint
    assert packed.metadata()["preprocessing"] == folder.metadata()["preprocessing"]
    one, other = folder.train.training_batches(), packed.train.training_batches()
    for step in range(4):  # across an epoch's end
        jax.tree.map(np.testing.assert_array_equal, one(step), other(step))
    for one, other in zip(folder.test.evaluation_batches(), packed.test.evaluation_batches(), strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)


def test_an_undivided_folder_is_divided_as_in_training(photos, tmp_path):
    done = prepare.pack(str(photos / "train"), "pets", str(tmp_path))
    assert {*done["examples"]} == {"train", "test"}
    for split in done["examples"]:
        assert load_split("pets", split, str(tmp_path)).fingerprint() == load_folder(photos / "train", split).fingerprint()


def test_large_splits_are_sharded_in_order(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD_BYTES", 5000)
    prepare.pack(str(photos), "pets", str(tmp_path))
    shards = [path for path in (tmp_path / "pets" / "1.0.0").iterdir() if "-train." in path.name]
    assert 2 < len(shards) < 20
    assert load_split("pets", "train", str(tmp_path)).fingerprint() == load_folder(photos, "train").fingerprint()


def test_packing_again_does_nothing_or_is_refused(photos, tmp_path, capsys):
    first = prepare.pack(str(photos), "pets", str(tmp_path / "data"))
    before = files_below(tmp_path / "data")
    assert prepare.pack(str(photos), "pets", str(tmp_path / "data")) == first
    assert "pets/1.0.0 is already prepared in" in capsys.readouterr().err
    (photos / "val" / "cat" / "1.jpg").unlink()
    with pytest.raises(ConfigError, match="must hold the same images or none, but its val differs"):
        prepare.pack(str(photos), "pets", str(tmp_path / "data"))
    assert files_below(tmp_path / "data") == before


def test_unreadable_files_are_named_or_left_out(photos, tmp_path, capsys):
    (photos / "test" / "cat" / "0.jpg").write_bytes(b"<html>")
    with pytest.raises(InputError, match=r"1 of 6 files in .*test cannot be read; the first: .*/cat/0.jpg must be a readable"):
        prepare.pack(str(photos), "pets", str(tmp_path / "data"))
    assert not (tmp_path / "data").exists()
    with pytest.raises(DataError, match=r"more than config.data.max_unreadable_fraction"):
        prepare.pack(str(photos), "pets", str(tmp_path / "data"), skip=True)
    for index in range(1200):  # the limit is one in a thousand
        (photos / "test" / "cat" / f"copy{index}.jpg").symlink_to(photos / "test" / "cat" / "1.jpg")
    assert prepare.pack(str(photos), "pets", str(tmp_path / "data"), skip=True)["examples"]["test"] == 1205
    assert "cat/0.jpg must be a readable" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["cifar10", "digits", "Pets", "my pets", "../pets", "1st"])
def test_names_that_cannot_be_used_are_refused(name, photos, tmp_path):
    with pytest.raises(ConfigError, match="--name must be lower-case letters, digits and underscores"):
        prepare.pack(str(photos), name, str(tmp_path / "data"))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("train/ cat2 ", "the name of a class must be printable, without outer spaces, got the folder ' cat2 '"),
        ("train/two\nlines", "the name of a class must be printable"),
        ("val-2/cat", "the name of a split must be letters, digits and underscores, got the folder 'val-2'"),
    ],
)
def test_folders_that_tfds_cannot_keep_are_refused(folder, message, photos, tmp_path):
    save(photos / folder / "0.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match=message):
        prepare.pack(str(photos), "pets", str(tmp_path / "data"))


def test_an_empty_split_is_refused(photos, tmp_path):
    (photos / "later" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match=r"split 'later' of .* must hold at least one image"):
        prepare.pack(str(photos), "pets", str(tmp_path))


def test_a_full_disk_leaves_nothing_behind(photos, tmp_path, monkeypatch):
    def fail(path, examples):
        path.write_bytes(b"half")
        raise RuntimeError("write() failed: No space left on device")

    monkeypatch.setattr(packing.ArrayRecordFileAdapter, "write_examples", fail)
    with pytest.raises(StorageError, match=r"cannot write .*: write\(\) failed: No space left on device; check free space"):
        prepare.pack(str(photos), "pets", str(tmp_path / "data"))
    assert not files_below(tmp_path / "data")


# ---- TFRecord


@pytest.mark.parametrize(
    ("data", "crc"), [(b"", 0), (b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)]
)
def test_checksums_are_those_of_rfc_3720(data, crc):
    assert crc32c(data) == crc


def test_checksums_of_all_lengths_agree_with_another_implementation():
    data = np.random.default_rng(0).bytes(4099)
    for length in (*range(70), 1023, 1024, 1025, 4099):
        assert masked_crc32c(data[:length]) == struct.pack("<I", slow_masked_crc32c(data[:length])), length


def test_files_of_tensorflow_are_read(tmp_path):
    (tmp_path / "golden").write_bytes(OF_TENSORFLOW)
    assert list(records(tmp_path / "golden")) == [b"", b"a", bytes(range(45))]


def test_any_damage_is_found(tmp_path):
    whole = [b"", b"a", bytes(range(45))]
    for length in range(len(OF_TENSORFLOW)):
        (tmp_path / "cut").write_bytes(OF_TENSORFLOW[:length])
        if length in (0, 16, 33):  # between records: only the count can tell
            assert list(records(tmp_path / "cut")) == whole[: (0, 16, 33).index(length)]
            continue
        with pytest.raises(DataError, match="cut must be a whole TFRecord file, but it ends within record"):
            list(records(tmp_path / "cut"))
    for position in range(len(OF_TENSORFLOW)):
        changed = bytearray(OF_TENSORFLOW)
        changed[position] ^= 0x10
        (tmp_path / "changed").write_bytes(changed)
        with pytest.raises(DataError, match="wrong checksum"):
            list(records(tmp_path / "changed"))


COUNTS = {"train": (5, 4, 0), "test": (2,)}


def example(split, index):
    """A serialised tf.train.Example, written by hand: a 6 x (6 + index) PNG and its label."""
    png = io.BytesIO()
    pixels = np.random.default_rng([len(split), index]).integers(0, 255, (6, 6 + index, 3), np.uint8)
    Image.fromarray(pixels).save(png, "PNG")
    features = tfds.features.FeaturesDict(FEATURES)
    png.seek(0)
    encoded = features.encode_example({"image": png, "label": index % 2})
    return tfds.core.ExampleSerializer(features.get_serialized_info()).serialize_example(encoded)


FEATURES = {"image": tfds.features.Image(shape=(None, None, 3)), "label": tfds.features.ClassLabel(names=["a", "b"])}


def tfrecord(examples):
    def framed(data):
        length = struct.pack("<Q", len(data))
        return b"".join(
            (length, struct.pack("<I", slow_masked_crc32c(length)), data, struct.pack("<I", slow_masked_crc32c(data)))
        )

    return b"".join(map(framed, examples))


@pytest.fixture
def old(tmp_path):
    """The folder of a data set that was prepared as TFRecord, by a builder that is not at hand."""
    folder = tmp_path / "data" / "old_set" / "1.2.0"
    folder.mkdir(parents=True)
    tfds.features.FeaturesDict(FEATURES).save_config(folder)
    splits = []
    for split, counts in COUNTS.items():
        start = 0
        for number, count in enumerate(counts):
            name = f"old_set-{split}.tfrecord-{number:05d}-of-{len(counts):05d}"
            (folder / name).write_bytes(tfrecord([example(split, index) for index in range(start, start + count)]))
            start += count
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        splits.append({"name": split, "shardLengths": [*map(str, counts)], "numBytes": "1", "filepathTemplate": template})
    about = {"name": "old_set", "version": "1.2.0", "fileFormat": "tfrecord", "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(about))
    return folder


def convert(folder):
    return prepare.main(["old_set", "--from_tfrecord", f"--data_dir={folder.parents[1]}"])


def test_tfrecords_are_converted(old, capsys):
    data_dir, before = str(old.parents[1]), files_below(old)
    with pytest.raises(ConfigError, match=r"holds tfrecord; run python -m resflax.prepare old_set --from_tfrecord"):
        load_split("old_set", "train", data_dir)
    with pytest.raises(ConfigError, match="as tfrecord, which cannot be read at random; convert it with --from_tfrecord"):
        prepare.prepare("old_set", data_dir)
    assert convert(old) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last == {"name": "old_set", "version": "1.2.0", "folder": str(old), "examples": {"train": 9, "test": 2}}
    for split, counts in COUNTS.items():
        images = load_split("old_set", split, data_dir)
        assert images.labels.tolist() == [index % 2 for index in range(sum(counts))]
        assert [images.open(index).width for index in range(len(images))] == [6 + index for index in range(sum(counts))]
    after = files_below(old)
    assert {name for name in after if ".tfrecord-" in name} < before.keys()
    assert all(after[name] == content for name, content in before.items() if name != "dataset_info.json")
    assert [path.name for path in old.parent.iterdir()] == ["1.2.0"]
    assert convert(old) == 0
    assert "old_set/1.2.0 is already prepared in" in capsys.readouterr().err
    assert files_below(old) == after


def shorten(path):
    path.write_bytes(tfrecord(list(records(path))[:-1]))


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda path: path.unlink(),
            "train.tfrecord-00001-of-00003 must be there, as dataset_info.json says, but it is missing",
        ),
        (lambda path: path.write_bytes(b""), "train.tfrecord-00001-of-00003 must hold 4 examples, .* got 0"),
        (shorten, "train.tfrecord-00001-of-00003 must hold 4 examples, as dataset_info.json says, got 3"),
        (lambda path: path.write_bytes(path.read_bytes() * 2), "train.tfrecord-00001-of-00003 must hold 4 examples, .* got 8"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-9]),
            "train.tfrecord-00001-of-00003 must be a whole .* within record 3",
        ),
        (flip_a_bit, "train.tfrecord-00001-of-00003 must be a whole TFRecord file, but record 3 has a wrong checksum"),
        (
            lambda path: path.with_name("old_set-train.tfrecord-00003-of-00004").write_bytes(b""),
            "dataset_info.json must list all shards, but not .*train.tfrecord-00003-of-00004",
        ),
    ],
)
def test_damaged_shards_are_named_and_nothing_is_added(damage, message, old):
    damage(old / "old_set-train.tfrecord-00001-of-00003")
    before = files_below(old.parent)
    with pytest.raises(DataError, match=message):
        convert(old)
    assert files_below(old.parent) == before
    assert [path.name for path in old.parent.iterdir()] == ["1.2.0"]


def test_metadata_that_cannot_be_read_are_named(old):
    (old / "dataset_info.json").write_text('{"name": ')
    with pytest.raises(DataError, match=r"the metadata of old_set in .* must be as they were prepared"):
        convert(old)


# ---- downloading


@pytest.fixture
def with_tensorflow(monkeypatch):
    """Makes the command believe that TensorFlow is installed."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "tensorflow" or find_spec(name))


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(tfds.core.DatasetInfo, "initialize_from_bucket", lambda self: None)


def test_without_tensorflow_nothing_is_downloaded(offline, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs TensorFlow .* not installed; run pip install 'resflax\[prepare\]'"):
        prepare.prepare("cifar10", str(tmp_path / "data"))
    assert not (tmp_path / "data").exists()


def test_what_needs_no_tensorflow_is_prepared(tmp_path, capsys):
    for _ in range(2):
        assert prepare.main(["digits", f"--data_dir={tmp_path}"]) == 0
        out = capsys.readouterr()
        [line] = out.out.splitlines()
        assert json.loads(line)["examples"] == {"train": 1437, "test": 360}
    assert out.err == f"digits/1.0.0 is already prepared in {tmp_path}/digits/1.0.0\n"


def test_an_npz_is_the_data_set(tmp_path, capsys):
    file = tmp_path / "digits.npz"
    assert prepare.main(["digits", f"--data_dir={tmp_path}", f"--npz={file}"]) == 0
    assert json.loads(capsys.readouterr().out)["npz"] == str(file)
    for split in ("train", "test"):
        assert load_split(str(file), split).fingerprint() == load_split("digits", split, str(tmp_path)).fingerprint()


def test_what_is_no_npz_is_refused(photos, tmp_path):
    with pytest.raises(ConfigError, match=r"must name a file that ends in \.npz"):
        prepare.main(["digits", f"--data_dir={tmp_path}", f"--npz={tmp_path / 'digits.bin'}"])
    with pytest.raises(ConfigError, match="needs images of one size"):
        prepare.main([str(photos), "--name=flowers", f"--data_dir={tmp_path}", f"--npz={tmp_path / 'flowers.npz'}"])


@pytest.mark.parametrize(
    ("name", "error", "code", "message"),
    [
        ("mnist", NoNetwork("no route to host"), 75, "cannot download mnist/3.0.1: no route to host; check the network"),
        ("mnist", tfds.download.DownloadError("HTTP code: 503."), 75, "cannot download mnist/3.0.1: HTTP code: 503; check"),
        ("mnist", preparing.NonMatchingChecksumError("got 1 byte"), 65, "must be what tfds expects, but got 1 byte; run"),
        ("mnist", OSError(28, "No space left on device"), 74, "No space left on device; check the path and free space"),
        ("mnist", ImportError("no scipy"), 2, "needs a package that cannot be imported: no scipy; install it"),
        ("mnist", KeyError("x"), 65, "tfds cannot prepare mnist/3.0.1: KeyError: 'x'; prepare another version"),
        (
            "imagenet2012_subset/1pct",
            AssertionError("Manual directory does not exist"),
            2,
            r"must be downloaded by hand into manual_dir, which is .*/data/downloads/manual: .* ILSVRC2012_img_train.tar",
        ),
    ],
)
def test_failures_of_a_download_are_explained(name, error, code, message, offline, with_tensorflow, tmp_path, monkeypatch):
    def fail(self, **_):
        raise error

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(preparing.ResflaxError, match=message) as raised:
        prepare.prepare(name, str(tmp_path / "data"))
    assert raised.value.exit_code == code


def test_a_folder_without_metadata_is_not_taken_for_prepared(offline, tmp_path):
    (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"must hold mnist/3.0.1 or not exist, but it has no dataset_info.json; remove it"):
        prepare.prepare("mnist", str(tmp_path))
    with pytest.raises(ConfigError, match=r"there is none in .*; leave it out"):
        prepare.prepare("mnist", str(tmp_path), from_tfrecord=True)


# ---- the command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ciffar10"], "NAME must be a tfds data set or a folder of images, got 'ciffar10'; did you mean cifar10"),
        (["emnist/foo"], "got 'emnist/foo', .* configurations of emnist: byclass, bymerge, balanced"),
        (["mnist:9.9.9"], "got 'mnist:9.9.9', of which tfds has no such version"),
        (["mnist/"], "must read NAME"),
        (["photos"], "--name must say what the folder photos is packed as"),
        (["nowhere", "--name=pets"], "there is no folder nowhere; correct the path"),
        (["photos", "--name=pets", "--from_tfrecord"], "give one of them"),
        (["mnist", "--unreadable=skip"], "needs --name"),
        (["mnist", "--data_dir=gs://bucket"], "--data_dir must be a local folder"),
    ],
)
def test_usage_errors(arguments, message, offline, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    with pytest.raises(ConfigError, match=message):
        prepare.main(arguments)


def test_the_command_as_a_newcomer_runs_it(photos, command, tmp_path):
    child = command("prepare", "photos", "--name=pets", "--data_dir=data")
    assert (child.returncode, child.stderr) == (0, "")
    assert json.loads(child.stdout)["examples"] == {"train": 20, "test": 6, "val": 4}
    child = command("prepare", "photos", "--name=mnist")
    assert (child.returncode, child.stdout) == (2, "")
    assert child.stderr.startswith("resflax: --name must be")
    assert child.stderr.count("\n") == 1
