"""Two real processes over loopback are one job: same batches, same losses, one set of files."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from resflax.files import read_lines
from tests.conftest import ROOT

CONFIG = (
    "--config.model.name=cifar_resnet8",
    "--config.model.kwargs.width=8",
    "--config.data.batch_size=64",
    "--config.batch_norm.group_size=8",
    "--config.precision.compute=float64",
    "--config.log_every_steps=1",
    "--config.eval_every_steps=5",
    "--config.optim.learning_rate=0.1",
)


def environment(devices):
    flags = f"--xla_force_host_platform_device_count={devices}"
    return {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}


def start(workdir, processes, devices, steps, *extra):
    """A job of `processes` processes with `devices` devices each; arguments in `extra` go to all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    jobs = []
    for index in range(processes):
        command = [sys.executable, "-m", "resflax.train", f"--workdir={workdir}", *CONFIG, *extra]
        command.append(f"--config.total_steps={steps}")
        if processes > 1:
            command += [f"--coordinator=127.0.0.1:{port}", f"--num_processes={processes}", f"--process_id={index}"]
        jobs.append(
            subprocess.Popen(command, env=environment(devices), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    return jobs


def finish(jobs, code=0):
    outputs = [job.communicate(timeout=240) for job in jobs]
    for job, (_, errors) in zip(jobs, outputs, strict=True):
        assert job.returncode == code, errors
    return outputs


def losses(workdir):
    return np.array([row["train_loss"] for row in read_lines(workdir / "metrics.jsonl")])


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
    deadline = time.monotonic() + 120
    while not (workdir / "checkpoints" / "5" / "manifest.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
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
