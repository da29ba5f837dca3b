"""python -m resflax.evaluate beyond the score of a run: views, corruptions."""

import json

import jax
import numpy as np
import pytest

from resflax import evaluate
from resflax.data.corruptions import CORRUPTIONS, corrupt
from resflax.data.preprocess import Preprocessing
from resflax.errors import ConfigError


@pytest.fixture
def workdir(micro_run, one_device):
    return micro_run


def run(capsys, *arguments):
    assert evaluate.main([str(argument) for argument in arguments]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def network(workdir):
    """uint8 images -> logits, by another way than evaluation's."""
    import resflax

    model, variables, metadata = resflax.load(str(workdir))
    prepare = Preprocessing.from_dict(metadata["preprocessing"])
    return lambda images: np.asarray(model.apply(variables, prepare(images), train=False))


def test_accuracy_under_corruptions_is_that_of_the_corrupted_images(workdir, capsys):
    result = run(capsys, f"--workdir={workdir}", "--shift", "--corruptions=gaussian_noise,contrast")
    assert list(result["shift"]) == ["gaussian_noise", "contrast"]
    data = np.load(workdir.parent / "micro.npz")
    apply = network(workdir)
    for name, accuracies in result["shift"].items():
        for severity, accuracy in enumerate(accuracies, 1):
            ids = np.arange(len(data["test_images"]))
            images = jax.jit(corrupt, static_argnums=0)(name, 0, ids, data["test_images"], severity)
            right = np.argmax(apply(images), axis=-1) == data["test_labels"]
            assert accuracy == pytest.approx(right.mean(), abs=1.01 / 21), (name, severity)
    mean = np.mean([accuracy for accuracies in result["shift"].values() for accuracy in accuracies])
    assert result["mean_corruption_error"] == pytest.approx(1 - mean)


@pytest.mark.faults
def test_all_fifteen(workdir, capsys):
    result = run(capsys, f"--workdir={workdir}", "--shift")
    assert list(result["shift"]) == list(CORRUPTIONS)
    assert all(len(accuracies) == 5 for accuracies in result["shift"].values())


def test_views_are_averaged(workdir, capsys):
    one, two = (run(capsys, f"--workdir={workdir}", f"--views={views}") for views in (1, 2))
    assert (one["evaluation"]["views"], two["evaluation"]["views"]) == (1, 2)
    data = np.load(workdir.parent / "micro.npz")
    apply, images, labels = network(workdir), data["test_images"], data["test_labels"]
    logits = (apply(images) + apply(images[:, :, ::-1])) / 2
    expected = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), labels[:, None], -1).mean()
    assert two["loss"] == pytest.approx(expected, rel=1e-4)
    assert one["loss"] != two["loss"]


def test_what_is_no_corruption_is_refused(workdir):
    with pytest.raises(ConfigError, match=r"no corruption 'fogg'; did you mean fog\?"):
        evaluate.main([f"--workdir={workdir}", "--shift", "--corruptions=fogg"])
    with pytest.raises(ConfigError, match="--corruptions needs --shift"):
        evaluate.main([f"--workdir={workdir}", "--corruptions=fog"])
