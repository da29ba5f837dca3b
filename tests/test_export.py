"""The command `export`: from a run, or a weight file, to a file that somebody else can use."""

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import resflax
from resflax import export
from resflax.build import build
from resflax.config import config_hash
from resflax.data.preprocess import Preprocessing
from resflax.errors import ConfigError, StorageError
from resflax.files import Workdir, write_json
from resflax.training.checkpoints import Checkpoints
from resflax.training.state import Ema
from resflax.weights.safetensors import read_weights
from tests import micro
from tests.weights import random_variables

STEPS = 8


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """As a run leaves it, untrained: in a loop and in bfloat16, with averaged weights and an epsilon of its own."""
    folder = tmp_path_factory.mktemp("export")
    base = micro.config(micro.write_npz(folder))
    config = dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, batch_size=16),
        optim=dataclasses.replace(base.optim, accumulate=1),
        model=dataclasses.replace(base.model, name="cifar_resnet14", kwargs={"width": 4, "repeat": "scan"}),
        batch_norm=dataclasses.replace(base.batch_norm, epsilon=0.01),
        precision=dataclasses.replace(base.precision, compute="bfloat16"),
    )
    run = build(config)
    files = Workdir(folder / "run")
    checkpoints = Checkpoints(files.checkpoints, keep_last=2)
    state = run.initial_state()
    for step in (4, STEPS):
        drawn = random_variables(state.variables(), seed=step)
        checkpoints.save(step, state.replace(ema=Ema(**drawn)), {}, run.metadata())
    checkpoints.close()
    write_json(files.result, {"steps": STEPS, "test_accuracy": 0.25, "config_hash": config_hash(config)})
    return folder / "run"


IMAGES = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 3), np.uint8)


def expected(workdir, step=None):
    """The logits in float32, from the run's own layers; the layout and precision of the run are left aside."""
    model, variables, metadata = resflax.load(str(workdir), step)
    prepare = Preprocessing.from_dict(metadata["preprocessing"])
    single = model.clone(dtype=jax.numpy.float32)
    return np.asarray(single.apply(variables, prepare(IMAGES.astype(np.float32)), train=False))


def logits(path, images=IMAGES):
    return np.asarray(jax.export.deserialize(bytearray(path.read_bytes())).call(images))


def test_stablehlo(workdir, tmp_path, capsys):
    output = tmp_path / "net.stablehlo"
    assert export.main([f"--workdir={workdir}", "--format=stablehlo", f"--output={output}"]) == 0
    line = capsys.readouterr().out
    assert line.startswith(f"{output}: cifar_resnet14, within ")
    np.testing.assert_allclose(logits(output), expected(workdir), rtol=1e-4, atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.stablehlo", "net.stablehlo.json"]
    metadata = json.loads((tmp_path / "net.stablehlo.json").read_text())
    assert metadata["input"] == {"name": "images", "dtype": "uint8", "shape": ["batch", 8, 8, 3], "layout": "NHWC"}
    assert metadata["output"] == {"name": "logits", "dtype": "float32", "shape": ["batch", 5]}
    assert metadata["class_names"] == [f"column{index}" for index in range(5)]
    assert metadata["resflax"] == resflax.__version__
    assert metadata["run"]["step"] == STEPS
    assert metadata["run"]["result"] == {"steps": STEPS, "test_accuracy": 0.25}


def test_an_earlier_step_folded(workdir, tmp_path):
    output = tmp_path / "net.stablehlo"
    assert export.main([f"--workdir={workdir}", "--step=4", "--format=stablehlo", f"--output={output}", "--fold"]) == 0
    np.testing.assert_allclose(logits(output), expected(workdir, 4), rtol=1e-4, atol=1e-5)
    assert np.abs(logits(output) - expected(workdir)).max() > 1e-3
    metadata = json.loads((tmp_path / "net.stablehlo.json").read_text())
    assert metadata["run"]["step"] == 4
    assert "result" not in metadata["run"]  # that is the last step's


def test_weight_files(workdir, tmp_path):
    first, second, third = (tmp_path / name for name in ("1.safetensors", "2.safetensors", "3.stablehlo"))
    assert export.main([f"--workdir={workdir}", "--format=safetensors", f"--output={first}"]) == 0
    variables, metadata = read_weights(first)
    assert metadata["batch_norm"] == {"epsilon": 0.01}
    assert metadata["kwargs"] == {"width": 4}
    assert "block2" in variables["params"]["stage1"]
    assert metadata["source"].startswith(f"resflax {resflax.__version__}, run {metadata['run']['config_hash']} on ")

    assert export.main([f"--checkpoint={first}", "--format=safetensors", f"--output={second}"]) == 0
    assert read_weights(second)[1] == metadata
    assert export.main([f"--checkpoint={second}", "--format=stablehlo", f"--output={third}"]) == 0
    np.testing.assert_allclose(logits(third), expected(workdir), rtol=1e-4, atol=1e-5)


@pytest.mark.parity
def test_onnx(workdir, tmp_path):
    pytest.importorskip("jax2onnx", reason="exporting to ONNX needs pip install 'resflax[onnx]'")
    onnxruntime = pytest.importorskip("onnxruntime")
    output = tmp_path / "net.onnx"
    assert export.main([f"--workdir={workdir}", "--format=onnx", f"--output={output}", "--fold"]) == 0
    session = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"images": IMAGES})[0], expected(workdir), rtol=1e-4, atol=1e-5)


