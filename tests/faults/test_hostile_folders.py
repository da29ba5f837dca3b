"""Names and folders that somebody else made: arguments of `predict`, checkpoints, and names that would leave a folder."""

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from resflax import prepare
from resflax.build.restore import open_run
from resflax.data.arrays import load_split
from resflax.errors import ConfigError, DataError, InputError, ResflaxError, StorageError
from resflax.training.checkpoint_files import manifest_digest
from tests import micro
from tests.conftest import ROOT
from tests.faults.hostile_weights import weight_file

# ---- arguments of predict


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    (folder / "network.safetensors").write_bytes(weight_file())
    for name in ("good.png", "two\nlines \x1b[31m.png", os.fsdecode(b"not \xff utf-8.png")):
        Image.new("RGB", (8, 8), (200, 10, 10)).save(folder / name)
    (folder / "empty").mkdir()
    (folder / "within").mkdir()
    (folder / "within/around").symlink_to("..")
    (folder / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "pipe.png")
    return folder


def predict(folder, *arguments, encoding="utf-8", **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "resflax.predict", "--checkpoint=network.safetensors", *arguments]
    options = {"stdout": subprocess.PIPE, **options}
    return subprocess.run(command, cwd=folder, env=environment, stderr=subprocess.PIPE, timeout=300, **options)


# arguments -> (exit code, what the one line on stderr says)
ALONE = {
    "nothing": ([], 2, "the following arguments are required: PATH"),
    "an empty folder": (["empty"], 3, "empty must hold images"),
    "a pattern without a match": (["*.bmp"], 3, "*.bmp must hold images"),
    "a pattern of many stars": (["**/" * 200 + "*.bmp"], 3, "must hold images"),
    "an empty name": ([""], 3, "must be an image file, but it is a folder or a device"),
}
TOGETHER = {
    "x" * 10_000 + ".png": "File name too long",
    "y/" * 5_000: "File name too long",
    "pipe.png": "it is a folder or a device",
    "/dev/zero": "it is a folder or a device",
    "loop.png": "Too many levels of symbolic links",
    "missing.png": "No such file",
    "network.safetensors": "it is none",
    "good.png/below.png": "Not a directory",
}


@pytest.mark.parametrize("case", ALONE)
def test_arguments_that_name_no_image(case, images):
    arguments, code, says = ALONE[case]
    child = predict(images, *arguments)
    assert child.returncode == code, child.stderr
    assert child.stderr.count(b"\n") == 1
    assert says in child.stderr.decode()
    assert child.stdout == b""


@pytest.mark.parametrize("encoding", ["utf-8", pytest.param("ascii", marks=pytest.mark.faults)])
def test_arguments_that_can_only_be_refused_one_by_one(encoding, images):
    """With names that are no text, and names of several lines, in between: each has one line."""
    strange = [name for name in os.listdir(images) if "lines" in name or "utf-8" in name]
    child = predict(images, *TOGETHER, "good.png", "good.png", *strange, encoding=encoding)
    assert child.returncode == 3
    lines = child.stderr.decode().splitlines()
    assert len(lines) == len(TOGETHER)
    for line, (name, says) in zip(lines, TOGETHER.items(), strict=True):
        assert line.startswith("resflax: ")
        assert says in line, name
        assert len(line) < 2100
    shown = child.stdout.decode()
    assert shown.count("\n") == 4
    assert "\x1b" not in shown
    assert {line.split("  ")[1] for line in shown.splitlines()} == {shown.splitlines()[0].split("  ")[1]}  # duplicates too


@pytest.mark.faults
def test_a_reader_that_goes_away(images):
    read, write = os.pipe()
    os.close(read)
    child = predict(images, "good.png", stdout=write)
    os.close(write)
    assert (child.returncode, child.stderr) == (0, b"")


@pytest.mark.faults
def test_a_link_to_a_folder_above_is_not_followed_for_ever(images):
    child = predict(images, "within")
    assert child.returncode in (0, 3)
    assert child.stdout.count(b"\n") <= 3


