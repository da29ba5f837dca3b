"""A workdir belongs to one run and to one process at a time; what belongs to another is refused in one sentence."""

import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys

import jax
import pytest
from etils import epath

from resflax.build import build
from resflax.build.resume import check_checkpoint, choose_checkpoint
from resflax.config import to_dict
from resflax.errors import ConfigError, DataError, StorageError, TemporaryError
from resflax.files import Workdir
from resflax.train import train_and_evaluate
from resflax.training import lock
from resflax.training.checkpoints import Checkpoints, latest_checkpoint
from tests import micro

HOLD = """
import sys, time
from etils import epath
from resflax.training import lock
with lock.held(epath.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path, one_device_environment):
    """A process that holds the workdir `run`, as a trainer does."""
    (tmp_path / "run").mkdir()
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    process = subprocess.Popen(command, env=one_device_environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_trainer_is_refused_until_the_first_is_gone(holder, tmp_path, command):
    data = micro.write_npz(tmp_path)
    arguments = (f"--workdir={tmp_path / 'run'}", f"--config.data.name={data}", "--config.total_steps=1")
    done = command("train", *arguments)
    assert done.returncode == TemporaryError.exit_code
    assert done.stderr.count("\n") == 1
    assert f"{tmp_path / 'run'} must be trained by one process at a time, but process {holder.pid} on " in done.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == [lock.NAME]  # nothing was written
    holder.send_signal(signal.SIGKILL)  # a killed owner does not leave it stuck
    holder.wait()
    with lock.held(epath.Path(tmp_path / "run")):
        assert (tmp_path / "run" / lock.NAME).read_text().startswith(f"process {os.getpid()} on ")


def test_one_process_may_train_again_and_again(tmp_path):
    root = epath.Path(tmp_path)
    for _ in range(2):
        with lock.held(root), pytest.raises(TemporaryError, match=f"but process {os.getpid()} on"), lock.held(root):
            raise AssertionError("held twice")
    with pytest.raises(KeyError), lock.held(root):
        raise KeyError("an error of the run, which is not blamed on the lock")
    with lock.held(root):
        pass


@pytest.mark.parametrize("number", ["ENOLCK", "EOPNOTSUPP", "ENOSYS"])
def test_storage_without_locks_lets_everybody_in(number, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(getattr(__import__("errno"), number), "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock.held(epath.Path(tmp_path)), lock.held(epath.Path(tmp_path)):
        pass


def test_an_object_store_is_not_locked():
    with lock.held(epath.Path("gs://bucket/run")):  # would need the network
        pass


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run made real, on one device, that no test trains."""
    path = micro.write_npz(tmp_path_factory.mktemp("data"))
    base = micro.config(path)
    return build(dataclasses.replace(base, ema=dataclasses.replace(base.ema, decay=None)), jax.devices()[:1])


@pytest.fixture(scope="module")
def state(run):
    return run.initial_state()


def choose(files, run):
    """What a trainer goes on from, if it may."""
    saved = choose_checkpoint(files)
    check_checkpoint(files, saved, run)
    return saved


def save(files, run, state, steps, **metadata):
    checkpoints = Checkpoints(files.checkpoints, keep_last=len(steps))
    for step in steps:
        checkpoints.save(step, state, {}, {**run.metadata(), **metadata})
    checkpoints.close()


def changed(config, section, **changes):
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **changes)})


FOREIGN = {
    "width": ("model", {"kwargs": {"width": 8}}, "config.model.kwargs.width: 4 -> 8", "is float32[4], expected float32[8]"),
    "depth": ("model", {"name": "cifar_resnet14"}, "config.model.name: cifar_resnet8 -> cifar_resnet14", "is missing"),
    "family": ("model", {"name": "cifar_plain8"}, "config.model.name: cifar_resnet8 -> cifar_plain8", ""),
    "optimizer": ("optim", {"name": "adamw"}, "config.optim.name: sgd -> adamw", "is missing"),
    "average": ("ema", {"decay": 0.9}, "config.ema.decay: None -> 0.9", "ema/params/"),
    "rate": ("optim", {"learning_rate": 0.3}, "config.optim.learning_rate: 0.1 -> 0.3", ""),
    "augmentation": ("data", {"augment": ("flip",)}, "config.data.augment: ['pad_crop:1', 'flip'] -> ['flip']", ""),
}


@pytest.fixture(scope="module")
def copied_in(run, state, tmp_path_factory):
    """The checkpoint of `run` in the workdir of nobody."""
    files = Workdir(tmp_path_factory.mktemp("copied"))
    save(files, run, state, (8,))
    return files


@pytest.mark.parametrize("name", FOREIGN)
def test_a_checkpoint_of_another_configuration_is_refused_by_name(name, run, copied_in):
    section, changes, keys, arrays = FOREIGN[name]
    other = build(changed(run.config, section, **changes), jax.devices()[:1])
    with pytest.raises(ConfigError) as caught:
        choose(copied_in, other)
    message = str(caught.value)
    assert f"checkpoint {copied_in.checkpoints / '8'} belongs to a run with another configuration (" in message
    assert keys in message
    assert arrays in message
    assert choose(copied_in, run).step == 8


def test_a_checkpoint_beyond_the_end_is_refused(run, state, tmp_path):
    files = Workdir(tmp_path)
    save(files, run, state, (8, 48))
    with pytest.raises(ConfigError, match=r"checkpoint .*/48 lies beyond the 40 steps of this run; remove it, or name"):
        choose(files, run)
    assert (tmp_path / "checkpoints" / "48").exists()  # it may be somebody's


def test_a_checkpoint_of_other_data_is_refused(run, state, tmp_path):
    files = Workdir(tmp_path)
    save(files, run, state, (8,), dataset_fingerprint="0-0")
    with pytest.raises(DataError, match=r"their fingerprint is .* and was 0-0"):
        choose(files, run)


def test_a_checkpoint_that_lost_its_arrays_to_another_ones_tree_is_refused(run, state, tmp_path):
    """The configuration agrees and the tree does not: this code makes another network of it than the one that saved."""
    files = Workdir(tmp_path)
    save(files, run, state.replace(batch_stats={}), (8,))
    with pytest.raises(StorageError, match=r"does not fit this model and optimizer: batch_stats/.* is missing"):
        choose(files, run).restore(run.abstract_state())


def test_another_configuration_or_a_spoilt_one_is_refused(run, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(to_dict(changed(run.config, "optim", learning_rate=0.5))))
    with pytest.raises(ConfigError, match=r"another configuration \(config.optim.learning_rate: 0.5 -> 0.1\)"):
        train_and_evaluate(run.config, str(tmp_path))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(StorageError, match="must hold the configuration of a run"):
        train_and_evaluate(run.config, str(tmp_path))


def test_a_step_that_is_not_there_is_refused_naming_those_that_are(run, state, tmp_path):
    from resflax.build import find_checkpoint

    save(Workdir(tmp_path), run, state, (8, 16))
    with pytest.raises(StorageError, match=r"has no checkpoint of step 12; there are 8, 16"):
        find_checkpoint(str(tmp_path), 12)
    assert find_checkpoint(str(tmp_path), 8).step == 8
    assert latest_checkpoint(Workdir(tmp_path).checkpoints).step == 16


def test_what_a_killed_trainer_left_half_written_is_removed(tmp_path):
    from resflax.files import remove_temporaries

    for name in ("config.json.tmp123", "result.json.tmp4", "keep.tmp", "keep.tmpx", "metrics.jsonl"):
        (tmp_path / name).write_text("half")
    remove_temporaries(epath.Path(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keep.tmp", "keep.tmpx", "metrics.jsonl"]
