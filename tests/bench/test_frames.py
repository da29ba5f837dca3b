"""Single frames: what is counted, on a clock of its own; what the command prints and refuses."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from resflax import benchmark as command_module
from resflax.bench import image_files
from resflax.bench.frames import measure_frames, random_classifier
from resflax.benchmark import main
from resflax.errors import ConfigError, DataError, InputError, StorageError


def frame_files(folder, count):
    folder.mkdir()
    for index in range(count):
        Image.new("RGB", (40 + index, 30), (index, 0, 0)).save(folder / f"{index}.png")
    return sorted(folder.iterdir())


def test_the_seconds_of_frames(tmp_path):
    """Three frames, twice; the clock is read three times a frame: reading takes 1 second, the network 2, 4, ... 12."""
    paths = frame_files(tmp_path / "frames", 3)
    ticks = iter([0.0, 9.0, *(100.0 * index + at for index in range(6) for at in (0.0, 1.0, 3.0 + 2 * index))])
    read_paths, prepared, classified = [], [], []

    def read(path):
        read_paths.append(path)
        return np.full((8, 8, 3), int(path.stem), np.uint8)

    def compile_classifier(images):
        prepared.append((images.shape, images.dtype))

        def classify(images):
            classified.append(int(images[0, 0, 0, 0]))
            return np.ones((1, 10), np.float32)

        return classify

    found = measure_frames(paths, read, compile_classifier, 2, lambda: next(ticks))
    assert read_paths == [paths[0], *paths, *paths]
    assert prepared == [((1, 8, 8, 3), np.uint8)]
    assert classified == [0, *range(3), *range(3)]
    assert found == {
        "frames": 6,
        "frames_per_second": 6 / (3 + 5 + 7 + 9 + 11 + 13),
        "latency_p50_seconds": 9.0,
        "latency_p95_seconds": 13.0,
        "latency_p99_seconds": 13.0,
        "read_seconds": 1.0,
        "network_seconds": 7.0,
        "compile_seconds": 9.0,
    }


def test_probabilities_that_are_no_numbers_are_refused(tmp_path):
    paths = frame_files(tmp_path / "frames", 1)
    with pytest.raises(DataError, match=r"the probabilities of .*0\.png must be finite, but they are not; "):
        measure_frames(paths, lambda path: np.zeros((2, 2, 3), np.uint8), lambda images: lambda images: np.array([np.nan]), 1)


def test_a_random_classifier_sees_the_middle_and_gives_probabilities(tmp_path):
    read, probabilities = random_classifier("cifar_resnet8")
    (path,) = frame_files(tmp_path / "frames", 1)
    image = read(path)
    assert (image.shape, image.dtype) == ((32, 32, 3), np.uint8)
    found = probabilities(image[None])
    assert (found.shape, found.dtype) == ((1, 10), np.float32)
    assert float(jnp.sum(found)) == pytest.approx(1, abs=1e-6)


def test_the_command(monkeypatch, tmp_path, capsys):
    frame_files(tmp_path / "frames", 2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_module, "_without_cache", lambda: None)
    assert main(["frames", "--frames=frames", "--model=cifar_resnet8", "--repeats=3", "--output=record.json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (printed["benchmark"], printed["frames"], printed["model"]) == ("frames", 6, "cifar_resnet8")
    assert 0 < printed["latency_p50_seconds"] <= printed["latency_p95_seconds"] <= printed["latency_p99_seconds"]
    assert json.loads((tmp_path / "record.json").read_text()) == printed


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ("--frames=empty", InputError, "empty must hold images (.jpg, .jpeg, .png, .webp), but none was found; check the path"),
        ("--frames=absent --model=cifar_resnet8", InputError, "absent must be a file that can be read, but: No such file"),
        ("--model=resnet51", ConfigError, "there is no model 'resnet51'; did you mean "),
        ("--workdir=empty", StorageError, "empty must be the workdir of a run with a checkpoint, but there is none"),
        ("--checkpoint=absent", StorageError, "absent"),
        ("--workdir=a --checkpoint=b", ConfigError, "argument --checkpoint: not allowed with argument --workdir"),
        ("--repeats=0", ConfigError, "argument --repeats: must be a whole number at least 1, got '0'"),
    ],
)
def test_errors(arguments, error, says, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_module, "_without_cache", lambda: None)
    monkeypatch.setattr(image_files, "FILES", 1)
    with pytest.raises(error) as caught:
        main(["frames", *arguments.split()])
    assert says in str(caught.value)
