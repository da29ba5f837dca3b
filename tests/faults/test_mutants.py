"""The tests are tested: each patch in tests/mutants breaks the package in one way, and the tests it names must fail.

A patch says on its first line what it breaks, and then which tests notice; it is applied to a copy of the package.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / "tests" / "mutants"


class Mutant(NamedTuple):
    path: Path
    says: str
    tests: tuple[str, ...]


def read(path):
    says, *rest = path.read_text().partition("\n--- ")[0].splitlines()
    return Mutant(path, says, tuple(line for line in rest if line.startswith("tests/")))


MUTANTS = [read(path) for path in sorted(FOLDER.glob("*.patch"))]


def apply(mutant, folder, *options):
    """Applies the patch to `folder`, no checkout; only the lines that it takes away must be there as they were."""
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    command = ["git", "apply", "-C0", *options, str(mutant.path)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (
        f"tests/mutants/{mutant.path.name} no longer applies, since the code it breaks has changed: {done.stderr.strip()}. In "
        "a clean checkout break that code again by hand, put the output of `git diff -U1 resflax` below the head of the patch "
        f"({mutant.says}), and undo it with `git checkout resflax`"
    )


def copy_package(folder):
    ignored = shutil.ignore_patterns("__pycache__", "*.patch")
    for name in ("resflax", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def run_tests(folder, names):
    """The exit code of pytest in a copy of the package, the tests that failed, and what was printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(folder), "COLUMNS": "300"}
    options = ("-q", "-rf", "--tb=short", "-p", "no:xdist", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", *options, *names]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1800)
    summary = (line.partition(" ") for line in done.stdout.splitlines())
    failed = {name.partition(" - ")[0] for outcome, _, name in summary if outcome == "FAILED"}
    return done.returncode, failed, done.stdout + done.stderr


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.path.stem)
def test_a_patch_applies_and_names_the_tests_that_notice(mutant):
    assert mutant.tests
    assert mutant.says.endswith(".")
    apply(mutant, ROOT, "--check")


@pytest.mark.faults
def test_without_a_patch_all_named_tests_pass(tmp_path):
    names = sorted({name for mutant in MUTANTS for name in mutant.tests})
    code, _, output = run_tests(copy_package(tmp_path), names)
    assert code == 0, output


@pytest.mark.faults
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.path.stem)
def test_what_a_patch_breaks_is_noticed(mutant, tmp_path):
    apply(mutant, copy_package(tmp_path))
    _, failed, output = run_tests(tmp_path, mutant.tests)
    assert failed == {*mutant.tests}, f"{mutant.says} Not every test that should notice does:\n{output}"
