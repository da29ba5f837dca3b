"""Two network namespaces are two hosts: own addresses, own names, one cable, shared storage; nothing else in common."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from resflax.files import read_lines
from tests.jobs import CONFIG, environment, finish, losses, start, wait_for

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="network namespaces need root and iproute2"),
]
STEPS = 200
SETTINGS = (*CONFIG, f"--config.total_steps={STEPS}", "--config.checkpoint.every_steps=5", "--config.optim.accumulate=2")


class Host:
    """A namespace with an address in the documentation's range 192.0.2.0/24, a name, and a view of /etc/hosts of its own."""

    def __init__(self, index):
        self.index, self.name, self.address = index, f"resflax{os.getpid()}h{index}", f"192.0.2.{index + 1}"
        self.settings = Path("/etc/netns") / self.name

    def __enter__(self):
        ip("netns", "add", self.name)
        self.settings.mkdir(parents=True)
        (self.settings / "hosts").write_text("127.0.0.1 localhost\n192.0.2.1 host0\n192.0.2.2 host1\n")
        ip("-n", self.name, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.settings)
        ip("netns", "del", self.name)

    def train(self, workdir):
        """Starts the training command as process `index` of two, with two devices."""
        job = ["--coordinator=host0:7301", "--num_processes=2", f"--process_id={self.index}"]
        train = [sys.executable, "-m", "resflax.train", f"--workdir={workdir}", *SETTINGS, *job]
        named = ["unshare", "--uts", "sh", "-c", f'hostname host{self.index} && exec "$@"', "sh"]
        command = ["ip", "netns", "exec", self.name, *named, *train]
        return subprocess.Popen(command, env=environment(2), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def hosts():
    with Host(0) as one, Host(1) as two:
        ip("-n", one.name, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", two.name)
        for host in (one, two):
            ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "cable")
            ip("-n", host.name, "link", "set", "cable", "up")
        yield one, two


def test_two_hosts_train_as_one_process_and_their_checkpoints_go_on_anywhere(hosts, tmp_path):
    reference = tmp_path / "reference"
    finish(start(reference, 1, 4, STEPS, *SETTINGS[len(CONFIG) + 1 :]))
    workdir = tmp_path / "run"
    jobs = [host.train(workdir) for host in hosts]
    wait_for((workdir / "checkpoints" / "5" / "manifest.json").exists)
    jobs[1].send_signal(signal.SIGTERM)  # to the second host alone
    outputs = finish(jobs, 143)
    assert "stopped by signal 15 at step" in outputs[0][1]
    assert "4 x cpu in 2 processes" in outputs[0][1]
    stopped = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert 5 <= stopped < STEPS
    np.testing.assert_allclose(losses(workdir), losses(reference)[:stopped], rtol=0, atol=1e-9)
    for devices in (1, 8):
        elsewhere = tmp_path / f"devices{devices}"
        shutil.copytree(workdir, elsewhere)
        errors = finish(start(elsewhere, 1, devices, STEPS, *SETTINGS[len(CONFIG) + 1 :]))[0][1]
        assert f"going on from step {stopped}" in errors
        np.testing.assert_allclose(losses(elsewhere)[: stopped + 5], losses(reference)[: stopped + 5], rtol=0, atol=1e-9)
        assert [row["step"] for row in read_lines(elsewhere / "metrics.jsonl")] == list(range(1, STEPS + 1))
