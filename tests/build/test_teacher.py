"""A run with a teacher: what is read, what must fit, what a record says, and that it is the same when the run goes on."""

import dataclasses
import functools
import json
import re

import jax
import numpy as np
import pytest

from resflax.build import build, make_model
from resflax.build.pretrained import read_pretrained
from resflax.build.teacher import read_teacher
from resflax.config import BatchNormConfig, Config, DataConfig, DistillConfig, ModelConfig, OptimConfig
from resflax.data.preprocess import Preprocessing
from resflax.errors import ConfigError, DataError
from resflax.tree import digest
from resflax.weights.safetensors import write_weights
from tests import micro

NAMES = [f"column{index}" for index in range(5)]


def config(path, teacher=None, **changes):
    return Config(
        total_steps=4,
        data=DataConfig(str(path), batch_size=8, eval_batch_size=32),
        model=ModelConfig("cifar_resnet8", {"width": 4}),
        optim=OptimConfig(learning_rate=0.1),
        distill=DistillConfig() if teacher is None else DistillConfig(str(teacher), 2.0, 0.7),
        **changes,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return micro.write_npz(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def variables(data):
    """Of a network that is larger than the student, drawn, with statistics that are not those of the start."""
    model = make_model(dataclasses.replace(config(data), model=ModelConfig("cifar_resnet14", {"width": 4})), 5)
    drawn = jax.jit(functools.partial(model.init, train=False))(jax.random.key(3), np.zeros((1, 8, 8, 3), np.float32))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: np.asarray(leaf + 0.1 * rng.random(leaf.shape), np.float32), drawn)


PREPROCESSING = Preprocessing((8, 8), np.array([0.2, 0.5, 0.1]), np.array([0.3, 0.2, 0.6]))


@pytest.fixture
def teacher(variables, tmp_path):
    """Writes a weight file."""

    def write(names=NAMES, preprocessing=PREPROCESSING, variables=variables):
        path = tmp_path / "teacher.safetensors"
        metadata = {
            "model": "cifar_resnet14",
            "num_classes": 5,
            "kwargs": {"width": 4},
            "class_names": names,
            "preprocessing": preprocessing.to_dict(),
            "source": "drawn",
        }
        write_weights(path, variables, metadata)
        return path

    return write


def direct(variables, pixels):
    """What the teacher says of uint8 images, by its own preprocessing."""
    model = make_model(dataclasses.replace(config("unused"), model=ModelConfig("cifar_resnet14", {"width": 4})), 5)
    return model.apply(variables, PREPROCESSING(pixels), train=False)


@pytest.mark.parametrize("repeat", ["loop", "scan"])
def test_the_teacher_sees_the_same_images_in_its_own_units(repeat, data, teacher, variables, monkeypatch):
    """Also one that was trained as a loop, as a workdir may hold it."""
    pixels = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3), np.uint8)
    student = Preprocessing((8, 8), np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.1, 0.5]))
    read = read_pretrained(str(teacher()))
    read = dataclasses.replace(read, kwargs={**read.kwargs, "repeat": repeat})
    monkeypatch.setattr("resflax.build.teacher.read_pretrained", lambda *_: read)
    found = read_teacher(config(data, "unused"), NAMES, student, None)
    assert ("blocks" in found.variables["params"]["stage1"]) == (repeat == "scan")
    np.testing.assert_allclose(found.logits(found.variables, student(pixels)), direct(variables, pixels), rtol=1e-3, atol=1e-4)


def test_a_run_learns_from_it_and_records_it(data, teacher, variables):
    """The first loss is a direct computation; the digest is that of the arrays."""
    path = teacher()
    run = build(config(data, path, batch_norm=BatchNormConfig(group_size=8)), jax.devices()[:1])
    assert run.metadata()["distill"] == {"weights": str(path), "digest": digest(variables)}
    state, batch, resident = run.initial_state(), run.train.training_batches()(0), run.resident(run.train)
    made = run.train.materialise(batch, resident)
    logits, _ = run.model.apply(
        {"params": state.params, "batch_stats": state.batch_stats}, made["image"], train=True, mutable=True
    )
    said = direct(variables, run.train.arrays.images[batch["id"]])
    log_p, log_q = (np.asarray(jax.nn.log_softmax(one / 2)) for one in (said, logits))
    hard = -np.asarray(jax.nn.log_softmax(logits))[np.arange(8), made["label"]]
    expected = np.mean(0.3 * hard + 0.7 * 4 * (np.exp(log_p) * (log_p - log_q)).sum(axis=1))
    _, reports = run.compile_chunk(state, fused=False)(state, 0, 1)
    assert float(reports.loss[0]) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"names": ["a", "b", "c", "d", "e"]}, r"must be those of the data, got 5, a, b, c, \.\.\., for 5, column0, column1"),
        ({"names": None}, "but the file does not name them; convert it again with --class_names"),
        (
            {"preprocessing": Preprocessing((12, 12), np.zeros((12, 12, 3)), np.ones(3))},
            "must have the size of the mean image that is subtracted, 12x12, but have 8x8; set config.data.image_size=12",
        ),
    ],
)
def test_one_that_does_not_fit_is_refused(changes, says, data, teacher):
    with pytest.raises(ConfigError, match=says) as caught:
        build(config(data, teacher(**changes)))
    assert "config.distill.weights=" in str(caught.value)


def test_images_of_another_kind_are_refused(data, teacher):
    with pytest.raises(ConfigError, match=r"config\.distill\.weights=.* must have 3 channels, but those of .* have 1"):
        read_teacher(config(data, teacher()), NAMES, Preprocessing((8, 8), np.zeros(1), np.ones(1)), None)


def test_one_that_is_not_there_is_refused(data, tmp_path):
    with pytest.raises(ConfigError, match=r"config\.distill\.weights must be a workdir, a weight file or hf:"):
        build(config(data, tmp_path / "nothing"))


def test_a_run_that_goes_on_has_the_same_teacher_or_none(data, teacher, variables):
    path = teacher()
    started = build(config(data, path), jax.devices()[:1])
    metadata = json.loads(json.dumps(started.metadata()))
    assert build(config(data, path), jax.devices()[:1], resumed=metadata).teacher.provenance == started.teacher.provenance
    other = jax.tree.map(np.copy, variables)
    other["params"]["head"]["dense"]["bias"][0] += 1
    teacher(variables=other)
    before, now = digest(variables)[:12], digest(other)[:12]
    says = f"must be the teacher that the run has had so far, but its SHA-256 is {now} and was {before}"
    with pytest.raises(DataError, match=re.escape(says)):
        build(config(data, path), resumed=metadata)
    path.unlink()
    with pytest.raises(ConfigError, match="but there is no"):
        build(config(data, path), resumed=metadata)
