"""What storage says becomes one sentence."""

import sys

import pytest
from etils import epath

from resflax.errors import ConfigError, DataError, StorageError
from resflax.files import read_lines, storage


@pytest.mark.parametrize("path", ["runs/x", "gs://bucket/x"])
def test_an_error_of_the_system_is_named(path):
    with pytest.raises(StorageError, match=f"^cannot write {path}: No space left on device; check"), storage("write", path):
        raise OSError(28, "No space left on device")


def test_an_object_stores_own_errors_are_named():
    with (
        pytest.raises(StorageError, match=r"^cannot read gs://bucket/x: credentials were not found; check"),
        storage("read", "gs://bucket/x"),
    ):
        raise RuntimeError("credentials were not found")


def test_a_mistake_of_ours_is_not_blamed_on_the_disk():
    with pytest.raises(RuntimeError), storage("read", "runs/x"):
        raise RuntimeError("a mistake")


def test_an_error_that_is_already_a_sentence_stays():
    with pytest.raises(DataError, match=r"^as it is$"), storage("read", "gs://bucket/x"):
        raise DataError("as it is")


def test_a_store_without_its_client_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ConfigError, match=r"gcsfs.*; pip install 'resflax\[gcs\]'$"):
        read_lines(epath.Path("gs://bucket/metrics.jsonl"))
