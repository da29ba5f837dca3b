"""Two processes are one job: where one of them cannot write, both go on, and both end."""

import socket
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.faults

PROGRAM = """
import sys
from concurrent import futures

import jax

port, index, root = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, index)
import jax.numpy as jnp
from etils import epath

from resflax.errors import StorageError
from resflax.training import sharding
from resflax.training.checkpoints import Checkpoints, committed_steps

everywhere = sharding.replicated(sharding.make_mesh())
full = False


def hook(event, arguments):
    if full and index == 0 and event == "open" and str(arguments[0]).startswith(root) and "progress.json" in str(arguments[0]):
        raise OSError(28, "No space left on device")


sys.addaudithook(hook)
said = []
checkpoints = Checkpoints(epath.Path(root), 1, max_failed_saves=3, say=said.append)


def save(step):
    state = jax.jit(lambda: {"kernel": jnp.arange(3000.0) * step, "step": jnp.int32(step)}, out_shardings=everywhere)()
    checkpoints.save(step, state, {}, {})
    futures.wait([checkpoints._committing] if checkpoints._committing else [])  # before the disk changes


save(1)
full = True
save(2)
full = False
save(3)
checkpoints.wait()
print("after one failure:", committed_steps(epath.Path(root)), len(said), flush=True)
full = True
try:
    for step in (4, 5, 6):
        save(step)
except StorageError as error:
    print("ended at", step, "by", error, flush=True)
checkpoints.close()
"""


def test_one_full_disk_is_a_failure_of_all(tmp_path, one_device_environment):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(port), str(index), str(tmp_path / "checkpoints")],
            env=one_device_environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in (0, 1)
    ]
    outputs = [job.communicate(timeout=300) for job in jobs]
    for job, (output, errors), reported in zip(jobs, outputs, (1, 0), strict=True):
        assert job.returncode == 0, errors
        assert f"after one failure: [3] {reported}" in output
        assert "ended at 6 by " in output
        assert "3 saves in a row have failed" in output
    assert "cannot write" in outputs[0][0]
    assert "No space left on device" in outputs[0][0]
    assert "could not be saved by another process of the job" in outputs[1][0]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"]
