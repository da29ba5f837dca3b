"""A folder of photographs made into a run, in memory or not."""

import dataclasses

import jax
import numpy as np
import pytest

from resflax.build import build, make_reader
from resflax.errors import DataError
from tests import micro
from tests.test_folder_training import TEST, TRAIN, write_photographs


def made(root, **changes):
    config = micro.config(root)
    data = dataclasses.replace(config.data, image_size=16, augment=("flip",), eval_batch_size=32, workers=2, **changes)
    return build(dataclasses.replace(config, data=data), jax.devices()[:1])


@pytest.fixture
def photographs(tmp_path):
    return write_photographs(tmp_path / "photographs")


@pytest.mark.parametrize("where", ["host", "resident"])
def test_prediction_reads_files_as_evaluation_does(where, photographs):
    run = made(photographs, input=where)
    read = make_reader(run.config, run.metadata())
    batch = run.test.materialise(next(run.test.evaluation_batches()), run.test.resident)
    for index, path in enumerate(sorted((photographs / "test").rglob("*.jpg"))):
        expected = run.test.preprocessing(read(path)[None])[0]
        np.testing.assert_allclose(batch["image"][index], expected, atol=1e-6)


def test_the_record_of_a_folder_does_not_depend_on_where_its_images_are(photographs):
    host, resident = (made(photographs, input=where) for where in ("host", "resident"))
    assert host.metadata()["preprocessing"] == resident.metadata()["preprocessing"]
    assert host.fingerprint == resident.fingerprint


@pytest.mark.parametrize("where", ["host", "resident"])
def test_damaged_files_are_left_out(where, photographs):
    path = photographs / "train" / "china" / "00.jpg"
    path.write_bytes(b"")
    run = made(photographs, input=where, unreadable="skip", max_unreadable_fraction=0.1)
    assert list(run.skipped) == [str(path)]
    assert (len(run.train), len(run.test)) == (2 * TRAIN - 1, 2 * TEST)


def test_nothing_but_damaged_files_is_refused(photographs):
    for path in (photographs / "train").rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=f"{2 * TRAIN} of {2 * TRAIN} files in .* cannot be read"):
        made(photographs, unreadable="skip", max_unreadable_fraction=1.0)


def test_a_folder_under_a_data_sets_name_has_its_own_statistics(photographs, tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    photographs.rename(tmp_path / "digits" / "mine")
    monkeypatch.chdir(tmp_path)
    assert made("digits/mine").train.preprocessing.mean.shape == (3,)
