"""SIGTERM and Ctrl-C at any moment: one sentence, an exit code that says so, and nothing lost."""

import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from resflax.files import Workdir, read_lines
from resflax.training.checkpoints import committed_steps
from resflax.training.signals import SignalFlag
from tests import jobs, micro
from tests.conftest import ROOT
from tests.faults.deliver.sitecustomize import COMPILATION
from tests.faults.runs import DELIVER, Training, debris, outcome, write_experiment

TERM, INT, KILL = (int(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL))
AT_ONCE = {
    TERM: "resflax: ended by SIGTERM with nothing to save; run again\n",
    INT: "resflax: ended by SIGINT with nothing to save; run again\n",
}
SECOND = "resflax: ended by a second SIGINT without saving more; checkpoints are whole, run again to go on\n"
CLEARED = "resflax: ended by {}, what was half made is removed; run again\n"
COMMANDS = sorted(path.stem for path in (ROOT / "resflax").glob("*.py") if "\n    run(main" in path.read_text())


def test_the_flag(monkeypatch):
    calls = []
    previous = {number: signal.signal(number, lambda number, frame: calls.append(number)) for number in (TERM, INT)}
    try:
        with SignalFlag() as flag:
            assert flag.received is None
            for number in (TERM, INT, TERM):
                os.kill(os.getpid(), number)
                assert flag.received == flag.heard == TERM
            assert calls == []
            os.kill(os.getpid(), INT)  # the second Ctrl-C is not held back
            assert calls == [INT]
        os.kill(os.getpid(), TERM)
        assert calls == [INT, TERM]
        with SignalFlag(deadline=time.monotonic() - 1) as flag:
            assert flag.received == signal.SIGALRM
            assert flag.heard is None
            os.kill(os.getpid(), INT)
            assert flag.received == INT
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def command(body, *arguments):
    """A process that runs `body` as a command of resflax; it says `ready` when the signals may come."""
    main = f"def main(argv):\n{textwrap.indent(body, '    ')}\n"
    words = ", ".join(["main", *arguments])
    program = f"import sys, time\nfrom resflax.cli import run\nfrom resflax.training import signals\n{main}\nrun({words})\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "ready\n"
    return child


IN_C = """
import hashlib
print("ready", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # for minutes, in which Python runs no handler, as when XLA compiles
"""

HEARING = """
from resflax.training.signals import SignalFlag
with SignalFlag() as flag:
    print("ready", flush=True)
    while not flag.received:
        time.sleep(0.01)
    print("heard", flush=True)
    {}
return 7
"""


@pytest.mark.parametrize("number", [TERM, INT])
def test_at_once_while_python_runs_no_handlers(number):
    child = command(IN_C)
    child.send_signal(number)
    assert child.communicate(timeout=30) == ("", AT_ONCE[number])
    assert child.returncode == 128 + number


def test_a_second_interrupt_ends_at_once_and_further_sigterms_change_nothing():
    child = command(HEARING.format(IN_C.replace("\n", "\n    ").replace("ready", "in C")))
    for number in (TERM, TERM, INT):
        child.send_signal(number)
        time.sleep(0.1)
    assert child.stdout.readline() == "heard\n"
    assert child.stdout.readline() == "in C\n"
    assert child.poll() is None
    child.send_signal(INT)
    assert child.communicate(timeout=30) == ("", SECOND)
    assert child.returncode == 130


@pytest.mark.parametrize("number", [TERM, INT])
def test_what_listens_is_not_disturbed(number):
    child = command(HEARING.format(""))
    child.send_signal(number)
    assert child.communicate(timeout=30) == ("heard\n", "")
    assert child.returncode == 7


@pytest.mark.parametrize("number", [TERM, INT])
def test_none_is_lost_just_before_somebody_listens(number):
    child = command(f"import os\nprint('ready', flush=True)\nos.kill(os.getpid(), {number})" + HEARING)
    assert child.communicate(timeout=30) == ("", AT_ONCE[number])
    assert child.returncode == 128 + number


def test_an_exit_code_that_is_decided_stays():
    child = command("import atexit\natexit.register(sys.stdin.read)\nprint('ready', flush=True)\nreturn 3")
    time.sleep(0.5)  # the command has ended, Python has not
    child.send_signal(TERM)
    assert child.communicate("", timeout=30) == ("", "")
    assert child.returncode == 3


HALF_MADE = """
from pathlib import Path
from resflax.data.packing import incomplete
with incomplete(Path("{}/photographs")) as folder:
    (folder / "shard").write_text("half a shard")
    print("ready", flush=True)
    while True:
        time.sleep(0.01)
"""


def test_prepare_clears_away_what_is_half_made(tmp_path):
    child = command(HALF_MADE.format(tmp_path), "signals.end_by_unwinding")
    assert len(list(tmp_path.iterdir())) == 1
    child.send_signal(INT)
    assert child.communicate(timeout=30) == ("", CLEARED.format("SIGINT"))
    assert child.returncode == 130
    assert list(tmp_path.iterdir()) == []


