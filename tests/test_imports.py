"""Training, evaluating and predicting import none of the large frameworks that a user may have installed beside JAX."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

FRAMEWORKS = ("tensorflow", "torch", "keras")

PROGRAM = """
import json, sys
import numpy as np
from PIL import Image
from resflax import evaluate, predict, train

Image.fromarray(np.zeros((8, 8), np.uint8)).save("image.png")
tiny = ["--config.model.name=cifar_resnet8", "--config.model.kwargs.width=4", "--config.total_steps=4"]
codes = [
    train.main(["--workdir=run", *tiny]),
    evaluate.main(["--workdir=run"]),
    predict.main(["--workdir=run", "image.png"]),
]
print(json.dumps([codes, sorted({name.split(".")[0] for name in sys.modules})]))
"""


def run(program, folder):
    """The output of a program for which the frameworks are there to be found, and the names of those that it imported."""
    record = folder / "imported.txt"
    for name in FRAMEWORKS:
        package = folder / "stubs" / name
        package.mkdir(parents=True)
        package.joinpath("__init__.py").write_text(f"open({str(record)!r}, 'a').write('{name} ')\nraise ImportError\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder / "stubs"), str(ROOT)])}
    environment.pop("XLA_FLAGS")
    child = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert child.returncode == 0, child.stderr[-2000:]
    return child.stdout, set(record.read_text().split()) if record.exists() else set()


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_witness_sees_imports_and_only_imports(name, tmp_path):
    program = f"import contextlib, importlib.util\nassert importlib.util.find_spec('{name}')\n"
    assert run(program, tmp_path / "found")[1] == set()
    assert run(f"{program}with contextlib.suppress(ImportError): import {name}.sub", tmp_path / "imported")[1] == {name}


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """The exit codes, the modules at the end, and the frameworks whose import was tried on the way."""
    output, tried = run(PROGRAM, tmp_path_factory.mktemp("commands"))
    codes, modules = json.loads(output.splitlines()[-1])
    return codes, modules, tried


def test_the_commands_run_where_frameworks_are_broken(commands):
    codes, modules, _ = commands
    assert codes == [0, 0, 0]
    assert {"jax", "flax", "optax", "orbax", "tensorflow_datasets", "matplotlib"} <= set(modules)


@pytest.mark.parametrize(
    "name",
    [
        "tensorflow",
        "keras",
        "torch",
    ],
)
def test_the_commands_import_no_other_framework(name, commands):
    _, modules, tried = commands
    assert name not in modules
    assert name not in tried


# What a machine may lack that trains from arrays: the GPU machine of `make gpu` does.
OPTIONAL = (
    "tensorflow_datasets",
    "array_record",
    "grain",
    "tensorboardX",
    "sklearn",
    "simplejpeg",
    "flatbuffers",
)
FROM_ARRAYS = f"""
import sys
sys.modules.update(dict.fromkeys({OPTIONAL!r}))  # an import of one of them fails
import numpy as np
from resflax import reproduce

images = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), np.uint8)
labels = np.arange(16, dtype=np.int32) % 2
both = {{"images": images, "labels": labels}}
arrays = {{f"{{split}}_{{name}}": value for split in ("train", "test") for name, value in both.items()}}
np.savez("small.npz", class_names=np.array(["a", "b"]), **arrays)
tiny = (
    "data.name=small.npz", "data.batch_size=8", "data.eval_batch_size=8", "batch_norm.group_size=8", "total_steps=2",
    "model.name=cifar_resnet8", "model.kwargs.width=4",
)
command = ["experiments/he2015_cifar.py", "--rows=resnet20", "--seeds=1", "--workdir=runs"]
code = reproduce.main([*command, *(f"--config.{{override}}" for override in tiny)])
print(code)
"""


def test_training_from_arrays_needs_little(tmp_path):
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    output, _ = run(FROM_ARRAYS, tmp_path)
    assert output.splitlines()[-1] == "0"
    assert (tmp_path / "runs" / "he2015_cifar" / "results" / "he2015_cifar-resnet20-s0.json").exists()
