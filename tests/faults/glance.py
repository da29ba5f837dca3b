"""What a checkpoint gives on some devices: the restored state, the next batches and the next losses.

python -m tests.faults.glance CONFIG.json WORKDIR HOST:PORT PROCESSES INDEX
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from resflax.build import build
from resflax.config import from_dict
from resflax.files import Workdir
from resflax.training.checkpoints import latest_checkpoint
from resflax.tree import digest

STEPS = 3


def glance(config, workdir, devices):
    """`{"step", "state": its digest, "ids": those of the next global batches, "losses": the next ones}`."""
    run = build(config, devices)
    saved = latest_checkpoint(Workdir(workdir).checkpoints)
    state = saved.restore(run.abstract_state())
    restored, steps, rows = digest(state), range(saved.step, saved.step + STEPS), run.train.training_batches()
    ids = [np.concatenate(multihost_utils.process_allgather(rows(step)["id"][None])) for step in steps]
    _, reports = run.compile_chunk(state)(state, steps.start, steps.stop)
    return {
        "step": saved.step,
        "state": restored,
        "ids": [batch.ravel().tolist() for batch in ids],
        "losses": np.asarray(reports.loss).tolist(),
    }


if __name__ == "__main__":
    config, workdir, address, processes, index = sys.argv[1:]
    jax.distributed.initialize(address, int(processes), int(index))
    config = from_dict(json.loads(Path(config).read_text()))
    print(json.dumps(glance(config, Path(workdir), jax.devices())))
