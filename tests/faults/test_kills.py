"""Real training processes, killed at random times and started again, end as if nothing had been."""

import dataclasses
import random
import threading
import time
from concurrent import futures

import pytest

from resflax.files import Workdir, read_lines
from resflax.training.checkpoints import committed_steps, latest_checkpoint
from tests import micro
from tests.faults.runs import Training, debris, outcome, write_experiment
from tests.jobs import wait_for

SAVE_EVERY = 3


@dataclasses.dataclass
class Tally:
    """What has been done to all the runs of a test."""

    wanted: int
    kills: int = 0
    in_start: int = 0
    rolled_back: list = dataclasses.field(default_factory=list)  # steps that a restart had to repeat
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def add(self, rolled_back, in_start):
        with self.lock:
            self.kills += 1
            self.in_start += in_start
            self.rolled_back.append(rolled_back)


def kill(training, workdir, rng, longest_wait):
    """Kills the process at a random time, one in five before its first step; returns whether it was at work.

    What was committed before must be there afterwards, and readable.
    """
    if rng.random() < 0.2:
        time.sleep(rng.uniform(0, 5))  # from its start
    else:
        wait_for(lambda: training.process.poll() is not None or "\nstep " in training.said, 180)
        time.sleep(rng.uniform(0, longest_wait))
    root = Workdir(workdir).checkpoints
    before = max(committed_steps(root), default=0)
    at_work = training.process.poll() is None
    training.kill()
    saved = latest_checkpoint(root, say=pytest.fail)
    assert (saved.step if saved else 0) >= before
    return at_work


def torture(experiment, workdir, rng, tally, longest_wait):
    """One run from its start to its end, killed as long as kills are wanted."""
    while True:
        training = Training(experiment, workdir)
        if tally.kills >= tally.wanted or not kill(training, workdir, rng, longest_wait):
            training.finish()
            return
        rows, saved = read_lines(Workdir(workdir).metrics), latest_checkpoint(Workdir(workdir).checkpoints)
        reached, committed = rows[-1]["step"] if rows else 0, saved.step if saved else 0
        tally.add(max(0, reached - committed), in_start="\nstep " not in training.said)


@pytest.mark.parametrize(
    ("steps", "kills"), [(60, 1), pytest.param(400, 100, marks=pytest.mark.faults)], ids=["once", "a hundred times"]
)
def test_killed_runs_end_as_the_unbroken_one(steps, kills, tmp_path):
    base = micro.config(micro.write_npz(tmp_path))
    checkpoint = dataclasses.replace(base.checkpoint, every_steps=SAVE_EVERY, keep_last=2, keep_best=0)
    # A line of the log sums over a save, and an evaluation falls together with one or not.
    config = dataclasses.replace(
        base, total_steps=steps, log_every_steps=2, eval_every_steps=steps // 10 + 1, checkpoint=checkpoint
    )
    experiment = write_experiment(tmp_path, config)
    Training(experiment, tmp_path / "unbroken").finish()
    expected = outcome(config, tmp_path / "unbroken")
    assert [row["step"] for row in expected["rows"]][-1] == steps

    tally, longest_wait = Tally(kills), 2 * steps / 400

    def work(lane):
        rng, workdirs = random.Random(lane), []
        while tally.kills < kills:
            workdirs.append(tmp_path / f"killed{lane}-{len(workdirs)}")
            torture(experiment, workdirs[-1], rng, tally, longest_wait)
        return workdirs

    lanes = min(2, kills)
    with futures.ThreadPoolExecutor(lanes) as pool:
        workdirs = [workdir for done in pool.map(work, range(lanes)) for workdir in done]
    print(
        f"{tally.kills} kills, {tally.in_start} of them before the first step, of {len(workdirs)} runs of {steps} steps; steps "
        f"repeated: at most {max(tally.rolled_back)}, {sum(tally.rolled_back) / tally.kills:.1f} on average"
    )
    assert tally.kills >= kills
    assert max(tally.rolled_back) <= 2 * SAVE_EVERY  # one save may be under way while the steps up to the next are made
    for workdir in workdirs:
        found = outcome(config, workdir)
        for part, value in expected.items():
            assert found[part] == value, f"{part} of {workdir.name}"
        assert not debris(workdir)
        assert committed_steps(Workdir(workdir).checkpoints) == committed_steps(Workdir(tmp_path / "unbroken").checkpoints)
