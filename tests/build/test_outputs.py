import dataclasses

import jax
import numpy as np
import pytest

from resflax.build import evaluation_pipeline, make_evaluate, open_trained, outputs, split_outputs
from resflax.data.pipeline import HostPipeline
from resflax.errors import DataError

EXAMPLES = 60  # of the evaluation split, in batches of 32


@pytest.fixture(scope="module")
def opened(squares_run):
    return open_trained(squares_run)


def check(trained):
    found = split_outputs(trained)
    np.testing.assert_array_equal(found.ids, np.arange(EXAMPLES))
    np.testing.assert_array_equal(found.labels, trained.images.labels)
    views, num_classes = trained.config.data.eval_views, len(trained.images.class_names)
    scores = make_evaluate(trained.model, trained.pipeline, trained.mesh, num_classes, views)(trained.variables)
    assert (found.logits.argmax(axis=1) == found.labels).mean() == pytest.approx(scores.accuracy, abs=1e-9)
    shifted = found.logits - found.logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(EXAMPLES), found.labels]
    assert losses.mean() == pytest.approx(scores.loss, rel=1e-5)
    dense = trained.variables["params"]["head"]["dense"]
    np.testing.assert_allclose(found.features @ dense["kernel"] + dense["bias"], found.logits, rtol=1e-4, atol=1e-4)
    return found


def test_they_are_those_that_evaluate_scores(opened):
    found = check(opened)
    assert {part.dtype.name for part in found} == {"int32", "float32"}
    assert all(type(part) is np.ndarray for part in found)


def test_of_views_they_are_averaged_as_in_evaluation(opened):
    settings = dataclasses.replace(opened.config.data, eval_views="mirror", input="host")
    config = dataclasses.replace(opened.config, data=settings)
    pipeline = evaluation_pipeline(config, opened.images, opened.pipeline.preprocessing, opened.mesh)
    assert isinstance(pipeline, HostPipeline)
    found = check(opened._replace(config=config, pipeline=pipeline))
    assert np.abs(found.logits - split_outputs(opened).logits).max() > 1e-3


def test_of_another_split(squares_run):
    assert len(split_outputs(open_trained(squares_run, "train")).ids) == 480


def test_what_is_too_large_for_memory_lies_in_a_file(opened, monkeypatch):
    expected = split_outputs(opened)
    monkeypatch.setattr(outputs, "IN_MEMORY", expected.features.nbytes - 1)
    found = split_outputs(opened)
    assert [type(part) for part in found] == [np.ndarray, np.ndarray, np.ndarray, np.memmap]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_logits_that_are_not_finite_are_no_outputs(opened):
    broken = jax.tree.map(lambda leaf: leaf * np.nan, opened.variables)
    with pytest.raises(DataError, match="those of example 0 of split test are not; the weights are unusable"):
        split_outputs(opened._replace(variables=broken))