def deliver(words, folder, number, event):
    """`python -m resflax.WORDS` that sends itself a signal."""
    environment = {**os.environ, "PYTHONPATH": f"{DELIVER}{os.pathsep}{ROOT}"}
    environment |= {"DELIVER": json.dumps([[number, event, 1]]), "DELIVERED": str(folder / "delivered"), "CHECKPOINTS": ""}
    words = [sys.executable, "-m", f"resflax.{words[0]}", *words[1:]]
    done = subprocess.run(words, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)
    assert json.loads((folder / "delivered").read_text())["event"] == event
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_before_the_command_listens_leaves_no_traceback(name, tmp_path):
    assert deliver([name], tmp_path, INT, "import:resflax.cli") == (-INT, "", "")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (INT, ("evaluate", "--workdir=none")),
        (TERM, ("evaluate", "--workdir=none")),
        (TERM, ("predict", "--workdir=none", "x.jpg")),
        (TERM, ("prepare", "none", "--name=photographs")),
        (TERM, ("reproduce", "he2015_cifar", "--rows=resnet20", "--seeds=1")),
        (TERM, ("benchmark", "train")),
    ],
)
def test_other_commands_end_at_once(number, words, tmp_path):
    code, output, errors = deliver(words, tmp_path, number, "import:numpy")
    assert (code, output) == (128 + number, "")
    assert errors.endswith(CLEARED.format("SIGTERM") if words[0] == "prepare" else AT_ONCE[number])
    assert "Traceback" not in errors


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The experiment's file, its configuration, and what the run comes to by itself."""
    folder = tmp_path_factory.mktemp("unbroken")
    config = micro.config(micro.write_npz(folder))
    experiment = write_experiment(folder, config)
    Training(experiment, folder / "run").finish()
    return experiment, config, outcome(config, folder / "run")


def assert_as_unbroken(unbroken, workdir):
    experiment, config, expected = unbroken
    Training(experiment, workdir).finish()
    found = outcome(config, workdir)
    for part, value in expected.items():
        assert found[part] == value, part
    assert not debris(workdir)


STOPPED = re.compile(
    r"resflax: stopped by signal (?P<number>\d+) "
    r"(at step (?P<step>\d+), saved|while step (?P<evaluated>\d+) was evaluated, the step before is saved|after the last step, "
    r"saved) as checkpoint (?P<saved>\d+); run again( to go on| for the record)"
)

# (signal, event, its count in the process), one process after another in one workdir; micro.py evaluates, in 3 batches, and
# saves every 8 of 40 steps, then re-estimates the statistics from 7 batches.
BEFORE_THE_FIRST_STEP = [
    (TERM, "import:jax", 1), (INT, "import:flax", 1), (TERM, "import:orbax.checkpoint", 1), (INT, "imported", 1),
    (TERM, "read", 1), (INT, "built", 1), (TERM, "lowered", 1), (INT, COMPILATION, 2), (TERM, COMPILATION, 3),
    (INT, "compiled", 1),
]  # fmt: skip
PHASES = {
    "start-up and compilation": BEFORE_THE_FIRST_STEP,
    "restoring": [(INT, "chunk", 1), *BEFORE_THE_FIRST_STEP[-6:]],
    "training": [(TERM, "chunk", 1), (INT, "chunk", 2), (TERM, "chunk", 3), (INT, "chunk", 8)],
    "evaluation": [
        (TERM, "batch", 1), (INT, "batch", 2), (TERM, "batch", 3), (INT, "batch", 5), (TERM, "batch", 3), (INT, "batch", 4),
    ],
    "saving": [(TERM, "saving", 1), (INT, "saving", 2), (TERM, "saving", 1)],
    "the end": [
        (INT, "batch", 13), (TERM, "batch", 1), (INT, "batch", 7), (TERM, "batch", 8), (INT, "batch", 10), (TERM, "saving", 1),
        (INT, "trained", 1), (TERM, "import:matplotlib", 1),
    ],
}  # fmt: skip


@pytest.mark.faults
@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_in(phase, unbroken, tmp_path):
    workdir = tmp_path / "run"
    checkpoints = Workdir(workdir).checkpoints
    for number, event, count in PHASES[phase]:
        training = Training(unbroken[0], workdir, [(number, event, count)])
        said = training.finish(128 + number)
        (delivered,) = training.delivered
        print(f"{phase}: signal {number} at {event} {count}: {time.time() - delivered['at']:.1f} s; {said.splitlines()[-1]}")
        newest = max(committed_steps(checkpoints), default=0)
        if event in ("chunk", "batch", "saving"):
            stopped = STOPPED.fullmatch(said.splitlines()[-1])
            assert int(stopped["number"]) == number
            assert int(stopped["saved"]) == newest
            step = delivered.get("step") or int(stopped["evaluated"])
            assert newest >= step - 1
        else:
            assert said.endswith(AT_ONCE[number])
            assert newest == max(delivered["committed"], default=0)
        assert said.count("resflax: ") == 1
    assert_as_unbroken(unbroken, workdir)


