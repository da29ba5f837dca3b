"""A checkpoint goes on with any number of devices and processes: same state, same batches, same losses."""

import dataclasses
import json
import signal
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from resflax.build import build
from resflax.files import Workdir, read_lines
from resflax.training.checkpoints import Checkpoints, latest_checkpoint
from resflax.tree import digest
from tests import micro
from tests.faults.glance import glance
from tests.faults.runs import Training, write_experiment
from tests.jobs import environment


def glance_of_two_processes(config, workdir):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "tests.faults.glance", str(config), str(workdir), address, "2"]
    both = [
        subprocess.Popen([*command, str(index)], env=environment(1), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for index in (0, 1)
    ]
    outputs = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    return [json.loads(output.splitlines()[-1]) for output, _ in outputs]


@pytest.mark.faults
def test_one_eight_two_one_devices_and_two_processes(tmp_path):
    base = micro.config(micro.write_npz(tmp_path))
    config = dataclasses.replace(
        base,
        log_every_steps=1,
        data=dataclasses.replace(base.data, batch_size=16),
        optim=dataclasses.replace(base.optim, accumulate=1),
    )
    experiment, workdir = write_experiment(tmp_path, config), tmp_path / "run"
    largest = 0.0
    for devices in (1, 8, 2):
        training = Training(experiment, workdir, [(signal.SIGTERM, "chunk", 6)], devices)
        training.finish(143)
        expected = glance(config, workdir, jax.devices()[:1])
        others = [glance(config, workdir, jax.devices()[:count]) for count in (2, 8)]
        for found in [*others, *glance_of_two_processes(experiment.with_suffix(".json"), workdir)]:
            assert {**found, "losses": None} == {**expected, "losses": None}
            off = np.abs(np.divide(found["losses"], expected["losses"]) - 1)
            print(f"saved by {devices} devices at step {found['step']}: next losses off by {off}")
            largest = max(largest, off[0])
    assert largest <= 1e-6
    Training(experiment, workdir).finish()
    assert [row["step"] for row in read_lines(Workdir(workdir).metrics)] == list(range(1, 41))


class Linear(nn.Module):
    """A linear classifier that starts from zero."""

    classes: int

    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(self.classes, kernel_init=nn.initializers.zeros)(images.reshape(len(images), -1))


def squared_error(logits, labels, label_smoothing):
    return jnp.sum((logits - jax.nn.one_hot(labels, logits.shape[-1])) ** 2, axis=-1)


def test_in_exact_arithmetic_the_number_of_devices_changes_no_bit(tmp_path, monkeypatch):
    """Sums come in another order on more devices; where none is rounded that must not show.

    Pixels are 0 or 1, 16 of them, the rates are powers of two: after two steps all weights are multiples of 2^-18, and the
    squares and sums of the second step need 23 bits.
    """
    monkeypatch.setattr("resflax.build.parts.cross_entropy", squared_error)
    rng = np.random.default_rng(0)
    images = np.zeros((64, 8, 8, 1), np.uint8)
    images[:, :4, :4] = 255 * rng.integers(0, 2, (64, 4, 4, 1))
    labels = np.arange(64) % 4
    np.savez(
        tmp_path / "exact.npz",
        **{f"{split}_{name}": value for split in ("train", "test") for name, value in (("images", images), ("labels", labels))},
    )
    base = micro.config(tmp_path / "exact.npz")
    config = dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, batch_size=16, normalize="unit", augment=()),
        batch_norm=dataclasses.replace(base.batch_norm, group_size=2),
        optim=dataclasses.replace(base.optim, accumulate=1),
    )
    runs = {
        devices: dataclasses.replace(build(config, jax.devices()[:devices]), model=Linear(4), optimizer=optax.sgd(1 / 8, 1 / 2))
        for devices in (1, 8, 2)
    }
    state = runs[1].initial_state()
    state, first = runs[1].compile_chunk(state)(state, 0, 1)
    checkpoints = Checkpoints(Workdir(tmp_path).checkpoints, 2)
    checkpoints.save(1, state, {}, {})
    checkpoints.close()
    found = {}
    for devices, run in runs.items():
        state = latest_checkpoint(Workdir(tmp_path).checkpoints).restore(run.abstract_state())
        state, reports = run.compile_chunk(state)(state, 1, 2)
        found[devices] = (float(reports.loss[0]), digest(state))
    assert found[2] == found[8] == found[1]
    assert found[1][0] != first.loss[0] == 1  # the weights were zero, and are not any more
