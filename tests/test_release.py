"""What a release says in several places is the same everywhere."""

import re

import yaml

from resflax.version import __version__
from tests.conftest import ROOT


def test_one_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
    assert re.search(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == __version__


def test_oldest_versions_are_those_that_are_asked_for():
    """`.ci/oldest.txt` pins what `>=` in pyproject.toml allows."""
    pinned = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / ".ci/oldest.txt").read_text(), re.MULTILINE))
    asked = dict(re.findall(r'^    "([\w-]+)(?:\[\w+\])?>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    del asked["numpy"]  # JAX asks for a newer one
    assert asked.keys() <= pinned.keys()
    for name, version in asked.items():
        parts = version.split(".")
        assert pinned[name].split(".")[: len(parts)] == parts, name


def test_every_lane_of_the_workflow_is_a_make_target():
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    used = {*re.findall(r"make ([a-z-]+)", workflow), *re.search(r"lane: \[(.*)\]", workflow)[1].split(", ")}
    assert used <= {*re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)}
    assert len(used) >= 6
