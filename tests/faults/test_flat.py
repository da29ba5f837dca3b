"""3,000 steps of the host path, after twice as many of warm-up, leave memory, threads and open files where they are.

With 20 evaluations and 20 checkpoints among them, and nothing is compiled after the first of each.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resflax.files import read_lines
from tests.conftest import ROOT

NEEDS_PROC = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from Linux' /proc")
pytestmark = [pytest.mark.faults, NEEDS_PROC]
# A hash table, with the sizes of Python's for strings, doubles from 1.9 to 3.8 MB at about step 5300: before what is measured.
WARM_UP, STEPS, EVERY = 6000, 9000, 150
# Memory that is free is given back at once: what is left is what the run holds, not what its threads' heaps once needed. And in
# pages of 4 KiB: of those of 2 MiB, which a run asks for by itself, one more or less is two thirds of what the bound allows.
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0",
}
WINDOW = 200  # steps
SETTINGS = (
    "--config=quickstart",
    "--config.data.input=host",
    "--config.data.workers=2",
    "--config.data.image_size=16",
    "--config.data.augment=random_resized_crop,flip",
    "--config.data.batch_size=8",
    "--config.data.eval_batch_size=8",
    "--config.batch_norm.group_size=none",
    "--config.model.name=cifar_resnet8",
    "--config.model.kwargs.width=4",
    f"--config.total_steps={STEPS}",
    "--config.log_every_steps=50",
    f"--config.eval_every_steps={EVERY}",
    f"--config.checkpoint.every_steps={EVERY}",
)


def write_images(root):
    rng = np.random.default_rng(0)
    for split, count in (("train", 50), ("test", 10)):
        for label, name in enumerate(("dark", "bright")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(100 * label, 100 * label + 100, (*rng.integers(20, 60, 2), 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.jpg")


def private_kilobytes(pid):
    """Memory of its own: what it shares with files is the page cache's business."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Dirty", "Swap:")))


def count(process, what):
    return len(os.listdir(f"/proc/{process.pid}/{what}"))


def compilations(output):
    """`{step: programs}` that were compiled between the line of each evaluation and that of the one before."""
    found, programs = {}, 0
    for line in output.splitlines():
        programs += "Finished XLA compilation of" in line
        if "test_accuracy" in line and line.startswith("step "):
            found[int(line.split()[1].partition("/")[0])] = programs
            programs = 0
    return found


def test_nothing_grows(one_device_environment, tmp_path):
    write_images(tmp_path / "images")
    workdir = tmp_path / "run"
    command = [sys.executable, "-m", "resflax.train", *SETTINGS]
    command += [f"--workdir={workdir}", f"--config.data.name={tmp_path}/images"]
    samples = []
    with open(tmp_path / "output", "w") as output:
        environment = {**one_device_environment, **ALLOCATOR, "JAX_LOG_COMPILES": "1"}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        while process.poll() is None:
            rows = read_lines(workdir / "metrics.jsonl")
            step = rows[-1]["step"] if rows else 0
            try:
                samples.append((step, private_kilobytes(process.pid), count(process, "task"), count(process, "fd")))
            except (FileNotFoundError, ProcessLookupError):
                break  # it ended in between
            time.sleep(0.1)
    assert process.wait() == 0, (tmp_path / "output").read_text()
    assert read_lines(workdir / "metrics.jsonl")[-1]["step"] == STEPS
    compiled = compilations((tmp_path / "output").read_text())
    assert list(compiled) == list(range(EVERY, STEPS + 1, EVERY))
    assert compiled[EVERY] >= 3  # initialisation, a step, an evaluation: the log tells
    # The first checkpoint, after the first evaluation, copies the state.
    later = {step: programs for step, programs in compiled.items() if step > 2 * EVERY}
    assert not any(later.values()), compiled
    step, memory, threads, files = np.array([one for one in samples if WARM_UP <= one[0] < STEPS], float).T
    assert len(step) > 50
    # The least of each window: an evaluation or a save under way holds more for a moment.
    windows = np.unique(step // WINDOW)
    least = [memory[step // WINDOW == window].min() / 1024 for window in windows]
    slope = float(np.polyfit(windows * WINDOW, least, 1)[0] * 100)
    report = {
        "samples": len(step),
        "compiled by the second evaluation": compiled[EVERY] + compiled[2 * EVERY],
        "megabytes a 100 steps": round(slope, 4),
        "megabytes": [round(one, 1) for one in least],
        "threads": [int(threads.min()), int(np.median(threads)), int(threads.max())],
        "open files": [int(files.min()), int(np.median(files)), int(files.max())],
    }
    print(json.dumps(report))
    half = len(step) // 2
    assert slope <= 0.1, report
    # Those of a save come and go; the usual and the highest number stay.
    for numbers in (threads, files):
        assert np.median(numbers[half:]) <= np.median(numbers[:half]), report
        assert numbers[half:].max() <= numbers[:half].max() + 2, report
