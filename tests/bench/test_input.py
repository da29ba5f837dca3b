"""The two tasks of input on tiny data: what they report, and that peers do the same work."""

import itertools
import sys

import numpy as np
import pytest

from resflax.bench import array_input, image_files
from resflax.bench.workload import Workload
from resflax.benchmark import benchmark
from resflax.errors import ConfigError
from tests.bench.test_benchmark import TINY, check, check_rows


def few_files(monkeypatch, count):
    monkeypatch.setattr(image_files, "FILES", count)
    monkeypatch.setattr(image_files, "LARGE_FILES", count)


def test_input(monkeypatch):
    few_files(monkeypatch, 3)
    large, small = check(benchmark("input", TINY, ["pillow"], steps=2, repeats=2), "input")
    for measurement, size in ((large, "1000x750"), (small, "500x375")):
        check_rows(measurement["contenders"], ["pillow"])
        assert (measurement["size"], measurement["files"]) == (size, 3)
    assert 50_000 < small["mean_file_bytes"] < 200_000 < large["mean_file_bytes"] < 600_000  # as photographs have


def test_input_from_memory(monkeypatch):
    """Both forms give the batches of training, which are the same."""
    monkeypatch.setattr(array_input, "EXAMPLES", 50)
    (measurement,) = check(benchmark("input-cifar", TINY, ["host"], steps=2, repeats=2), "input-cifar")
    check_rows(measurement["contenders"], ["host"])
    ours, host = measurement["contenders"].values()
    assert ours["last_value"] == host["last_value"]
    assert measurement["examples"] == 50


@pytest.mark.parity
def test_input_from_memory_beside_a_torch_loader(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(array_input, "EXAMPLES", 50)
    result = benchmark("input-cifar", Workload("cifar_resnet8", 64), ["torch-loader"], steps=2, repeats=1)
    (measurement,) = check(result, "input-cifar")
    check_rows(measurement["contenders"], ["torch-loader"])
    assert abs(measurement["contenders"]["torch-loader"]["last_value"]) < 0.5  # normalised, and no labels
    assert "torch" in result["versions"]


@pytest.mark.parity
def test_an_image_of_the_torch_loader_is_a_padded_crop(monkeypatch):
    torch = pytest.importorskip("torch")
    from resflax.bench.torch_loader import PillowImages

    monkeypatch.setattr(array_input, "EXAMPLES", 4)
    arrays, preprocessing = array_input._images(), array_input._preprocessing()
    torch.manual_seed(0)
    seen = set()
    for _ in range(60):
        image, label = PillowImages(arrays, preprocessing.mean, preprocessing.std)[2]
        assert (image.dtype, tuple(image.shape), label) == (torch.float32, (3, 32, 32), int(arrays.labels[2]))
        pixels = np.rint((image.numpy().transpose(1, 2, 0) * preprocessing.std + preprocessing.mean) * 255)
        padded = np.pad(arrays.images[2], ((4, 4), (4, 4), (0, 0)))
        places = [
            (top, left, step)
            for top, left, step in itertools.product(range(9), range(9), (1, -1))
            if (padded[top : top + 32, left : left + 32][:, ::step] == pixels).all()
        ]
        assert len(places) == 1
        seen |= {*places}
    assert len(seen) > 30
    assert len({step for *_, step in seen}) == 2


@pytest.mark.parity
@pytest.mark.parametrize("task", ["input", "input-cifar"])
def test_input_beside_tf_data(task, monkeypatch):
    pytest.importorskip("tensorflow")
    monkeypatch.setattr(array_input, "EXAMPLES", 50)
    few_files(monkeypatch, 3)
    for measurement in check(benchmark(task, Workload("cifar_resnet8", 64), ["tf.data"], steps=2, repeats=1), task):
        check_rows(measurement["contenders"], ["tf.data"])
        ours, theirs = (row["last_value"] for row in measurement["contenders"].values())
        assert abs(ours - theirs) < (30 if task == "input" else 0.5)  # of 255; of about one standard deviation


@pytest.mark.parametrize(
    ("task", "name", "package"), [("input", "tf.data", "tensorflow"), ("input-cifar", "torch-loader", "torch.utils.data")]
)
def test_input_without_a_peers_package(task, name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(array_input, "EXAMPLES", 50)
    few_files(monkeypatch, 1)
    with pytest.raises(ConfigError, match=f"--against={name} needs the package {package}, but "):
        benchmark(task, TINY, [name], steps=1, repeats=1)
