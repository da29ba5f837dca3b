"""Runs of `tests/micro.py` as real processes: started, ended from outside or from inside, compared."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax

from resflax.build import build
from resflax.config import to_dict
from resflax.files import Workdir, read_lines
from resflax.training.checkpoints import latest_checkpoint
from resflax.tree import digest
from tests.conftest import ROOT

PARTS = ("step", "params", "batch_stats", "opt_state", "ema")
CLOCKS = ("images_per_second", "train_seconds", "wall_seconds", "window_seconds")
DELIVER = Path(__file__).parent / "deliver"
EXPERIMENT = """
import json
from pathlib import Path
from resflax.config import from_dict

def get_config(variant=None):
    return from_dict(json.loads(Path(__file__).with_suffix(".json").read_text()))
"""


def write_experiment(folder, config):
    """A file for `--config`."""
    (folder / "micro.json").write_text(json.dumps(to_dict(config)))
    path = folder / "micro.py"
    path.write_text(EXPERIMENT)
    return path


class Training:
    """`python -m resflax.train`, started at once; `deliveries` are those of tests/faults/deliver/sitecustomize.py."""

    def __init__(self, experiment, workdir, deliveries=(), devices=1):
        workdir.parent.mkdir(exist_ok=True)
        self.log = workdir.with_name(f"{workdir.name}.log")
        self._delivered = workdir.with_name(f"{workdir.name}.delivered")
        self._delivered.unlink(missing_ok=True)
        flags = f"--xla_force_host_platform_device_count={devices}"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}
        if deliveries:
            environment |= {
                "PYTHONPATH": f"{DELIVER}{os.pathsep}{ROOT}",
                "DELIVER": json.dumps(deliveries),
                "DELIVERED": str(self._delivered),
                "CHECKPOINTS": str(Workdir(workdir).checkpoints),
            }
        command = [sys.executable, "-m", "resflax.train", f"--config={experiment}", f"--workdir={workdir}"]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=log)

    @property
    def said(self):
        return self.log.read_text(errors="replace")

    @property
    def delivered(self):
        """What the process wrote down when it sent itself a signal."""
        lines = self._delivered.read_text().splitlines() if self._delivered.exists() else []
        return [json.loads(line) for line in lines]

    def finish(self, code=0, seconds=900):
        """Waits for the end, which must have this exit code; returns stderr."""
        try:
            self.process.wait(seconds)
        finally:
            self.kill()
        said = self.said
        assert self.process.returncode == code, said
        assert "Traceback" not in said, said
        return said

    def kill(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


def outcome(config, workdir):
    """Everything of a finished run that must not depend on what happened on the way, part by part."""
    run = build(config, jax.devices()[:1])
    files = Workdir(workdir)
    saved = latest_checkpoint(files.checkpoints)
    state = saved.restore(run.abstract_state())
    return {
        **{part: digest(getattr(state, part)) for part in PARTS},
        "progress": without_clocks(saved.progress),
        "score": saved.score,
        "rows": [without_clocks(row) for row in read_lines(files.metrics)],
        "record": without_clocks(json.loads(files.result.read_text())),
    }


def without_clocks(values):
    return {name: value for name, value in values.items() if name not in CLOCKS}


def debris(workdir):
    """Files of a finished run that do not belong there."""
    belong = re.compile(
        r"config\.json|metrics\.jsonl|result\.json|figures/(curves|confusion)\.png|events\.out\.tfevents\.[^/]*"
        r"|checkpoints/\d+/(state/.*|(progress|metadata|manifest)\.json)|\.lock|lock"
    )
    files = [path.relative_to(workdir).as_posix() for path in workdir.rglob("*") if path.is_file()]
    unknown = [name for name in files if not belong.fullmatch(name) or "tmp" in name]
    unfinished = [path for path in Workdir(workdir).checkpoints.iterdir() if not (path / "manifest.json").exists()]
    return unknown + unfinished
