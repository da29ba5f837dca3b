"""A save is killed before each of its file operations; the next process finds the newest committed step and no debris."""

import json
import os
import signal
import subprocess
import sys

import jax
import pytest
from etils import epath

from resflax.training.checkpoints import Checkpoints, latest_checkpoint
from resflax.tree import digest
from tests.conftest import ROOT
from tests.faults.kill_points import SCENARIOS, state


def abstract(tree):
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one), tree)


@pytest.mark.parametrize("cases", [24, pytest.param(0, marks=pytest.mark.faults)], ids=["some", "all"])
def test_a_save_killed_anywhere_loses_no_committed_step(cases, tmp_path, one_device_environment):
    command = [sys.executable, "-m", "tests.faults.kill_points", str(tmp_path), str(cases)]
    done = subprocess.run(command, env=one_device_environment, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["tried"]) == (cases or sum(found["counts"].values()))
    assert len(found["tried"]) >= (24 if cases else 96)
    outcomes = set()
    for name, point, status, before in found["tried"]:
        where = f"{name}, before operation {point}, after {before[-1:]}"
        assert os.WIFSIGNALED(status), where
        assert os.WTERMSIG(status) == signal.SIGKILL, where
        assert len(before) == point, where
        there, keep, broken = SCENARIOS[name]
        new = there + 1
        committed = f"os.rename {new}/manifest.json" in before
        newest = new if committed else there
        root = epath.Path(tmp_path / name / str(point))
        said = []
        saved = latest_checkpoint(root, said.append)  # what `predict` would see
        assert (saved.step if saved else 0) == newest, where
        if saved:
            assert saved.progress == {"seen": newest}, where
            assert digest(saved.restore(abstract(state(1)))) == digest(state(newest)), where
        # Only what was damaged before is called damaged.
        assert all("/2/manifest.json is missing" in text for text in said), (where, said)
        assert broken or not said, (where, said)

        checkpoints = Checkpoints(root, keep, say=said.append)
        assert latest_checkpoint(root).step == newest if newest else latest_checkpoint(root) is None, where
        checkpoints.save(newest + 1, state(newest + 1), {"seen": newest + 1}, {})
        checkpoints.close()
        kept = {str(step) for step in range(1, newest + 2)[-keep:]}
        names = {path.name for path in root.iterdir()}
        assert {name for name in names if not name.startswith("damaged-2-")} == kept, where
        assert len(names - kept) == broken, where
        outcomes.add((name, committed))
    assert {name for name, _ in outcomes} == set(SCENARIOS)
    assert {committed for _, committed in outcomes} == {False, True}
