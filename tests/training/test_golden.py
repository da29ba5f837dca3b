"""The checkpoints of earlier versions are read, and their networks say what they said: tests/golden/make.py."""

import numpy as np
import pytest

from resflax.version import __version__
from tests.golden.make import FOLDER, logits

VERSIONS = sorted(path.name for path in FOLDER.iterdir() if (path / "logits.npz").exists())


def test_this_version_has_one():
    assert __version__ in VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_a_golden_checkpoint_gives_the_logits_it_gave(version):
    golden = np.load(FOLDER / version / "logits.npz")
    found = logits(FOLDER / version, golden["images"])
    np.testing.assert_allclose(found, golden["logits"], rtol=0, atol=1e-5)
    assert np.ptp(golden["logits"]) > 1  # of a network that has learned something


@pytest.mark.parametrize("version", VERSIONS)
def test_a_golden_checkpoint_is_small_and_names_no_folder_of_its_machine(version):
    files = [file for file in (FOLDER / version).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 120_000
    assert not [file for file in files if b"/tmp/" in file.read_bytes()]
