"""Huge pages: who asks for them, and what that changes."""

import os
import subprocess
import sys

import pytest

from resflax import pages
from resflax.pages import STARTED_AGAIN, TUNABLES, VARIABLES, use_huge_pages
from tests.conftest import ROOT

MADVISE = "always [madvise] never"
COMMAND = ["python", "-X", "dev", "-m", "resflax.train", "--help"]


@pytest.fixture
def started(monkeypatch, tmp_path):
    """`started(setting, environment, command)`: the programs that a process like this would start in its place."""

    def run(setting, environment, command=COMMAND):
        found = []
        monkeypatch.setattr(pages, "_SETTING", tmp_path / "enabled")
        if setting is not None:
            (tmp_path / "enabled").write_text(f"{setting}\n")
        monkeypatch.setattr(sys, "orig_argv", command)
        monkeypatch.setattr(os, "execv", lambda *arguments: found.append((*arguments, os.environ[TUNABLES])))
        monkeypatch.setattr(os, "environ", environment)
        use_huge_pages()
        return found

    return run


@pytest.mark.parametrize(
    ("setting", "tunables", "command", "starts_again"),
    [
        (MADVISE, None, COMMAND, "glibc.malloc.hugetlb=1"),
        (MADVISE, "glibc.malloc.check=0", COMMAND, "glibc.malloc.check=0:glibc.malloc.hugetlb=1"),
        (MADVISE, "glibc.malloc.hugetlb=0", COMMAND, None),  # the user's word holds
        ("[always] madvise never", None, COMMAND, None),
        ("always madvise [never]", None, COMMAND, None),
        (None, None, COMMAND, None),  # no Linux
        (MADVISE, None, ["python", "-m", "ipykernel_launcher", "-f", "resflax.train"], None),
        (MADVISE, None, ["python", "-m", "pdb", "-m", "resflax.train"], None),
        (MADVISE, None, ["python", "-c", "pass"], None),
        (MADVISE, None, ["python", "train.py"], None),
    ],
)
def test_a_program_is_started_again_only_where_it_gains(setting, tunables, command, starts_again, started):
    found = started(setting, {} if tunables is None else {TUNABLES: tunables}, command)
    assert found == ([] if starts_again is None else [(sys.executable, [sys.executable, *command[1:]], starts_again)])


def test_a_program_whose_variable_is_removed_is_not_started_for_ever(started):
    """As the loader does it for programs with capabilities."""
    assert not started(MADVISE, {STARTED_AGAIN: "1"})


def test_a_program_that_cannot_be_started_again_goes_on(monkeypatch, tmp_path):
    def refused(*arguments):
        raise PermissionError

    (tmp_path / "enabled").write_text(MADVISE)
    monkeypatch.setattr(pages, "_SETTING", tmp_path / "enabled")
    monkeypatch.setattr(sys, "orig_argv", COMMAND)
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(os, "execv", refused)
    use_huge_pages()
    assert os.environ[STARTED_AGAIN] == "1"


# Python runs this at each start.
NOTES_EACH_START = f"""
import os
with open(os.environ["STARTS"], "a") as file:
    print(os.getpid(), os.environ.get({TUNABLES!r}), file=file)
"""


def test_a_command_is_the_same_process_with_the_variable_set(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(NOTES_EACH_START)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment |= {"PYTHONPATH": path, "STARTS": str(tmp_path / "starts"), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "resflax.summary", "--no-such-flag"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("resflax: ")
    starts = [line.split(" ", 1) for line in (tmp_path / "starts").read_text().splitlines()]
    to_those_who_ask = pages._SETTING.is_file() and "[madvise]" in pages._SETTING.read_text()
    set_by_us = ["glibc.malloc.hugetlb=1"] if to_those_who_ask else []
    assert [variable for _, variable in starts] == ["None", *set_by_us]
    assert len({process for process, _ in starts}) == 1
