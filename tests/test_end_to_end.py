"""The quickstart as a user runs it, shortened; and what it leaves behind (DESIGN, section 5)."""

import json

import numpy as np
import pytest

from resflax.files import read_lines
from tests.events import read_events

SHORT = ("--config.total_steps=60", "--config.log_every_steps=20", "--config.eval_every_steps=30")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    import os
    import subprocess
    import sys

    from tests.conftest import ROOT

    folder = tmp_path_factory.mktemp("quickstart")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("XLA_FLAGS")
    command = [sys.executable, "-m", "resflax.train", *SHORT]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "quickstart-resnet", done


def test_files(trained):
    workdir, _ = trained
    for name in ("config.json", "metrics.jsonl", "result.json", "figures/curves.png", "figures/confusion.png"):
        assert (workdir / name).stat().st_size > 100, name
    assert (workdir / "checkpoints" / "60" / "manifest.json").exists()
    assert list(workdir.glob("events.out.tfevents.*"))


def test_metrics(trained):
    workdir, _ = trained
    rows = read_lines(workdir / "metrics.jsonl")
    assert [row["step"] for row in rows] == [20, 30, 40, 60]
    assert {"train_loss", "train_accuracy", "learning_rate", "images_per_second"} <= rows[0].keys()
    assert {"test_loss", "test_accuracy", "test_top5_accuracy"} <= rows[1].keys()
    assert {"train_loss", "test_loss"} <= rows[-1].keys()
    assert rows[-1]["epoch"] == pytest.approx(60 * 64 / 1437, abs=1e-3)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


def test_tensorboard_holds_the_same_scalars(trained):
    workdir, _ = trained
    rows = read_lines(workdir / "metrics.jsonl")
    lines = {(row["step"], name): value for row in rows for name, value in row.items() if name not in ("step", "epoch")}
    assert read_events(workdir) == {key: [np.float32(value)] for key, value in lines.items()}


RECORD = {
    "model", "parameters", "dataset", "dataset_fingerprint", "split", "images_scored", "test_accuracy",
    "test_top5_accuracy", "test_loss", "steps", "epochs", "seed", "train_seconds", "wall_seconds", "images_per_second",
    "evaluation", "loss_digest", "device", "device_count", "process_count", "versions", "git_commit", "config_hash",
    "config",
}  # fmt: skip
EVALUATION = {"resolution", "crop_ratio", "interpolation", "decoder", "views", "weights", "batch_norm"}


def test_record(trained):
    workdir, done = trained
    record = json.loads((workdir / "result.json").read_text())
    assert record.keys() >= RECORD
    assert record["evaluation"].keys() == EVALUATION
    assert (record["images_scored"], record["steps"], record["device_count"]) == (360, 60, 1)
    assert record["test_accuracy"] > 0.5
    assert record["config"] == json.loads((workdir / "config.json").read_text())
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed["test_accuracy"] == record["test_accuracy"]


def test_no_live_bar_where_stderr_is_no_terminal(trained):
    _, done = trained
    assert "\r" not in done.stderr
    assert "\x1b" not in done.stderr
    assert "step 60/60" in done.stderr


def test_evaluate_agrees_with_training(trained, command):
    workdir, _ = trained
    done = command("evaluate", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    record = json.loads((workdir / "result.json").read_text())
    assert (result["accuracy"], result["loss"]) == (record["test_accuracy"], record["test_loss"])
    assert result["images_scored"] == 360
    other = json.loads(command("evaluate", f"--workdir={workdir}", "--split=train").stdout.splitlines()[-1])
    assert other["images_scored"] == 1437


def test_predict_agrees_with_evaluation(trained, command, tmp_path):
    from PIL import Image

    from resflax.data.arrays import load_split

    workdir, _ = trained
    test = load_split("digits", "test")
    for index, image in enumerate(test.images):
        Image.fromarray(image[..., 0]).save(tmp_path / f"{index:03d}.png")
    done = command("predict", f"--workdir={workdir}", "--json", "--top=10", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    right = sum(row["predictions"][0]["class"] == str(label) for row, label in zip(rows, test.labels, strict=True))
    assert right / 360 == json.loads((workdir / "result.json").read_text())["test_accuracy"]
    for row in rows:
        probabilities = [one["probability"] for one in row["predictions"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)


def test_load_gives_the_network(trained):
    import resflax
    from resflax.data.arrays import load_split
    from resflax.data.preprocess import Preprocessing

    workdir, _ = trained
    model, variables, metadata = resflax.load(str(workdir))
    test = load_split("digits", "test")
    logits = model.apply(variables, Preprocessing.from_dict(metadata["preprocessing"])(test.images), train=False)
    accuracy = np.mean(np.argmax(np.asarray(logits), axis=-1) == test.labels)
    assert accuracy == json.loads((workdir / "result.json").read_text())["test_accuracy"]
    assert metadata["class_names"] == list("0123456789")
    assert metadata["step"] == 60


def test_summary(command):
    table = command("summary").stdout
    assert "cifar_resnet20" in table
    assert "269,722" in table
    only = command("summary", "--list=tutorial*").stdout.splitlines()
    assert len(only) == 3
    layers = command("summary", "cifar_resnet14", "--input=8x8x1").stdout.splitlines()
    assert layers[-1].split()[:2] == ["total", "172,218"]


@pytest.mark.parametrize("variant", ["cnn", pytest.param("resnet", marks=pytest.mark.long)])
def test_the_tutorial_trains(variant, command):
    size = () if variant == "cnn" else ("--config.data.image_size=127", "--config.data.eval_split=test[:16]")
    done = command(
        "train", f"--config=tutorial:{variant}", "--workdir=run", "--config.total_steps=2", "--config.data.batch_size=4", *size
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["steps"] == 2
