"""Two real processes over loopback are one job: same batches, same losses, one set of files."""

import json
import signal

import numpy as np
import pytest

from resflax.files import read_lines
from tests.jobs import finish, losses, start, wait_for


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone") / "run"
    finish(start(workdir, 1, 4, 20))
    return workdir


@pytest.mark.parametrize("input_", ["resident", pytest.param("host", marks=pytest.mark.long)])
def test_losses_equal_those_of_one_process(alone, tmp_path, input_):
    outputs = finish(start(tmp_path / "run", 2, 2, 20, f"--config.data.input={input_}"))
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(alone), rtol=0, atol=1e-9)
    ours, theirs = (json.loads((folder / "result.json").read_text()) for folder in (tmp_path / "run", alone))
    assert (ours["process_count"], ours["device_count"]) == (2, 4)
    assert ours["test_accuracy"] == theirs["test_accuracy"]
    assert ours["images_scored"] == 360
    assert "{" not in outputs[1][0]  # process 1 has nothing to say, but for what Gloo prints by itself
    assert outputs[1][1] == ""
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["20"]


@pytest.mark.long
def test_a_signal_to_one_process_stops_both_at_one_step_and_another_topology_goes_on(alone, tmp_path):
    workdir = tmp_path / "run"
    slow = ("--config.checkpoint.every_steps=5", "--config.optim.accumulate=2")
    reference = tmp_path / "reference"
    finish(start(reference, 1, 4, 300, *slow))
    jobs = start(workdir, 2, 2, 300, *slow)
    wait_for((workdir / "checkpoints" / "5" / "manifest.json").exists)
    jobs[1].send_signal(signal.SIGTERM)
    outputs = finish(jobs, 143)
    assert "stopped by signal 15 at step" in outputs[0][1]
    stopped = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert 5 <= stopped < 300
    errors = finish(start(workdir, 1, 4, 300, *slow))[0][1]
    assert f"going on from step {stopped}" in errors
    np.testing.assert_allclose(losses(workdir)[: stopped + 5], losses(reference)[: stopped + 5], rtol=0, atol=1e-9)
    assert [row["step"] for row in read_lines(workdir / "metrics.jsonl")] == list(range(1, 301))


def test_incomplete_arguments_are_refused(command):
    done = command("train", "--num_processes=2")
    assert done.returncode == 2
    assert "must be given together" in done.stderr
    assert done.stderr.count("\n") == 1