@pytest.mark.faults
def test_signal_after_signal(unbroken, tmp_path):
    workdir = tmp_path / "run"
    said = Training(unbroken[0], workdir, [(TERM, "saving", 1), (TERM, "saving", 1), (TERM, "saving", 2)]).finish(143)
    assert STOPPED.match(said.splitlines()[-1])
    assert Training(unbroken[0], workdir, [(INT, "chunk", 2), (INT, "chunk", 2)]).finish(130).endswith(SECOND)
    training = Training(unbroken[0], workdir, [(INT, "saving", 1), (INT, "saving", 1)])
    assert training.finish(130).endswith(SECOND)
    assert max(committed_steps(Workdir(workdir).checkpoints)) >= max(training.delivered[0]["committed"])
    training = Training(unbroken[0], workdir, [(TERM, "saving", 1), (KILL, "saving", 1)])  # no grace at all
    assert training.process.wait(300) == -KILL
    rng = random.Random(0)
    for _ in range(3):  # some
        training = Training(unbroken[0], workdir, [(TERM, "chunk", 3)])
        jobs.wait_for(lambda training=training: training.delivered)
        time.sleep(rng.uniform(0, 0.2))
        training.kill()
    assert_as_unbroken(unbroken, workdir)


@pytest.mark.faults
@pytest.mark.parametrize("number", [TERM, INT])
def test_nobody_waits_for_a_compilation(number, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "xla"))
    base = micro.config(micro.write_npz(tmp_path))
    deep = dataclasses.replace(base, model=dataclasses.replace(base.model, name="cifar_resnet110"))
    training = Training(write_experiment(tmp_path, deep), tmp_path / "run", [(0, "lowered", 1), (0, "compiled", 1)])
    jobs.wait_for(lambda: training.delivered, 240)
    time.sleep(0.5)
    began = time.monotonic()
    training.process.send_signal(number)
    assert training.finish(128 + number, 60).endswith(AT_ONCE[number])
    print(f"ended {time.monotonic() - began:.2f} s after signal {number}, XLA compiling")
    assert [one["event"] for one in training.delivered] == ["lowered"]


SLOW = ("--config.checkpoint.every_steps=5", "--config.optim.accumulate=2", "--config.log_every_steps=1")


@pytest.mark.faults
def test_a_signal_to_one_of_two_processes_stops_both_at_one_step(tmp_path):
    workdir, steps, rng = tmp_path / "run", 400, random.Random(0)
    jobs.finish(jobs.start(tmp_path / "reference", 1, 4, steps, *SLOW))
    metrics = Workdir(workdir).metrics
    step = 0
    for delivery in range(10):
        both = jobs.start(workdir, 2, 2, steps, *SLOW)
        jobs.wait_for(lambda step=step: (rows := read_lines(metrics)) and rows[-1]["step"] > step + 2)
        time.sleep(rng.uniform(0, 0.3))
        number, began = (TERM, INT)[delivery % 2], time.monotonic()
        both[delivery % 3 % 2].send_signal(number)
        outputs = jobs.finish(both, 128 + number)
        seconds = time.monotonic() - began
        found = [STOPPED.fullmatch(errors.splitlines()[-1]) for _, errors in outputs]
        assert all(found), outputs
        assert found[0].groups() == found[1].groups()
        step = max(committed_steps(Workdir(workdir).checkpoints))
        assert step == int(found[0]["saved"])
        print(f"signal {number} to process {delivery % 3 % 2}: both ended at step {step}, {seconds:.1f} s later")
        assert step < steps
    errors = jobs.finish(jobs.start(workdir, 1, 4, steps, *SLOW))[0][1]  # another topology goes on
    assert f"going on from step {step}" in errors
    assert [row["step"] for row in read_lines(metrics)] == list(range(1, steps + 1))
    np.testing.assert_allclose(jobs.losses(workdir), jobs.losses(tmp_path / "reference"), rtol=0, atol=1e-9)


@pytest.mark.faults
def test_a_process_of_two_ends_at_once_before_the_first_step(tmp_path):
    """JAX would put a handler of its own in the place of ours when the processes join."""
    both = jobs.start(tmp_path / "run", 2, 1, 10)
    first = both[0].stderr.readline()  # all have joined
    assert "in 2 processes" in first
    signalled = list(zip(reversed(both), (TERM, INT), strict=True))
    for process, number in signalled:
        process.send_signal(number)
    for process, number in signalled:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 128 + number
        assert errors.endswith(AT_ONCE[number])
