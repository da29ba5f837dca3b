"""A process that hangs ends with exit code 75 and says where; so do those that wait for it."""

import functools
import re
import signal
import time

import pytest

from resflax.errors import ConfigError
from resflax.training.limits import DEFAULTS, parse_limits
from tests import jobs as processes
from tests.jobs import SMALL, finish, wait_for

start = functools.partial(processes.start, config=SMALL)
LIMIT = 10  # seconds
SLACK = 20  # more, for a machine that is busy with other things; what it was is printed


def delays(place, process, call, seconds):
    return ("-m", "tests.faults.delays", place, str(process), str(call), str(seconds))


def end(jobs):
    """Waits for all; returns the stderr of each and when it ended."""
    ended = {}

    def all_ended():
        ended.update({job.pid: time.monotonic() for job in jobs if job.pid not in ended and job.poll() is not None})
        return len(ended) == len(jobs)

    wait_for(all_ended, 300)
    errors = [job.communicate()[1] for job in jobs]
    for job, text in zip(jobs, errors, strict=True):
        assert job.returncode == 75, text
        assert "Traceback" not in text
    return errors, [ended[job.pid] for job in jobs]


@pytest.mark.faults
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize(
    ("place", "call", "step"),
    [("read", 4, 2), ("step", 3, "[12]"), ("evaluate", 2, 5), ("save", 1, 5), ("restore", 1, 5)],
)
def test_a_process_that_sleeps_in_any_phase_ends_all(place, call, step, victim, tmp_path):
    settings = ("--config.checkpoint.every_steps=5", f"--limits={place}:{LIMIT}")
    if place == "restore":  # first make something to be restored
        jobs = start(tmp_path / "run", 2, 1, 100_000, *settings, program=delays("save", 1, 2, 1000))
        wait_for((tmp_path / "run" / "checkpoints" / "5" / "manifest.json").exists)
        for job in jobs:
            job.kill()
            job.communicate()
    jobs = start(tmp_path / "run", 2, 1, 100_000, *settings, program=delays(place, victim, call, 1000))
    errors, ended = end(jobs)
    asleep = float(re.search(r"asleep at ([\d.]+)", errors[victim])[1])
    print(f"{place}: ended {[round(when - asleep, 1) for when in ended]} s after process {victim} fell asleep")
    assert "most recent call first" in errors[victim]
    assert "delays.py" in errors[victim]  # the thread that hangs
    assert "in _run" in errors[victim]  # other threads
    said = (
        rf"resflax: process {victim} on \S+ must get on within {LIMIT} s, but hangs in phase {place} at step {step}; run again"
    )
    assert re.search(said, errors[victim])
    assert re.search(
        r"^resflax: process \d on \S+ must get on within", errors[1 - victim], re.M
    )  # its own words or the victim's
    assert max(ended) - asleep < LIMIT + 5 + SLACK


@pytest.mark.faults
@pytest.mark.parametrize("victim", [0, 1])
def test_a_stopped_process_ends_the_others(victim, tmp_path):
    silence = 10
    jobs = start(tmp_path / "run", 2, 1, 100_000, f"--limits=silence:{silence}")
    wait_for((tmp_path / "run" / "metrics.jsonl").exists)
    jobs[victim].send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    try:
        errors, ended = end([jobs[1 - victim]])
        print(f"ended {ended[0] - stopped:.1f} s after process {victim} was stopped")
        assert f"process {victim}" in errors[0].splitlines()[-1]
        assert ended[0] - stopped < silence + 5 + SLACK
    finally:
        jobs[victim].send_signal(signal.SIGCONT)
    errors, _ = end([jobs[victim]])  # it finds itself alone
    assert f"process {1 - victim}" in errors[0]


def test_a_single_process_has_limits_too(tmp_path):
    (job,) = start(tmp_path / "run", 1, 1, 100, "--limits=read:1", program=delays("read", 0, 3, 1000))
    (error,), _ = end([job])
    assert "delays.py" in error
    assert re.search(
        r"^resflax: the process on \S+ must get on within 1 s, but hangs in phase read at step 1; run again", error, re.M
    )


@pytest.mark.faults
def test_time_in_which_a_process_is_suspended_does_not_count(tmp_path):
    (job,) = start(
        tmp_path / "run",
        1,
        1,
        40,
        "--limits=read:8,step:8,compile:60,other:60",
        program=delays("read", 0, 3, 0.2),
    )
    wait_for((tmp_path / "run" / "metrics.jsonl").exists)
    job.send_signal(signal.SIGSTOP)
    time.sleep(12)
    job.send_signal(signal.SIGCONT)
    finish([job])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("setp:3", "did you mean step?"),
        ("step", "a number of seconds above 0, got ''"),
        ("step:soon", "got 'soon'"),
        ("save:0", "got '0'"),
        ("save:nan", "got 'nan'"),
        ("save:-1,step:3", "got '-1'"),
        ("save:1,", "got ''"),
    ],
)
def test_limits_that_are_refused(text, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse_limits(text)


def test_limits():
    assert parse_limits(None) == DEFAULTS
    assert parse_limits("step:7.5,other:inf") == {**DEFAULTS, "step": 7.5, "other": float("inf")}
