"""One of two processes is killed, fails or is slow: the other ends with 75 and names it, and both go on from one step."""

import functools
import random
import re
import signal
import time

import numpy as np
import pytest

from resflax.files import Workdir, read_lines
from resflax.training.checkpoints import committed_steps, open_checkpoint
from tests import jobs as processes
from tests.faults.test_hangs import SLACK, delays, end
from tests.jobs import SMALL, finish, losses, wait_for

start = functools.partial(processes.start, config=SMALL)
KILLS, STEPS = 8, 300
SETTINGS = ("--config.checkpoint.every_steps=3", "--config.eval_every_steps=0", "--config.log_every_steps=1")


@pytest.mark.faults
def test_after_each_kill_the_survivor_names_the_dead_and_both_go_on_from_one_step(tmp_path):
    workdir, rng = Workdir(tmp_path / "run"), random.Random(0)
    spent, newest = [], 0
    for kill in range(KILLS):
        jobs, victim = start(workdir.root, 2, 1, STEPS, *SETTINGS), kill % 2
        target = newest + 3 * rng.randint(1, 3)
        wait_for(lambda target=target: max(committed_steps(workdir.checkpoints), default=0) >= target)
        time.sleep(rng.uniform(0, 0.5))  # into a step or a save
        jobs[victim].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        (error,), (ended,) = end([jobs[1 - victim]])
        jobs[victim].communicate()
        spent.append(ended - killed)
        last = error.splitlines()[-1]
        assert last.startswith(f"resflax: process {victim} on "), error
        assert last.endswith("; run again to go on from the last checkpoint"), error
        assert spent[-1] < 10 + SLACK
        if newest and victim == 1:  # process 0 says where it starts
            assert f"going on from step {newest}\n" in error
        found = committed_steps(workdir.checkpoints)
        for step in found:
            open_checkpoint(workdir.checkpoints / str(step))  # every byte is what the manifest says
        newest = found[-1]
    print(f"{KILLS} kills up to step {newest}; survivors ended after {min(spent):.1f} to {max(spent):.1f} s")
    finish(start(workdir.root, 2, 1, STEPS, *SETTINGS))
    finish(start(tmp_path / "unbroken", 2, 1, STEPS, *SETTINGS))
    # A state of which one process had another step than the other would not lead to the same losses.
    np.testing.assert_array_equal(losses(workdir.root), losses(tmp_path / "unbroken"))
    assert [row["step"] for row in read_lines(workdir.metrics)] == list(range(1, STEPS + 1))


@pytest.mark.faults
def test_folders_that_are_not_shared_end_both(tmp_path):
    folders = [tmp_path / "host0", tmp_path / "host1"]
    for folder in folders:
        folder.mkdir()
    jobs = start("run", 2, 1, 20, folder=lambda index: folders[index])
    (_, ours), (_, theirs) = (job.communicate(timeout=400) for job in jobs)
    assert [job.returncode for job in jobs] == [75, 74]
    assert "must be storage that all hosts share, but process 1 sees another one" in theirs
    assert re.search(r"^resflax: process 1 on \S+ failed: run must be storage that all hosts share", ours, re.M)


@pytest.mark.faults
@pytest.mark.parametrize("victim", [0, 1])
def test_a_bad_file_on_one_host_ends_both(victim, tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    folders = [tmp_path / "host0", tmp_path / "host1"]
    images = rng.integers(0, 255, (64, 32, 32, 3)).astype(np.uint8)
    for folder in folders:
        for index, image in enumerate(images):
            path = folder / "photos" / ("test" if index % 4 == 0 else "train") / f"class{index % 2}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    jobs = start(
        tmp_path / "run",
        2,
        1,
        100_000,
        "--config.data.name=photos",
        "--config.data.input=host",
        folder=lambda index: folders[index],
    )
    wait_for((tmp_path / "run" / "metrics.jsonl").exists)
    for path in (folders[victim] / "photos" / "train").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:100])
    errors = [job.communicate(timeout=400)[1] for job in jobs]
    assert [job.returncode for job in jobs] == ([3, 75] if victim == 0 else [75, 3]), errors
    assert ".png" in errors[victim].splitlines()[-1]
    assert re.search(rf"^resflax: process {victim} on \S+ failed: .*\.png", errors[1 - victim], re.M)
    assert all("Traceback" not in text for text in errors)


@pytest.mark.faults
def test_a_slow_host_is_named(tmp_path):
    jobs = start(tmp_path / "run", 2, 1, 60, program=delays("read", 1, 4, 0.2))
    (_, ours), (_, theirs) = finish(jobs)
    said = re.findall(r"^slow hosts: .*", ours, re.M)
    assert len(said) == 1, ours  # not after every chunk
    assert re.search(r"the batch of a step takes process 1 (20|21|22|23|24|25)\d ms", said[0])
    lines = ours.splitlines()
    before = [line for line in lines[: lines.index(said[0])] if line.startswith("step ")]
    print(said[0], f"after step {len(before)}", sep="\n")
    assert len(before) <= 20
    assert "slow hosts" not in theirs
