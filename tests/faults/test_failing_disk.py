"""Full disks, files that may not grow, writes that fail: earlier checkpoints stay, and the run goes on as long as it may."""

import contextlib
import dataclasses
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from concurrent import futures

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest
from etils import epath

from resflax import train
from resflax.build import Run, build
from resflax.errors import DataError, Interrupted, StorageError
from resflax.files import read_lines
from resflax.training import checkpoints as module
from resflax.training.checkpoints import Checkpoints, committed_steps, latest_checkpoint
from resflax.tree import digest
from tests import micro
from tests.faults.kill_points import operation

SMALL = 20_000  # bytes; the arrays of the micro run are in larger files, all the rest is in smaller ones


def state(step):
    # Bytes that do not shrink when Orbax compresses them.
    kernel = jax.random.normal(jax.random.key(step), (100, 100))
    return {"kernel": kernel, "step": jnp.int32(step)}


def abstract(tree):
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one), tree)


@contextlib.contextmanager
def file_size_limit(size):
    """No file may grow beyond `size` bytes: for Python, and for TensorStore, which writes the arrays in C++."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def names(root):
    return sorted(path.name for path in root.iterdir())


class FailingDisk:
    """While it is armed, the k-th operation of Python on a file under `root`, counted from 0, fails as on a full disk."""

    def __init__(self):
        self.root, self.fails_at, self.count, self.lock = None, None, 0, threading.Lock()
        sys.addaudithook(self._hook)  # for ever; it does nothing unless it is armed

    @contextlib.contextmanager
    def armed(self, root, fails_at):
        self.root, self.fails_at, self.count = root, fails_at, 0
        try:
            yield
        finally:
            self.root = None

    def _hook(self, event, arguments):
        if self.root is None or operation(self.root, event, arguments) is None:
            return
        with self.lock:
            self.count += 1
            if self.count - 1 == self.fails_at:
                raise OSError(28, "No space left on device")


@pytest.fixture(scope="module")
def disk():
    return FailingDisk()


@pytest.fixture
def root(tmp_path):
    """With a checkpoint of step 1."""
    root = epath.Path(tmp_path / "checkpoints")
    checkpoints = Checkpoints(root, keep_last=1)
    checkpoints.save(1, state(1), {}, {})
    checkpoints.close()
    return root


@pytest.mark.parametrize("asynchronous", [True, False], ids=["async", "sync"])
@pytest.mark.parametrize("kth", [pytest.param(k, marks=[] if k in (0, 5, 11) else pytest.mark.faults) for k in range(30)])
def test_the_kth_write_fails_and_the_next_save_works(kth, asynchronous, root, disk):
    said = []
    checkpoints = Checkpoints(root, keep_last=1, max_failed_saves=3, say=said.append)
    with disk.armed(root, kth):
        checkpoints.save(2, state(2), {}, {})
        if asynchronous:
            checkpoints.save(3, state(3), {}, {})  # waits for 2, and forgives it
            checkpoints.wait()
        else:
            with contextlib.suppress(StorageError):
                checkpoints.wait()
    failed = [text for text in said if "checkpoints/2 could not be saved, 40,004 bytes of arrays are needed and " in text]
    stays = [text for text in said if "an old checkpoint stays where it is" in text]
    assert len(said) == len(failed) + len(stays) <= 1
    assert all("No space left on device" in text for text in said)
    # There are files whose writing may fail: Orbax removes some that are not there. What counts is what can be read.
    newest = latest_checkpoint(root, said.append)
    assert newest.step == (3 if asynchronous else 1 if failed else 2)
    assert digest(newest.restore(abstract(state(1)))) == digest(state(newest.step))
    checkpoints.save(4, state(4), {}, {})
    checkpoints.close()
    assert not disk.count > kth or said or newest.step > 1
    Checkpoints(root, keep_last=1, say=said.append).close()
    assert set(names(root)) <= {"4", *("1" for _ in stays)}


@pytest.mark.parametrize("size", [0, 50, 1_000, 20_000])
def test_what_tensorstore_cannot_write_fails_the_save(size, root):
    said = []
    checkpoints = Checkpoints(root, keep_last=1, max_failed_saves=3, say=said.append)
    with file_size_limit(size):
        checkpoints.save(2, state(2), {}, {})
        with pytest.raises(StorageError, match=r"checkpoints/2 could not be saved.*File too large"):
            checkpoints.wait()
    assert committed_steps(root) == [1]
    assert digest(latest_checkpoint(root).restore(abstract(state(1)))) == digest(state(1))
    checkpoints.save(3, state(3), {}, {})
    checkpoints.close()
    assert names(root) == ["3"]
    assert len(said) == 1


class Spoilt:
    """A moment at which the save of step 2 fails, by an error of any class."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch

    def arrays(self):
        real = ocp.AsyncCheckpointer.wait_until_finished

        def fail(checkpointer):
            real(checkpointer)
            raise RuntimeError("the original words")

        self._once(ocp.AsyncCheckpointer, "wait_until_finished", fail)

    def writing(self):
        def fail(*_):
            raise ValueError("the original words")

        self._once(module, "write_json", fail)

    def reading_back(self):
        def fail(*_):
            raise StorageError("the original words")

        self._once(module, "open_checkpoint", fail)

    def _once(self, owner, name, fail):
        real = getattr(owner, name)

        def replaced(*arguments):
            setattr(owner, name, real)
            fail(*arguments)

        self.monkeypatch.setattr(owner, name, replaced)


