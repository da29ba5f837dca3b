"""Processes side by side: in order, heard, stopped together, gone with their parent; and which devices they get."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from resflax.errors import ConfigError, Interrupted
from resflax.training import device_shares
from resflax.training.side_by_side import Job, run_side_by_side

# Says that it is there and waits until as many others as its first argument says are there, too: alone it would hang.
MEET = """
import os, sys, time
count, folder = int(sys.argv[1]), sys.argv[2]
open(os.path.join(folder, str(os.getpid())), "w").close()
while len(os.listdir(folder)) < count:
    time.sleep(0.01)
print("line 1\\nline 2")
print("a note\\n\\nthe last", file=sys.stderr)
sys.exit(int(sys.argv[3]))
"""


def job(name, program, *arguments):
    return Job(name, [sys.executable, "-S", "-c", program, *map(str, arguments)])


def run(jobs, environments):
    found = {}
    run_side_by_side(iter(jobs), environments, lambda one, ended: found.update({one.name: ended}))
    return found


def test_two_run_at_a_time_and_tell_what_they_said(tmp_path, capfd):
    (tmp_path / "first").mkdir(), (tmp_path / "second").mkdir()
    jobs = [job(f"{pair}-{one}", MEET, 2, tmp_path / pair, one) for pair in ("first", "second") for one in (0, 7)]
    found = run(jobs, [{}, {}])
    assert {name: ended.code for name, ended in found.items()} == {"first-0": 0, "first-7": 7, "second-0": 0, "second-7": 7}
    assert found["second-7"].output == "line 1\nline 2\n"
    assert found["second-7"].last_line == "the last"
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("first-7")] == ["first-7: a note", "first-7: ", "first-7: the last"]


def test_a_job_is_asked_for_when_there_is_room_and_gets_what_was_freed(tmp_path):
    ended, ends_when_asked = [], []

    def jobs():
        for index in range(4):
            ends_when_asked.append(len(ended))
            yield job(index, "import os; print(os.environ['LANE'])")

    run_side_by_side(jobs(), [{"LANE": "a"}], lambda one, end: ended.append(end.output))
    assert ends_when_asked == [0, 1, 2, 3]
    assert ended == ["a\n"] * 4


STUBBORN = """
import signal, sys, time
def save(*_):
    time.sleep(0.3)
    open(sys.argv[1], "w").close()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
open(sys.argv[1] + ".began", "w").close()
while True:
    time.sleep(0.01)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_and_waits_for_them(tmp_path, number):
    names = [tmp_path / "0", tmp_path / "1"]

    def send():
        while not all(name.with_suffix(".began").exists() for name in names):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(Interrupted, match=f"stopped by signal {number} with 2 runs under way") as caught:
        run([*(job(name.name, STUBBORN, name) for name in names), job("never", MEET, 0, tmp_path, 0)], [{}, {}])
    sender.join()
    assert caught.value.exit_code == 128 + number
    assert {path.name for path in tmp_path.iterdir()} == {"0", "0.began", "1", "1.began"}


def test_an_error_stops_the_others_too(tmp_path):
    name = tmp_path / "0"
    wait = "import os, sys, time\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.01)"

    def fail(one, ended):
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        run_side_by_side(iter([job("0", STUBBORN, name), job("1", wait, f"{name}.began")]), [{}, {}], fail)
    assert name.exists()


CHILD = """
import os, sys, time
from resflax.training.side_by_side import end_with_stdin
end_with_stdin()
print(os.getpid(), file=sys.stderr, flush=True)
time.sleep(600)
"""
PARENT = f"""
import sys
from resflax.training.side_by_side import Job, run_side_by_side
run_side_by_side(iter([Job("child", [sys.executable, "-c", {CHILD!r}])]), [{{}}], print)
"""


def test_they_are_gone_with_their_parent(one_device_environment):
    parent = subprocess.Popen([sys.executable, "-c", PARENT], env=one_device_environment, stderr=subprocess.PIPE, text=True)
    child = int(parent.stderr.readline().removeprefix("child: "))
    os.kill(child, 0)
    parent.kill()
    parent.communicate()  # ends when nobody holds stderr
    while running(child):
        time.sleep(0.01)


def running(pid):
    """A process without a parent that waits for it stays in the table as a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


LISTED = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-8a56a4bc-e184-a047-2620-be19fdf913d5)
  MIG 1g.10gb     Device  0: (UUID: MIG-63feeb45-94c6-b9cb-78ea-98e9b7a5be6b)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-dbfa0e6a-2a54-4a31-a1c4-3ab0a9d1d5a1)
"""
FIRST, SECOND = "GPU-8a56a4bc-e184-a047-2620-be19fdf913d5", "GPU-dbfa0e6a-2a54-4a31-a1c4-3ab0a9d1d5a1"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A function that sets what this machine looks like."""
    for name in ("CUDA_VISIBLE_DEVICES", "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    monkeypatch.setenv("PATH", str(tmp_path))

    def look(listed=None, **variables):
        if listed is not None:
            program = tmp_path / "nvidia-smi"
            program.write_text(f"#!{sys.executable} -S\nprint('''{listed}''', end='')\n")
            program.chmod(0o755)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return look


def test_one_gpu_is_shared(machine):
    machine(LISTED.splitlines()[0])
    assert device_shares.share_devices(3) == [{"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.300"}] * 3


def test_of_several_gpus_each_gets_one(machine):
    machine(LISTED)
    assert device_shares.share_devices(2) == [{"CUDA_VISIBLE_DEVICES": FIRST}, {"CUDA_VISIBLE_DEVICES": SECOND}]
    half = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.450"}
    names = (FIRST, SECOND, FIRST)
    assert device_shares.share_devices(3) == [{"CUDA_VISIBLE_DEVICES": name, **half} for name in names]


def test_what_the_environment_says_is_kept(machine):
    machine(LISTED, CUDA_VISIBLE_DEVICES="3, 5", XLA_PYTHON_CLIENT_MEM_FRACTION="0.2")
    assert device_shares.share_devices(3) == [{"CUDA_VISIBLE_DEVICES": name} for name in ("3", "5", "3")]


@pytest.mark.parametrize("variables", [{"CUDA_VISIBLE_DEVICES": ""}, {"CUDA_VISIBLE_DEVICES": "-1"}, {"JAX_PLATFORMS": "cpu"}])
def test_gpus_that_are_not_to_be_used(machine, variables):
    machine(LISTED, **variables)
    assert device_shares.visible_gpus() == []


def test_a_machine_without_gpus(machine):
    machine()
    assert device_shares.visible_gpus() == []
    assert device_shares.share_devices(2) == [{"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.450"}] * 2


def test_a_tpu_is_refused(machine):
    machine(JAX_PLATFORMS="tpu,cpu")
    with pytest.raises(ConfigError, match="must be 1 on a TPU, which belongs to one process at a time, got 2; leave it out"):
        device_shares.share_devices(2)
