"""Huge pages: who asks for them, and what that changes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from resflax import pages
from resflax.pages import STARTED_AGAIN, TUNABLES, VARIABLES, use_huge_pages
from tests.conftest import ROOT

SETTING = "/sys/kernel/mm/transparent_hugepage/enabled"
MADVISE = "always [madvise] never"
COMMAND = ["python", "-X", "dev", "-m", "resflax.train", "--help"]


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
def test_a_program_is_started_again_only_where_it_gains(setting, tunables, command, starts_again, monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(pages, "_SETTING", tmp_path / "enabled")
    if setting is not None:
        (tmp_path / "enabled").write_text(f"{setting}\n")
    monkeypatch.setattr(sys, "orig_argv", command)
    monkeypatch.setattr(os, "execv", lambda *arguments: started.append((*arguments, os.environ[TUNABLES])))
    monkeypatch.setattr(os, "environ", {} if tunables is None else {TUNABLES: tunables})
    use_huge_pages()
    expected = [] if starts_again is None else [(sys.executable, [sys.executable, *command[1:]], starts_again)]
    assert started == expected


def test_a_program_whose_variable_is_removed_is_not_started_for_ever(monkeypatch, tmp_path):
    """As the loader does it for programs with capabilities."""
    started = []
    (tmp_path / "enabled").write_text(MADVISE)
    monkeypatch.setattr(pages, "_SETTING", tmp_path / "enabled")
    monkeypatch.setattr(sys, "orig_argv", COMMAND)
    monkeypatch.setattr(os, "environ", {STARTED_AGAIN: "1"})
    monkeypatch.setattr(os, "execv", lambda *arguments: started.append(arguments))
    use_huge_pages()
    assert not started


def test_a_program_that_cannot_be_started_again_goes_on(monkeypatch, tmp_path):
    def refused(*arguments):
        raise PermissionError

    (tmp_path / "enabled").write_text(MADVISE)
    monkeypatch.setattr(pages, "_SETTING", tmp_path / "enabled")
    monkeypatch.setattr(sys, "orig_argv", COMMAND)
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(os, "execv", refused)
    use_huge_pages()


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
    set_by_us = ["glibc.malloc.hugetlb=1"] if Path(SETTING).is_file() and "[madvise]" in Path(SETTING).read_text() else []
    assert [variable for _, variable in starts] == ["None", *set_by_us]
    assert len({process for process, _ in starts}) == 1
