"""What a command does to its process before it uses a device."""

import gc
import os
import subprocess
import sys

import jax
import pytest

from resflax.cli import avoid_broken_fusion

OPTION = "--xla_cpu_experimental_ynn_fusion_type"


@pytest.mark.parametrize(
    ("version", "before", "after"),
    [
        ((0, 10, 2), "--one=1", "--one=1"),
        ((0, 12, 0), "--one=1", f"--one=1 {OPTION}="),
        ((0, 12, 1), f"{OPTION}=dot --one=1", f"{OPTION}=dot --one=1"),
        ((0, 13, 0), "--one=1", "--one=1"),
    ],
)
def test_the_fusion_is_switched_off_where_it_is_broken_and_not_asked_for(version, before, after, monkeypatch):
    monkeypatch.setattr(jax, "__version_info__", version)
    monkeypatch.setenv("XLA_FLAGS", before)
    avoid_broken_fusion()
    avoid_broken_fusion()
    assert os.environ["XLA_FLAGS"] == after


def test_a_command_looks_for_garbage_less_often_than_python():
    program = "import gc; from resflax import cli; cli.run(lambda _: print(gc.get_threshold()[0]) or 0)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert int(found.stdout) > gc.get_threshold()[0]
