"""ResNet-50 at 224 pixels on a generated folder of ImageNet-sized JPEGs: trained, stopped, resumed, evaluated, predicted."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from resflax.files import read_json, read_lines
from tests.conftest import ROOT

pytestmark = pytest.mark.long
CLASSES, TRAIN, TEST = 4, 10, 5  # images of each class


def write_photographs(root):
    """Crops of two photographs around 500 x 375 pixels, turned and mirrored: four classes that can be told apart."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        image = photographs[label % 2]
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if label >= 2 else image
        for split, count in (("train", TRAIN), ("test", TEST)):
            folder = root / split / f"n{label:08d}"
            folder.mkdir(parents=True)
            for number in range(count):
                width, height = rng.integers(440, 560), rng.integers(320, 400)
                left, top = rng.integers(0, 640 - width), rng.integers(0, 427 - height)
                image.crop((left, top, left + width, top + height)).save(folder / f"{number}.JPEG", quality=90)


def start(environment, name, *arguments):
    command = [sys.executable, "-m", f"resflax.{name}", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process, code=0):
    output, errors = process.communicate(timeout=900)
    assert process.returncode == code, errors
    return output, errors


def test_resnet_50_on_a_folder_of_jpegs(one_device_environment, tmp_path):
    write_photographs(tmp_path / "images")
    workdir = tmp_path / "run"
    train = ("train", "--config=imagenet:smoke", f"--config.data.name={tmp_path}/images", f"--workdir={workdir}")
    training = start(one_device_environment, *train)
    for line in training.stderr:
        if line.startswith("step 6/20"):
            training.send_signal(signal.SIGTERM)
            break
    assert "stopped by signal 15 at step" in finish(training, 143)[1]
    assert "going on from step" in finish(start(one_device_environment, *train))[1]
    losses = [row["train_loss"] for row in read_lines(workdir / "metrics.jsonl")]
    assert len(losses) == 20
    assert np.isfinite(losses).all()
    record = read_json(workdir / "result.json")
    assert record["parameters"] == 25_557_032 - (2048 + 1) * (1000 - CLASSES)  # torchvision's, with another head
    assert record["images_scored"] == CLASSES * TEST
    assert record["evaluation"]["resolution"] == [224, 224]
    assert record["evaluation"]["crop_ratio"] == 224 / 256
    assert (record["evaluation"]["decoder"], record["evaluation"]["interpolation"]) == ("pillow", "bilinear, antialiased")
    output, _ = finish(start(one_device_environment, "evaluate", f"--workdir={workdir}"))
    scores = json.loads(output.splitlines()[-1])
    assert (scores["accuracy"], scores["images_scored"]) == (record["test_accuracy"], CLASSES * TEST)
    output, _ = finish(start(one_device_environment, "predict", f"--workdir={workdir}", "--json", tmp_path / "images/test"))
    assert len(output.splitlines()) == CLASSES * TEST
