"""What is made again and again in one process, as a sweep or a notebook does, leaves nothing behind."""

import json
import subprocess
import sys

import pytest

from tests.faults.test_flat import ALLOCATOR, NEEDS_PROC
from tests.micro import write_npz

pytestmark = [pytest.mark.faults, NEEDS_PROC]

PROGRAM = """
import dataclasses, gc, itertools, json, os, sys
from pathlib import Path
from resflax import train
from resflax.build import build, record
from resflax.config import CheckpointConfig, Config, DataConfig, ModelConfig
from tests.faults.test_flat import private_kilobytes

record.draw = lambda *_: None  # matplotlib's own memory is not the subject
root, path = Path(sys.argv[1]), sys.argv[2]
config = Config(
    total_steps=2,
    log_every_steps=1,
    eval_every_steps=1,
    data=DataConfig(name=path, batch_size=8, eval_batch_size=8, input="host", workers=2, augment=("pad_crop:1", "flip")),
    model=ModelConfig("cifar_resnet8", {"width": 4}),
    checkpoint=CheckpointConfig(every_steps=1, keep_best=0),
)

def held():
    gc.collect()
    return private_kilobytes(os.getpid()) / 1024, len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

def trainers(numbers):
    for number in numbers:
        train.train_and_evaluate(config, str(root / f"run{number}"))

def pipelines(numbers):
    for number in numbers:
        run = build(dataclasses.replace(config, seed=number))
        batch_at = run.train.training_batches()
        for step in (0, 1, number):  # the batches after the last one are being made when they are given up
            batch_at(step)
        for _ in itertools.islice(run.test.evaluation_batches(), 1 + number % 3):
            pass

trainers(range(5))
pipelines(range(5))
print(json.dumps(held()))
trainers(range(5, 30))
print(json.dumps(held()))
pipelines(range(5, 55))
print(json.dumps(held()))
"""


def test_trainers_and_pipelines_made_by_the_dozen(one_device_environment, tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(write_npz(tmp_path))]
    environment = {**one_device_environment, **ALLOCATOR}
    child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert child.returncode == 0, child.stderr
    start, trained, iterated = (json.loads(line) for line in child.stdout.splitlines())
    report = {
        "megabytes": [round(one[0], 1) for one in (start, trained, iterated)],
        "threads": [one[1] for one in (start, trained, iterated)],
        "open files": [one[2] for one in (start, trained, iterated)],
    }
    print(json.dumps(report))
    assert iterated[0] - start[0] <= 20, report
    for later in (trained, iterated):
        assert later[1] <= start[1] + 4, report  # the pools of libraries grow to their size; nothing of 25 or 50
        assert later[2] <= start[2] + 2, report
