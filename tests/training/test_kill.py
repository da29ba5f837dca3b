"""A real process, really killed."""

import dataclasses
import json
import random
import signal
import subprocess
import sys
import time

import jax
import pytest

from resflax.build import build
from resflax.config import to_dict
from resflax.files import Workdir, read_lines
from resflax.training.checkpoints import committed_steps, latest_checkpoint
from resflax.tree import digest
from tests import micro

PROGRAM = """
import json, sys
from resflax.config import from_dict
from resflax.train import train_and_evaluate
train_and_evaluate(from_dict(json.load(open(sys.argv[1]))), sys.argv[2])
"""


@pytest.mark.long
@pytest.mark.parametrize("kills", [1, 3])
def test_kills_and_a_restart_end_in_the_state_of_the_unbroken_run(kills, tmp_path, one_device_environment):
    config = micro.config(micro.write_npz(tmp_path))
    config = dataclasses.replace(
        config, total_steps=400 * kills, checkpoint=dataclasses.replace(config.checkpoint, every_steps=40), eval_every_steps=40
    )
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))

    def start(name):
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / "config.json"), str(tmp_path / name)]
        return subprocess.Popen(command, env=one_device_environment, stderr=subprocess.PIPE, text=True)

    def finish(name):
        process = start(name)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors

    finish("unbroken")
    rng = random.Random(0)
    checkpoints = Workdir(tmp_path / "killed").checkpoints
    committed = 0
    for _ in range(kills):
        process = start("killed")
        target = committed + 40 * rng.randint(2, 5)
        deadline = time.monotonic() + 120
        while max(committed_steps(checkpoints), default=0) < target:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))  # into whatever it is doing: a step, an evaluation, a save
        process.send_signal(signal.SIGKILL)
        process.communicate()
        saved = latest_checkpoint(checkpoints)
        assert saved.step >= target  # no committed step is lost
        committed = saved.step
    assert committed < 400 * kills
    finish("killed")

    run = build(config, jax.devices()[:1])
    ends = [
        latest_checkpoint(Workdir(tmp_path / name).checkpoints).restore(run.abstract_state()) for name in ("unbroken", "killed")
    ]
    for part in ("step", "params", "batch_stats", "opt_state", "ema"):
        assert digest(getattr(ends[0], part)) == digest(getattr(ends[1], part)), part
    rows = [
        [{k: v for k, v in row.items() if k != "images_per_second"} for row in read_lines(Workdir(tmp_path / name).metrics)]
        for name in ("unbroken", "killed")
    ]
    assert rows[0] == rows[1]
    records = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("unbroken", "killed")]
    assert records[0]["loss_digest"] == records[1]["loss_digest"]
    assert records[0]["test_accuracy"] == records[1]["test_accuracy"]