# ---- checkpoints


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workdir with a checkpoint, in whose files nothing but their content is checked."""
    from resflax.train import train_and_evaluate
    from tests.micro import config, write_npz

    folder = tmp_path_factory.mktemp("trained")
    optim = micro.OptimConfig(weight_decay=1e-3)
    group = micro.BatchNormConfig(group_size=1)
    settings = config(write_npz(folder), total_steps=2, eval_every_steps=0, optim=optim, batch_norm=group)
    settings = micro.dataclasses.replace(settings, checkpoint=micro.CheckpointConfig())
    train_and_evaluate(settings, str(folder / "run"))
    return folder / "run"


def signed(step, change):
    """Edits the manifest and signs it again, as anybody can."""
    path = step / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps({**manifest, "sha256": manifest_digest(manifest)}))


def edited(step, change):
    """Edits the metadata, and the manifest so that it agrees."""
    path = step / "metadata.json"
    metadata = json.loads(path.read_text())
    text = change(metadata) or json.dumps(metadata)
    path.write_text(text)
    about = {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    signed(step, lambda manifest: manifest["files"].update({"metadata.json": about}))


def data_file(step):
    return max((path for path in (step / "state").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def link(step):
    path = data_file(step)
    path.rename(step.parent / "elsewhere")
    path.symlink_to(step.parent / "elsewhere")


def loops(step):
    for name in ("a", "b"):
        (step / name).symlink_to(step)


def pipe(step):
    data_file(step).unlink()
    os.mkfifo(step / "pipe")


def sparse(step):
    with (step / "manifest.json").open("ab") as file:
        file.truncate(2**40)


def wider(metadata):
    metadata["config"]["model"]["kwargs"]["width"] = 2**20


def huge(step):
    """A network of terabytes, in the metadata and in the tree."""
    edited(step, wider)
    run = step.parents[1]
    with pytest.raises(StorageError) as refused:
        open_run(str(run))
    assert "does not fit" in str(refused.value)
    signed(
        step,
        lambda manifest: manifest["tree"].update(
            {key: text.replace("4]", f"{2**20}]") for key, text in manifest["tree"].items()}
        ),
    )


DAMAGES = {
    "a path outside": lambda step: signed(
        step, lambda manifest: manifest["files"].update({"../../../etc/passwd": {"size": 1, "sha256": ""}})
    ),
    "an absolute path": lambda step: signed(
        step, lambda manifest: manifest["files"].update({"/etc/passwd": {"size": 1, "sha256": ""}})
    ),
    "files that are no table": lambda step: signed(step, lambda manifest: manifest.update(files=[1])),
    "a file without a size": lambda step: signed(step, lambda manifest: manifest["files"].update(x={})),
    "no tree": lambda step: signed(step, lambda manifest: manifest.pop("tree")),
    "a tree that is none": lambda step: signed(step, lambda manifest: manifest.update(tree={"x": 1})),
    "an unknown type": lambda step: signed(
        step, lambda manifest: manifest.update(tree={key: "float7[1]" for key in manifest["tree"]})
    ),
    "a linked file": link,
    "links around": loops,
    "a pipe": pipe,
    "a manifest of a terabyte": sparse,
    "a deep manifest": lambda step: (step / "manifest.json").write_text("[" * 10**6),
    "a manifest of no text": lambda step: (step / "manifest.json").write_bytes(b"\xff" * 100),
    "deep metadata": lambda step: edited(step, lambda metadata: "[" * 10**6),
    "metadata that are a list": lambda step: edited(step, lambda metadata: "[1]"),
    "no configuration": lambda step: edited(step, lambda metadata: json.dumps({**metadata, "config": None})),
    "a configuration of another kind": lambda step: edited(step, lambda metadata: metadata["config"].update(optim=[1])),
    "an infinite width": lambda step: edited(
        step, lambda metadata: metadata["config"]["model"].update(kwargs={"width": 10**30})
    ),
    "a width of text": lambda step: edited(step, lambda metadata: metadata["config"]["model"].update(kwargs={"width": "4"})),
    "no such model": lambda step: edited(step, lambda metadata: metadata["config"]["model"].update(name="../../x")),
    "images of terabytes": lambda step: edited(
        step, lambda metadata: metadata["preprocessing"].update(image_size=[10**6, 10**6])
    ),
    "no classes": lambda step: edited(step, lambda metadata: metadata.update(class_names=7)),
    "channels without end": lambda step: edited(step, lambda metadata: metadata.update(source_shape=[8, 8, 10**12])),
    "a huge network": huge,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_hostile_checkpoint_is_refused(name, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (step,) = (path for path in (run / "checkpoints").iterdir() if path.is_dir())
    DAMAGES[name](step)
    with pytest.raises((StorageError, ConfigError)) as refused:
        open_run(str(run), int(step.name))
    assert "\n" not in str(refused.value)
    with pytest.raises(ResflaxError):
        open_run(str(run))


def test_the_same_checkpoint_unchanged_is_read(trained):
    assert len(open_run(str(trained)).class_names) == 5


# ---- names that would leave a folder


@pytest.mark.parametrize(
    "name", ["../x", "/tmp/x", "a/b", "..", ".", "", "x\n", "X", "ünï", "a" * 300, "x y", "-x", "x/../../y"]
)
def test_a_packed_data_set_stays_in_its_folder(name, tmp_path):
    photos, data = tmp_path / "photos", tmp_path / "data"
    for kind in ("cat", "dog"):
        (photos / "train" / kind).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(photos / "train" / kind / "0.png")
    data.mkdir()
    before = set(tmp_path.rglob("*"))
    with pytest.raises((ConfigError, StorageError)) as refused:
        prepare.pack(str(photos), name, str(data))
    assert "\n" not in str(refused.value)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["..", "a\nb", " a", "a\x1b[2J"])
def test_folders_of_classes_with_odd_names_are_refused_or_named(name, tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "train/cat/0.png")
    if name == "..":
        (tmp_path / "train/out").symlink_to("..")  # a class that is all of the folder
        with pytest.raises(ConfigError, match="has no split 'test'"):
            load_split(str(tmp_path), "test")
        return
    (tmp_path / "train" / name).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "train" / name / "0.png")
    assert name in load_split(str(tmp_path), "train").class_names
    with pytest.raises(DataError, match="must be printable, without outer spaces") as refused:
        prepare.pack(str(tmp_path), "photos", str(tmp_path / "data"))
    assert "\x1b" not in str(refused.value)
    assert not any((tmp_path / "data").glob("*/*"))


# ---- labels


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.array([0, -1]), "labels must lie in 0.."),
        (np.array([0, 2**20]), "labels must lie in 0.."),
        (np.array([0, 2**32]), "labels must lie in 0.."),  # 0 in 32 bits
        (np.array([0, 2**64 - 1], np.uint64), "labels must lie in 0.."),
        (np.array([0.0, 1.0]), "labels must be integers, got float64"),
        (np.array(["0", "1"]), "labels must be integers"),
        (np.array([0]), "labels must be int32[2]"),
        (np.array([[0, 1]]), "labels must be int32[2]"),
        (None, "train_labels"),
    ],
)
def test_labels_that_are_none(labels, says, named, tmp_path):
    arrays = {"train_images": np.zeros((2, 8, 8, 3), np.uint8)}
    arrays |= {"class_names": np.array(["a", "b"])} if named else {}
    np.savez(tmp_path / "x.npz", **arrays, **({} if labels is None else {"train_labels": labels}))
    with pytest.raises(DataError) as refused:
        load_split(str(tmp_path / "x.npz"), "train")
    assert says in str(refused.value)


def test_a_tfrecord_of_any_length_is_not_believed(tmp_path):
    """A record that says it has 2 ** 62 bytes, with a true checksum of that number."""
    from resflax.data.tfrecord import masked_crc32c, records

    length = struct.pack("<Q", 2**62)
    (tmp_path / "x").write_bytes(length + masked_crc32c(length) + bytes(100))
    with pytest.raises((DataError, InputError), match="ends within record 0"):
        list(records(tmp_path / "x"))
