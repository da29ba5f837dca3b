"""Jobs of real processes over loopback: start them, wait for what they do, gather what they said."""

import os
import socket
import subprocess
import sys
import time

import numpy as np

from resflax.files import read_lines
from tests.conftest import ROOT

# Small and in float64: sums over devices come in another order, and 1e-9 still holds.
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
# Compiles in a moment, which counts where a job is started again and again.
SMALL = (
    "--config.model.name=tutorial_cnn",
    "--config.data.image_size=32",
    "--config.data.batch_size=64",
    "--config.log_every_steps=1",
    "--config.eval_every_steps=5",
)
TRAIN = ("-m", "resflax.train")


def environment(devices):
    """That of a process with so many virtual CPU devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}


def start(workdir, processes, devices, steps, *extra, program=TRAIN, folder=None, config=CONFIG):
    """A job of `processes` processes with `devices` devices each; arguments in `extra` go to all.

    `program` holds the interpreter's arguments, those of `resflax.train` or of a program that takes the same flags.
    Each process runs in `folder(index)`, and `config` comes before `extra`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    jobs = []
    for index in range(processes):
        command = [sys.executable, *program, f"--workdir={workdir}", *config, *extra, f"--config.total_steps={steps}"]
        if processes > 1:
            command += [f"--coordinator=127.0.0.1:{port}", f"--num_processes={processes}", f"--process_id={index}"]
        jobs.append(
            subprocess.Popen(
                command,
                env=environment(devices),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=folder and folder(index),
            )
        )
    return jobs


def kill(jobs):
    """Ends what is still there."""
    for job in jobs:
        job.kill()


def finish(jobs, code=0, timeout=600):
    """Waits for all; returns (stdout, stderr) of each, after checking that its exit code is `code`."""
    try:
        outputs = [job.communicate(timeout=timeout) for job in jobs]
    finally:
        kill(jobs)
    for job, (_, errors) in zip(jobs, outputs, strict=True):
        assert job.returncode == code, errors
    return outputs


def wait_for(condition, seconds=300):
    """Polls until `condition()` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"nothing came in {seconds} s"
        time.sleep(0.02)


def losses(workdir):
    """The training losses that a run wrote."""
    return np.array([row["train_loss"] for row in read_lines(workdir / "metrics.jsonl")])
