"""CIFAR-10 itself, where it is at hand: prepared once through tfds, the same from memory and from the host path."""

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys

import jax
import numpy as np
import pytest

from resflax.build import build
from resflax.config import load_config
from resflax.data.arrays import ImageArrays, load_split
from resflax.data.datasets import DATASETS
from resflax.data.pipeline import HostPipeline, ResidentPipeline
from tests.conftest import ROOT, SCRATCH

MAKER = ROOT.parent / "shared/data/make_tfds_cifar10.py"
pytestmark = [pytest.mark.long, pytest.mark.skipif(not MAKER.exists(), reason="CIFAR-10 is not at hand")]


@pytest.fixture(scope="module")
def data_dir():
    folder = SCRATCH / "cifar10"
    if not (folder / "cifar10/3.0.2/dataset_info.json").exists():
        subprocess.run([sys.executable, MAKER, folder], check=True)
    return str(folder)


@pytest.fixture(scope="module")
def runs(data_dir):
    """The recipe of the paper with a small network, from memory and from the host path."""
    config, _ = load_config("he2015_cifar:resnet20")
    small = dataclasses.replace(config.model, name="cifar_resnet8", kwargs={"width": 4})
    return [
        build(
            dataclasses.replace(
                config, model=small, data=dataclasses.replace(config.data, data_dir=data_dir, input=where, workers=2)
            ),
            jax.devices()[:1],
        )
        for where in ("resident", "host")
    ]


def test_the_data_are_cifar_10(data_dir):
    info = DATASETS["cifar10"]
    for split, size in info.sizes.items():
        arrays = load_split("cifar10", split, data_dir)
        assert isinstance(arrays, ImageArrays)
        assert arrays.images.shape == (size, *info.image_shape)
        assert np.bincount(arrays.labels).tolist() == [size // 10] * 10
    pixels = load_split("cifar10", "train", data_dir).images.reshape(-1, 3) / 255
    np.testing.assert_allclose(pixels.mean(axis=0), info.mean, atol=1e-5)
    np.testing.assert_allclose(pixels.std(axis=0), info.std, atol=1e-5)


def test_both_paths_make_bit_equal_batches(runs):
    resident, host = (run.train for run in runs)
    assert isinstance(resident, ResidentPipeline)
    assert isinstance(host, HostPipeline)
    for step in (0, 1, 390, 391, 63_999):  # 390 holds the end of an epoch
        made = [
            jax.jit(pipeline.materialise)(pipeline.training_batches()(step), pipeline.resident) for pipeline in (resident, host)
        ]
        for name in ("image", "label", "mask", "id"):
            np.testing.assert_array_equal(made[0][name], made[1][name], err_msg=f"{name} of step {step}")


def test_both_paths_train_and_score_alike(runs):
    losses, evaluations = [], []
    for run in runs:
        state = run.initial_state()
        state, reports = run.compile_chunk(state)(state, 0, 20)
        losses.append(np.asarray(reports.loss))
        evaluations.append(run.make_evaluate()(state.variables()))
    np.testing.assert_array_equal(*losses)
    assert losses[0][-5:].mean() < losses[0][0]
    for evaluation in evaluations:
        assert evaluation.images_scored == 10_000
    np.testing.assert_array_equal(evaluations[0].confusion, evaluations[1].confusion)


def test_fine_tuning_on_a_small_folder_beats_training_from_scratch(data_dir, tmp_path):
    """What docs/transfer.md measured, by its own commands: six classes, then 200 images of four others; three seeds."""
    section = (ROOT / "docs/transfer.md").read_text().partition("## Measured: four new classes of CIFAR-10")[2]
    program = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    commands = re.search(r"```bash\n(.*?)```", section, re.DOTALL)[1].replace("\\\n", " ")
    pretrain, full = (line.replace("python ", f"{sys.executable} ", 1) for line in commands.strip().splitlines())
    environment = {**os.environ, "TFDS_DATA_DIR": data_dir}

    def train(command):
        done = subprocess.run(shlex.split(command), cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])["test_accuracy"]

    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    found = {"six": train(pretrain)}
    for seed in range(3):
        for kind in ("full", "head_only", "scratch"):
            command = full.replace(":full", f":{kind}").replace("=full0", f"={kind}{seed}").replace("seed=0", f"seed={seed}")
            if kind == "scratch":
                command = command.replace("--config.init.weights=six", "")
            found[f"{kind}{seed}"] = train(command)
        assert found[f"full{seed}"] > found[f"scratch{seed}"], found
    print(found)
