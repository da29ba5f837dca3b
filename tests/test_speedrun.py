"""The speedrun's recipe on a few small images: initialised from them, evaluated on six views, timed by its own clock."""

import json

import numpy as np
import pytest

from resflax.config.files import load_config
from resflax.data.preprocess import Preprocessing
from resflax.errors import ConfigError
from resflax.evaluate import evaluate_workdir
from resflax.nn.whitening import whitening_kernel
from resflax.reproduce import reproduce
from resflax.train import main


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    images = {f"{split}_images": rng.integers(0, 256, (24, 32, 32, 3), np.uint8) for split in ("train", "test")}
    labels = {f"{split}_labels": rng.integers(0, 3, 24, np.int32) for split in ("train", "test")}
    np.savez(tmp_path / "small.npz", **images, **labels, class_names=np.array(["a", "b", "c"]))
    return tmp_path / "small.npz"


def test_a_record_of_the_speedrun(data, tmp_path):
    small = ("total_steps=3", "data.batch_size=8", "data.eval_batch_size=8", "model.kwargs.width=4")
    done = reproduce(
        "cifar10_speedrun", ["cpu"], 1, workdir=str(tmp_path), overrides=(f"data.name={data}", "total_epochs=none", *small)
    )
    assert done["done"] == ["cifar10_speedrun-cpu-s0"]
    record = json.loads((tmp_path / "cifar10_speedrun" / "results" / "cifar10_speedrun-cpu-s0.json").read_text())
    seconds = record["speedrun_seconds"]
    assert min(seconds.values()) > 0
    assert seconds["total"] == pytest.approx(seconds["initialisation"] + seconds["training"] + seconds["evaluation"])
    assert seconds["training"] == record["train_seconds"]
    assert record["evaluation"]["views"] == 6

    workdir = tmp_path / "cifar10_speedrun" / "cpu-s0"
    again = evaluate_workdir(str(workdir))
    assert (again["accuracy"], again["loss"]) == (record["test_accuracy"], record["test_loss"])

    import resflax

    _, variables, metadata = resflax.load(str(workdir))
    images = Preprocessing.from_dict(metadata["preprocessing"])(np.load(data)["train_images"])
    expected = np.asarray(whitening_kernel(images, 2, 5e-4))  # 24 images are fewer than the 5,000 it would take
    found = np.asarray(variables["batch_stats"]["whitening"]["kernel"])
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-3, atol=1e-4)


def test_it_needs_images_that_are_there(data, tmp_path):
    arguments = (
        f"--config.data.name={data}",
        "--config.data.input=host",
        f"--workdir={tmp_path}/run",
        "--config.total_steps=1",
        "--config.data.batch_size=8",
    )
    with pytest.raises(ConfigError, match=r"config.model.name=cifar_speedrun .* resident"):
        main(["--config=experiments/cifar10_speedrun.py:cpu", *arguments])


def test_the_rows_keep_what_makes_them_comparable():
    gpu, cpu = (load_config(f"cifar10_speedrun:{row}")[0] for row in ("gpu", "cpu"))
    for row in (gpu, cpu):
        assert (row.data.eval_views, row.eval_every_steps, row.loss.label_smoothing) == ("mirror_shift", 0, 0.2)
        assert row.data.input == "resident"
    assert (gpu.total_epochs, gpu.data.batch_size) == (8, 2000)  # the record's 200 steps