DOUBLE = """
import sys
from resflax import export, train
from resflax.weights.safetensors import read_weights
tiny = ["--config.model.name=cifar_resnet8", "--config.model.kwargs.width=4", "--config.total_steps=4"]
assert train.main(["--workdir=run", "--config.precision.compute=float64", *tiny]) == 0
for name in ("safetensors", "stablehlo"):
    assert export.main(["--workdir=run", f"--format={name}", f"--output=net.{name}"]) == 0
assert read_weights("net.safetensors")[0]["params"]["stem_conv"]["kernel"].dtype == "float64"
assert export.main(["--checkpoint=net.safetensors", "--format=stablehlo", "--output=again.stablehlo"]) == 0
"""


@pytest.mark.long
def test_a_run_in_double_precision(one_device_environment, tmp_path):
    child = subprocess.run(
        [sys.executable, "-c", DOUBLE], cwd=tmp_path, env=one_device_environment, capture_output=True, text=True, timeout=300
    )
    assert child.returncode == 0, child.stderr[-2000:]
    images = IMAGES[..., :1]
    first, second = (logits(tmp_path / f"{name}.stablehlo", images) for name in ("net", "again"))
    assert first.dtype == np.float32
    np.testing.assert_allclose(first, second, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--format=onnx --output=x", "one of the arguments --workdir --checkpoint is required"),
        ("--workdir=a --checkpoint=b --format=onnx --output=x", "not allowed with argument"),
        ("--workdir=a --output=x", "the following arguments are required: --format"),
        ("--workdir=a --format=tflite --output=x", "invalid choice: 'tflite'"),
        ("--workdir=a --format=onnx", "the following arguments are required: --output"),
        ("--checkpoint=a --step=3 --format=onnx --output=x", "--step needs --workdir"),
        ("--workdir=a --format=safetensors --fold --output=x", "--fold needs --format=stablehlo or onnx"),
    ],
)
def test_usage(arguments, says):
    with pytest.raises(ConfigError) as raised:
        export.main(arguments.split())
    assert says in str(raised.value)


@pytest.mark.parametrize("source", ["--workdir", "--checkpoint"])
def test_what_is_not_there_is_refused(source, tmp_path):
    with pytest.raises(StorageError):
        export.main([f"{source}={tmp_path}/missing", "--format=stablehlo", f"--output={tmp_path}/x"])
    assert not list(tmp_path.iterdir())
