import jax
import numpy as np
import pytest

from resflax.build import open_trained, outputs, split_outputs
from resflax.config import Config, DataConfig, ModelConfig
from resflax.errors import DataError
from resflax.evaluate import evaluate_workdir
from resflax.train import train_and_evaluate
from tests import micro

EXAMPLES = 21  # of the evaluation split, in batches of 8


def trained(folder, **data):
    """A workdir of a few steps, whose evaluation batches do not divide the split."""
    settings = DataConfig(str(micro.write_npz(folder, test=EXAMPLES)), batch_size=16, eval_batch_size=8, **data)
    config = Config(total_steps=8, data=settings, model=ModelConfig("cifar_resnet8", {"width": 4}))
    train_and_evaluate(config, str(folder / "run"))
    return str(folder / "run")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("outputs"))


def check(workdir):
    opened = open_trained(workdir)
    found = split_outputs(opened)
    np.testing.assert_array_equal(found.ids, np.arange(EXAMPLES))
    np.testing.assert_array_equal(found.labels, opened.images.labels)
    scores = evaluate_workdir(workdir)
    assert (found.logits.argmax(axis=1) == found.labels).mean() == pytest.approx(scores["accuracy"], abs=1e-9)
    shifted = found.logits - found.logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(EXAMPLES), found.labels]
    assert losses.mean() == pytest.approx(scores["loss"], rel=1e-5)
    dense = opened.variables["params"]["head"]["dense"]
    np.testing.assert_allclose(found.features @ dense["kernel"] + dense["bias"], found.logits, rtol=1e-4, atol=1e-5)
    return found


def test_they_are_those_that_evaluate_scores(workdir):
    found = check(workdir)
    assert {part.dtype.name for part in found} == {"int32", "float32"}
    assert all(type(part) is np.ndarray for part in found)


def test_of_views_they_are_averaged_as_in_evaluation(tmp_path):
    check(trained(tmp_path, eval_views="mirror_shift", input="host"))


def test_of_another_split(workdir):
    found = split_outputs(open_trained(workdir, "train"))
    assert len(found.ids) == 60


def test_what_is_too_large_for_memory_lies_in_a_file(workdir, monkeypatch):
    opened = open_trained(workdir)
    expected = split_outputs(opened)
    monkeypatch.setattr(outputs, "IN_MEMORY", expected.features.nbytes - 1)
    found = split_outputs(opened)
    assert [type(part) for part in found] == [np.ndarray, np.ndarray, np.ndarray, np.memmap]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_logits_that_are_not_finite_are_no_outputs(workdir):
    opened = open_trained(workdir)
    broken = jax.tree.map(lambda leaf: leaf * np.nan, opened.variables)
    with pytest.raises(DataError, match="those of example 0 of split test are not; the weights are unusable"):
        split_outputs(opened._replace(variables=broken))