@pytest.mark.parametrize("where", ["arrays", "writing", "reading_back"])
@pytest.mark.parametrize("queued", [False, True], ids=["the last save", "a later save waits"])
def test_an_error_in_the_background_is_not_lost(where, queued, root, monkeypatch):
    said = []
    checkpoints = Checkpoints(root, keep_last=1, max_failed_saves=3 if queued else 1, say=said.append)
    getattr(Spoilt(monkeypatch), where)()
    checkpoints.save(2, state(2), {}, {})
    if queued:
        checkpoints.save(3, state(3), {}, {})
        checkpoints.close()
        assert names(root) == ["3"]
    else:
        with pytest.raises(StorageError, match=r"checkpoints/2 could not be saved.*the original words") as caught:
            checkpoints.close()
        assert caught.value.exit_code == 74
        assert names(root) == ["1"]
    assert len(said) == 1
    assert "the original words" in said[0]


def test_a_failed_save_hides_no_other_error(root, monkeypatch):
    def leave(error):
        with Checkpoints(root, keep_last=1, say=lambda text: None) as checkpoints:
            Spoilt(monkeypatch).writing()
            checkpoints.save(2, state(2), {}, {})
            raise error

    with pytest.raises(DataError):
        leave(DataError("not finite"))
    with pytest.raises(StorageError, match="the original words"):  # for this one says that the state was saved
        leave(Interrupted(15, "saved"))


def test_the_bytes_are_compared_with_what_was_to_be_saved(root, monkeypatch):
    real = ocp.StandardCheckpointHandler.restore

    def altered(*arguments, **options):
        read = real(*arguments, **options)
        return {**read, "kernel": read["kernel"] * -1}

    monkeypatch.setattr(ocp.StandardCheckpointHandler, "restore", altered)
    checkpoints = Checkpoints(root, keep_last=1, say=lambda text: None)
    checkpoints.save(2, state(2), {}, {})
    with pytest.raises(StorageError, match="kernel reads back as another array than was saved"):
        checkpoints.close()
    assert committed_steps(root) == [1]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    base = micro.config(micro.write_npz(tmp_path_factory.mktemp("micro")))
    return dataclasses.replace(
        base,
        eval_every_steps=0,
        log_every_steps=0,
        batch_norm=dataclasses.replace(base.batch_norm, reestimate=False),
        checkpoint=dataclasses.replace(base.checkpoint, every_steps=8, keep_last=1, keep_best=0),
    )


@pytest.fixture(scope="module")
def compiled(config):
    run = build(config, jax.devices()[:1])
    return run, run.compile_chunk(run.initial_state()), run.make_evaluate()


class Limited:
    """Single steps; of the steps `first .. last - 1` no file may become large."""

    max_steps = 1

    def __init__(self, chunk, first, last, stop_at=None):
        self.chunk, self.first, self.last, self.stop_at = chunk, first, last, stop_at
        self.host_seconds = 0.0

    def __call__(self, state, start, stop):
        result = self.chunk(state, start, stop)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        small = self.first <= stop < self.last
        resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL if small else hard, hard))
        if stop == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return result


@pytest.fixture
def trainer(compiled, monkeypatch):
    """`trainer(config, workdir, first, last, stop_at)`: the real trainer; the disk takes large files but for those steps."""
    run, chunk, evaluate = compiled
    monkeypatch.setattr("resflax.build.build", lambda config, **_: dataclasses.replace(run, config=config))
    monkeypatch.setattr(Run, "make_evaluate", lambda self: evaluate)
    monkeypatch.setattr("resflax.build.record.draw", lambda *_: None)

    real = Checkpoints.save

    def save(self, *arguments):  # so that it is done, well or badly, before the disk changes
        real(self, *arguments)
        futures.wait([self._committing] if self._committing else [])

    monkeypatch.setattr(Checkpoints, "save", save)

    def go(config, workdir, first=0, last=0, stop_at=None):
        wrapped = Limited(chunk, first, last, stop_at)
        monkeypatch.setattr(Run, "lower_chunk", lambda self, *_, **options: lambda: wrapped)
        with file_size_limit(resource.getrlimit(resource.RLIMIT_FSIZE)[1]):  # restored at the end
            return train.train_and_evaluate(config, str(workdir))

    return go


