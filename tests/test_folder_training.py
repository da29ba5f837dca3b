"""A folder of photographs as a user has it: trained on as it is, evaluated, predicted, resumed; and damaged files in it."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from resflax.files import read_json, read_lines
from tests.conftest import ROOT

STEPS = 36
CLASSES = ("china", "flower")
SETTINGS = (
    "--config=quickstart",
    "--config.data.image_size=32",
    "--config.data.augment=random_resized_crop,flip",
    "--config.data.batch_size=16",
    "--config.data.eval_batch_size=16",
    "--config.batch_norm.group_size=none",
    "--config.model.name=cifar_resnet8",
    "--config.model.kwargs.width=8",
    f"--config.total_steps={STEPS}",
    "--config.log_every_steps=6",
    "--config.eval_every_steps=12",
    "--config.checkpoint.every_steps=12",
)
TRAIN, TEST = 24, 9  # images of each class


def write_photographs(root):
    """Patches of two photographs, of many sizes."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    for name, pixels in zip(CLASSES, load_sample_images().images, strict=True):
        for split, count in (("train", TRAIN), ("test", TEST)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = rng.integers(24, 90, 2)
                top, left = rng.integers(0, 427 - height), rng.integers(0, 640 - width)
                patch = Image.fromarray(pixels[top : top + height, left : left + width])
                patch.save(folder / f"{number:02d}.jpg", quality=95)
    return root


def run(environment, folder, name, *arguments):
    command = [sys.executable, "-m", f"resflax.{name}", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="module")
def trained(photographs, tmp_path_factory):
    """A finished workdir."""
    import os

    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    workdir = tmp_path_factory.mktemp("trained") / "run"
    done = run(environment, workdir.parent, "train", *SETTINGS, f"--config.data.name={photographs}", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture
def damaged(photographs, tmp_path):
    """Makes a copy of the photographs with a damaged file; returns its root and the file."""

    def make(split):
        root = tmp_path / "damaged"
        shutil.copytree(photographs, root)
        path = root / split / "flower" / "05.jpg"
        path.write_bytes(path.read_bytes()[:-300])
        return root, path

    return make


def sentence(child, code):
    """The one line on stderr of a command that was refused."""
    assert child.returncode == code, child.stderr
    assert "Traceback" not in child.stderr
    last = child.stderr.splitlines()[-1]
    assert last.startswith("resflax: ")
    assert child.stderr.count("resflax: ") == 1
    return last


def losses(workdir):
    return [(row["step"], row["train_loss"]) for row in read_lines(workdir / "metrics.jsonl") if "train_loss" in row]


def test_training(trained):
    record = read_json(trained / "result.json")
    assert (record["steps"], record["images_scored"], record["images_skipped"]) == (STEPS, 2 * TEST, 0)
    assert record["test_accuracy"] > 0.7  # a blue-grey temple and a red flower
    assert len(record["first_losses"]) > 0
    assert not (trained / "skipped.jsonl").exists()
    assert read_json(trained / "config.json")["data"]["augment"] == ["random_resized_crop", "flip"]


def test_evaluation_gives_the_result_again(trained, command):
    done = command("evaluate", f"--workdir={trained}")
    assert done.returncode == 0, done.stderr
    found, record = json.loads(done.stdout.splitlines()[-1]), read_json(trained / "result.json")
    assert (found["split"], found["step"], found["images_scored"]) == ("test", STEPS, 2 * TEST)
    assert found["accuracy"] == record["test_accuracy"]
    assert found["loss"] == pytest.approx(record["test_loss"], rel=1e-6)


def test_prediction_agrees_with_evaluation(trained, photographs, command):
    done = command("predict", f"--workdir={trained}", "--json", photographs / "test")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    truth = [row["path"].split("/")[-2] for row in rows]
    assert sorted(set(truth)) == list(CLASSES)
    given = [{one["class"]: one["probability"] for one in row["predictions"]} for row in rows]
    record = read_json(trained / "result.json")
    correct = [row["predictions"][0]["class"] == name for row, name in zip(rows, truth, strict=True)]
    assert len(rows) == 2 * TEST
    assert sum(correct) / len(rows) == record["test_accuracy"]
    loss = -np.mean([np.log(one[name]) for one, name in zip(given, truth, strict=True)])
    assert loss == pytest.approx(record["test_loss"], rel=1e-4)


def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(trained, command, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    (workdir / "result.json").unlink()
    shutil.rmtree(workdir / "checkpoints" / str(STEPS))
    name = read_json(trained / "config.json")["data"]["name"]
    done = command("train", *SETTINGS, f"--config.data.name={name}", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert "going on from step 24" in done.stderr
    again, record = read_json(workdir / "result.json"), read_json(trained / "result.json")
    for key in ("loss_digest", "test_loss", "test_accuracy", "dataset_fingerprint", "config_hash"):
        assert again[key] == record[key], key
    assert losses(workdir) == losses(trained)


def test_the_number_of_workers_changes_nothing(trained, photographs, command, tmp_path):
    arguments = (*SETTINGS, f"--config.data.name={photographs}", f"--workdir={tmp_path / 'run'}")
    done = command("train", *arguments, "--config.data.workers=0")
    assert done.returncode == 0, done.stderr
    again, record = read_json(tmp_path / "run" / "result.json"), read_json(trained / "result.json")
    for key in ("loss_digest", "test_loss", "dataset_fingerprint"):
        assert again[key] == record[key], key


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_damaged_file_stops_the_run_and_is_named(split, damaged, command):
    root, path = damaged(split)
    done = command("train", *SETTINGS, f"--config.data.name={root}", "--workdir=run")
    assert f"resflax: {path} must be a readable JPEG, PNG or WebP image, but: " in sentence(done, 3)


def test_damaged_files_are_left_out_listed_and_counted(damaged, command, tmp_path):
    root, path = damaged("train")
    other = root / "test" / "china" / "02.jpg"
    other.write_bytes(b"<html>404</html>")
    skip = ("--config.data.unreadable=skip", "--config.data.max_unreadable_fraction=0.1")
    done = command("train", *SETTINGS, f"--config.data.name={root}", *skip, "--workdir=run")
    assert done.returncode == 0, done.stderr
    assert "2 unreadable files are left out" in done.stderr
    listed = read_lines(tmp_path / "run" / "skipped.jsonl")
    assert [one["path"] for one in listed] == [str(path), str(other)]
    assert all(one["reason"].startswith(f"{one['path']} must be a readable") for one in listed)
    record = read_json(tmp_path / "run" / "result.json")
    assert (record["images_skipped"], record["images_scored"]) == (2, 2 * TEST - 1)
    assert record["epochs"] == pytest.approx(STEPS * 16 / (2 * TRAIN - 1))
    scored = command("evaluate", "--workdir=run")
    assert scored.returncode == 0, scored.stderr
    assert json.loads(scored.stdout.splitlines()[-1])["accuracy"] == record["test_accuracy"]


def test_too_many_damaged_files_stop_the_run(damaged, command, tmp_path):
    root, path = damaged("train")
    done = command("train", *SETTINGS, f"--config.data.name={root}", "--config.data.unreadable=skip", "--workdir=run")
    message = sentence(done, 65)
    assert f"1 of {2 * TRAIN} files in {root}/train cannot be read" in message
    assert "config.data.max_unreadable_fraction=0.001" in message
    assert str(path) in message
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("--config.data.image_size=none", "config.data.image_size must be set for"),
        ("--config.data.input=resident", "random_resized_crop needs the files, got config.data.input=resident"),
        ("--config.data.eval_split=val", "has no split 'val'; it has test, train"),
    ],
)
def test_settings_that_do_not_fit_a_folder_are_refused(change, says, photographs, command):
    done = command("train", *SETTINGS, f"--config.data.name={photographs}", change, "--workdir=run")
    assert says in sentence(done, 2)


def test_random_resized_crop_of_a_data_set_of_one_shape_is_refused(command):
    done = command("train", "--config=quickstart", "--config.data.augment=random_resized_crop", "--workdir=run")
    assert "random_resized_crop is for image files" in sentence(done, 2)
