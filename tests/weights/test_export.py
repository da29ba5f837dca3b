"""Exported programs, run where this package cannot be imported; and files that disagree with the network never appear."""

import json
import subprocess
import sys

import numpy as np
import pytest

from resflax.errors import ConfigError, DataError, StorageError
from resflax.weights import onnx, program, stablehlo
from resflax.weights.checked import write_checked
from resflax.weights.folding import fold
from resflax.weights.program import make_program
from tests.weights import forward, random_images, random_network

STABLEHLO = """
import json, sys
sizes = json.loads(sys.argv[1])
sys.modules.update(resflax=None, flax=None)
from pathlib import Path
import jax, numpy as np
for path in Path().glob("*.stablehlo"):
    run = jax.export.deserialize(bytearray(path.read_bytes())).call
    images = np.load(path.with_suffix(".images.npy"))
    outputs = [np.concatenate([run(images[i : i + n]) for i in range(0, len(images), n)]) for n in sizes]
    np.save(path.with_suffix(".outputs.npy"), outputs)
"""
ONNX = """
import json, sys
sizes = json.loads(sys.argv[1])
sys.modules.update(resflax=None, flax=None, jax=None, jaxlib=None)
from pathlib import Path
import numpy as np, onnxruntime
for path in Path().glob("*.onnx"):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (argument,), (result,) = session.get_inputs(), session.get_outputs()
    run = lambda images: session.run([result.name], {argument.name: images})[0]
    images = np.load(path.with_suffix(".images.npy"))
    outputs = [np.concatenate([run(images[i : i + n]) for i in range(0, len(images), n)]) for n in sizes]
    np.save(path.with_suffix(".outputs.npy"), outputs)
"""
SMALL = [("cifar_resnet8", 32, {"shortcut": "A"}), ("cifar_preresnet8", 32, {}), ("tutorial_cnn", 32, {})]
LARGE = [
    ("resnet18d", 64, {}),
    ("seresnet18", 64, {}),
    ("resnext50_32x4d", 64, {}),
    ("keras_resnet50v2", 64, {}),
    ("resnetv2_50x1_bit", 64, {}),
    ("cifar_vgg11", 32, {}),
    ("tutorial_resnet", 128, {}),
]


def check_elsewhere(networks, serialize, suffix, source, environment, folder):
    """In a process without this package, folded and not: 100 images at batches of 1, 7 and 64; 15 where networks are large."""
    expected = {}
    count, sizes = (100, [1, 7, 64]) if networks is SMALL else (15, [1, 7])
    for name, size, kwargs in networks:
        network = random_network(name, size, **kwargs)
        images = random_images(count, size)
        for kind, rewrite in (("plain", None), ("folded", fold)):
            stem = f"{name}-{kind}"
            exported = make_program(forward(*network), (size, size, 3), network[2], rewrite)
            (folder / f"{stem}.{suffix}").write_bytes(serialize(exported))
            np.save(folder / f"{stem}.images.npy", images)
            expected[stem] = np.asarray(forward(*network)(images))
    environment["PYTHONPATH"] = ""
    child = subprocess.run(
        [sys.executable, "-c", source, json.dumps(sizes)], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr
    for stem, outputs in expected.items():
        found = np.load(folder / f"{stem}.outputs.npy")
        assert found.shape == (len(sizes), count, 10)
        assert np.abs(found - outputs).max() <= 1e-4 * np.abs(outputs).max(), stem


@pytest.mark.parametrize("networks", [SMALL, pytest.param(LARGE, marks=pytest.mark.long)], ids=["small", "large"])
def test_stablehlo(networks, one_device_environment, tmp_path):
    check_elsewhere(networks, stablehlo.serialize, "stablehlo", STABLEHLO, one_device_environment, tmp_path)


@pytest.fixture
def libraries():
    pytest.importorskip("jax2onnx", reason="exporting to ONNX needs pip install 'resflax[onnx]'")
    return pytest.importorskip("onnxruntime")


@pytest.mark.parity
@pytest.mark.parametrize("networks", [SMALL, pytest.param(LARGE, marks=pytest.mark.long)], ids=["small", "large"])
def test_onnx(networks, libraries, one_device_environment, tmp_path):
    check_elsewhere(networks, onnx.serialize, "onnx", ONNX, one_device_environment, tmp_path)


@pytest.mark.parity
def test_an_onnx_file_says_what_it_takes_and_gives(libraries):
    network = random_network("cifar_resnet8", 16)
    exported = make_program(forward(*network), (16, 16, 3), network[2])
    session = libraries.InferenceSession(onnx.serialize(exported), providers=["CPUExecutionProvider"])
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["batch", 16, 16, 3])
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["batch", 10])
    assert json.loads(session.get_modelmeta().custom_metadata_map["resflax"]) == exported.metadata
    assert exported.metadata["class_names"] == network[2]["class_names"]
    assert exported.metadata["input"]["shape"] == images.shape


@pytest.mark.parametrize("missing", ["jax2onnx", "onnxruntime"])
def test_onnx_without_its_libraries_is_refused(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", sys)
    monkeypatch.setitem(sys.modules, "onnxruntime", sys)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError, match=r"ONNX needs jax2onnx and onnxruntime, but .*; pip install 'resflax\[onnx\]'"):
        onnx.libraries()


def test_a_backbone_gives_features():
    network = random_network("cifar_resnet8", 16, num_classes=None)
    exported = make_program(forward(*network), (16, 16, 3), network[2])
    assert exported.output == exported.metadata["output"]["name"] == "features"
    assert exported.metadata["output"]["shape"][0] == "batch"


def test_weights_beyond_what_one_file_holds_are_refused(monkeypatch):
    network = random_network("cifar_resnet8", 16)
    monkeypatch.setattr(program, "LARGEST", 100_000)
    with pytest.raises(ConfigError, match=r"must be below 2 GiB, got 0.0 GiB; use --format=safetensors"):
        make_program(forward(*network), (16, 16, 3), network[2])


def linear(images):
    return images.reshape(len(images), -1)[:, :5] - np.float32(100)


@pytest.mark.parametrize(
    "loaded",
    [
        lambda images: linear(images) * (1 + 2e-4),
        lambda images: np.where(images[:, :5, 0, 0] < 300, np.nan, 0),
        lambda images: linear(images)[:, :4],
        lambda images: linear(images)[:1],  # right at a batch of 1 only
        lambda images: linear(images) + (len(images) > 1),
    ],
)
def test_a_file_that_disagrees_does_not_appear(loaded, tmp_path):
    path = tmp_path / "network.bin"
    path.write_text("what was there")
    with pytest.raises(DataError, match=r"must agree with the network to 0.0001 of its largest output, got .*was not written"):
        write_checked(path, lambda temporary: temporary.write_text("new"), lambda temporary: loaded, linear, (8, 8, 3))
    assert path.read_text() == "what was there"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_agrees_replaces_the_old_one(tmp_path):
    path = tmp_path / "network.bin"
    path.write_text("what was there")
    read = []

    def load(temporary):
        read.append(temporary.read_text())
        return lambda images: linear(images) * (1 + 5e-5)

    difference = write_checked(path, lambda temporary: temporary.write_text("new"), load, linear, (8, 8, 3))
    assert difference == pytest.approx(5e-5, rel=0.1)
    assert (read, path.read_text()) == (["new"], "new")
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_replaced_is_an_error_of_storage(tmp_path):
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(StorageError, match="cannot write"):
        write_checked(tmp_path / "folder", lambda path: path.write_text("new"), lambda path: linear, linear, (8, 8, 3))
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]