def test_a_run_survives_saves_that_fail_for_a_while(trainer, config, tmp_path, capsys):
    trainer(config, tmp_path / "whole")
    record = trainer(config, tmp_path / "run", first=16, last=25)  # the saves of steps 16 and 24
    said = capsys.readouterr().err
    for step in (16, 24):
        assert f"checkpoint {tmp_path}/run/checkpoints/{step} could not be saved, " in said
    assert said.count("could not be saved") == 2
    assert said.count("File too large") == 2
    assert record["steps"] == 40
    ends = [latest_checkpoint(epath.Path(tmp_path / name / "checkpoints")) for name in ("whole", "run")]
    assert [end.step for end in ends] == [40, 40]
    assert names(tmp_path / "run" / "checkpoints") == ["40"]
    arrays = [digest(end.restore(compiled_state(trainer, config))) for end in ends]
    assert arrays[0] == arrays[1]


def compiled_state(trainer, config):
    return build(config, jax.devices()[:1]).abstract_state()


def test_three_failures_in_a_row_end_the_run(trainer, config, tmp_path, capsys):
    with pytest.raises(StorageError, match=r"checkpoints/32 could not be saved.*; 3 saves in a row have failed") as caught:
        trainer(config, tmp_path, first=16, last=41)
    assert caught.value.exit_code == 74
    assert capsys.readouterr().err.count("could not be saved") == 3
    assert names(tmp_path / "checkpoints") == ["8"]
    assert not (tmp_path / "result.json").exists()
    assert trainer(config, tmp_path)["steps"] == 40  # with room again it goes on from there
    assert "going on from step 8" in capsys.readouterr().err


@pytest.mark.faults
@pytest.mark.parametrize("allowed", [1, 2])
def test_fewer_may_be_allowed(allowed, trainer, config, tmp_path):
    fewer = dataclasses.replace(config, checkpoint=dataclasses.replace(config.checkpoint, max_failed_saves=allowed))
    with pytest.raises(StorageError, match=f"checkpoints/{8 * allowed + 8} could not be saved"):
        trainer(fewer, tmp_path, first=16, last=41)
    assert names(tmp_path / "checkpoints") == ["8"]


def test_the_last_save_must_not_fail(trainer, config, tmp_path):
    with pytest.raises(StorageError, match="checkpoints/40 could not be saved") as caught:
        trainer(config, tmp_path, first=40, last=41)
    assert caught.value.exit_code == 74
    assert names(tmp_path / "checkpoints") == ["32"]
    assert not (tmp_path / "result.json").exists()


@pytest.mark.faults
def test_a_signal_whose_save_fails_is_a_failure(trainer, config, tmp_path):
    with pytest.raises(StorageError, match="checkpoints/19 could not be saved") as caught:
        trainer(config, tmp_path, first=18, last=41, stop_at=19)
    assert caught.value.exit_code == 74
    assert names(tmp_path / "checkpoints") == ["16"]


@pytest.mark.faults
def test_the_command_says_it_in_sentences(command, tmp_path):
    arguments = (f"--config.data.name={micro.write_npz(tmp_path)}", "--config.total_steps=60", "--config.data.batch_size=8")
    arguments += ("--config.checkpoint.every_steps=10", "--config.model.name=cifar_resnet8", "--config.model.kwargs.width=4")
    arguments += ("--config.batch_norm.group_size=8",)
    assert command("train", "--workdir=whole", *arguments).returncode == 0  # compiles, so that JAX has nothing more to write

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, SMALL))

    done = command("train", "--workdir=run", *arguments, preexec_fn=limited)
    assert done.returncode == 74, done.stderr
    assert "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if "could not be saved" in line]
    assert len(said) == 4  # as they failed, and at the end
    assert all("arrays are needed and" in line and "File too large" in line for line in said)
    assert said[-1].startswith("resflax: ")
    assert said[-1].endswith("; 3 saves in a row have failed")


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 1.5 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = shutil.which("mount") and os.geteuid() == 0
    options = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(place)]
    if not mounted or subprocess.run(options, capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.faults
def test_a_disk_that_is_really_full(trainer, config, tiny_disk, capsys):
    workdir = tiny_disk / "run"
    filler = tiny_disk / "filler"

    def fill():
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    with pytest.raises(Interrupted):
        trainer(config, workdir, stop_at=9)
    fill()
    with pytest.raises(StorageError) as caught:
        trainer(config, workdir)
    assert caught.value.exit_code == 74
    assert "No space left on device" in str(caught.value)
    filler.unlink()
    assert trainer(config, workdir)["steps"] == 40
    assert "going on from step 9" in capsys.readouterr().err
    assert [row["step"] for row in read_lines(epath.Path(workdir / "metrics.jsonl"))] == [40]
