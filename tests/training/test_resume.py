"""Exact resume: real signals, real checkpoints, compared bit for bit."""

import contextlib
import dataclasses
import itertools
import json
import os
import signal

import jax
import pytest

from resflax import train
from resflax.build import Run, build
from resflax.errors import DataError, Interrupted
from resflax.files import Workdir, read_lines
from resflax.training.checkpoints import latest_checkpoint
from resflax.tree import digest
from tests import micro

PARTS = ("step", "params", "batch_stats", "opt_state", "ema")
CLOCKS = ("images_per_second",)  # the only scalars that may differ


class StopAt:
    """Runs single steps and, after step `at`, sends this process a signal, as a scheduler would."""

    max_steps = 1
    host_seconds = 0.0

    def __init__(self, chunk, at, number=signal.SIGTERM):
        self.chunk, self.at, self.number = chunk, at, number

    def __call__(self, state, start, stop):
        result = self.chunk(state, start, stop)
        if stop == self.at:
            os.kill(os.getpid(), self.number)
        return result


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return micro.write_npz(tmp_path_factory.mktemp("micro"))


@pytest.fixture(scope="module")
def config(path):
    # Re-estimation compiles anew in each run; it comes after the last step, and the tests in tests/faults have it on.
    base = micro.config(path)
    return dataclasses.replace(base, batch_norm=dataclasses.replace(base.batch_norm, reestimate=False))


@pytest.fixture(scope="module")
def compiled(config):
    """One compilation serves all runs; they still build, restore, evaluate and save for themselves."""
    run = build(config, jax.devices()[:1])
    return run, run.compile_chunk(run.initial_state())


@pytest.fixture
def trainer(compiled, monkeypatch):
    """`trainer(config, workdir, stop_at)`; figures are left out, they are tested elsewhere."""
    run, chunk = compiled
    evaluate = run.make_evaluate()
    monkeypatch.setattr(
        "resflax.build.build",
        lambda config, **resumed: dataclasses.replace(build(config, jax.devices()[:1], **resumed), model=run.model),
    )
    monkeypatch.setattr(Run, "make_evaluate", lambda self: evaluate)
    monkeypatch.setattr("resflax.build.record.draw", lambda *_: None)

    def go(config, workdir, stop_at=None, number=signal.SIGTERM):
        wrapped = chunk if stop_at is None else StopAt(chunk, stop_at, number)
        monkeypatch.setattr(Run, "lower_chunk", lambda self, state: lambda: wrapped)
        return train.train_and_evaluate(config, str(workdir))

    return go


def outcome(run, workdir, record):
    """Everything that must be equal, part by part."""
    saved = latest_checkpoint(Workdir(workdir).checkpoints)
    state = saved.restore(run.abstract_state())
    rows = [{name: value for name, value in row.items() if name not in CLOCKS} for row in read_lines(Workdir(workdir).metrics)]
    clocks = ("train_seconds", "wall_seconds", "images_per_second")
    return {
        **{part: digest(getattr(state, part)) for part in PARTS},
        "rows": rows,
        "record": {name: value for name, value in record.items() if name not in clocks},
        "progress": {name: value for name, value in saved.progress.items() if not name.endswith("seconds")},
        "checkpoints": sorted(path.name for path in (workdir / "checkpoints").iterdir()),
    }


@pytest.fixture
def unbroken(trainer, compiled, config, tmp_path):
    record = trainer(config, tmp_path / "unbroken")
    return outcome(compiled[0], tmp_path / "unbroken", record)


# Around a checkpoint, an evaluation and a log line (8, 16), at the milestones (20, 30), first and last.
@pytest.mark.parametrize(
    "stops", [(1, 7, 8, 9, 16, 20, 30, 39), pytest.param(range(1, 40), marks=pytest.mark.faults)], ids=["some", "every"]
)
def test_stopping_at_a_step_changes_nothing(stops, trainer, compiled, config, unbroken, tmp_path):
    assert unbroken["rows"][-1]["step"] == 40
    for stop in stops:
        workdir = tmp_path / f"stop{stop}"
        with pytest.raises(Interrupted, match=f"signal 15 (at step {stop}, saved|while step {stop} was evaluated)") as caught:
            trainer(config, workdir, stop_at=stop)
        assert caught.value.exit_code == 143
        assert not (workdir / "result.json").exists()
        found = outcome(compiled[0], workdir, trainer(config, workdir))
        for part in PARTS:
            assert found[part] == unbroken[part], f"{part} after a stop at step {stop}"
        assert found["rows"] == unbroken["rows"]
        assert found["record"] == unbroken["record"]
        assert found["progress"] == unbroken["progress"]


@contextlib.contextmanager
def signal_before_batch(count):
    """Sends this process a signal before batch `count`, from 0, of all evaluations and re-estimations of a run."""
    batches = itertools.count()

    def listen(event, **_):
        if event == "/resflax/batch" and next(batches) == count:
            os.kill(os.getpid(), signal.SIGTERM)

    jax.monitoring.register_event_listener(listen)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_listener(listen)


# Evaluations have 3 batches and come after every 8 steps, before the last one the statistics are re-estimated from 7 batches.
@pytest.mark.parametrize(
    ("reestimate", "batches"),
    [(False, (0, 4, 14)), pytest.param(True, range(22), marks=pytest.mark.faults)],
    ids=["some", "every"],
)
def test_giving_up_an_evaluation_changes_nothing(reestimate, batches, trainer, compiled, config, tmp_path):
    config = dataclasses.replace(config, batch_norm=dataclasses.replace(config.batch_norm, reestimate=reestimate))
    unbroken = outcome(compiled[0], tmp_path / "unbroken", trainer(config, tmp_path / "unbroken"))
    del unbroken["checkpoints"]  # the step before an evaluation is kept too
    for batch in batches:
        workdir, step = tmp_path / f"batch{batch}", min(8 * (batch // 3 + 1), 40)
        message = f"signal 15 while step {step} was evaluated, the step before is saved as checkpoint {step - 1};"
        with signal_before_batch(batch), pytest.raises(Interrupted, match=message):
            trainer(config, workdir)
        assert not (workdir / "result.json").exists()
        found = outcome(compiled[0], workdir, trainer(config, workdir))
        del found["checkpoints"]
        assert found == unbroken, f"given up before batch {batch}"


def test_the_evaluation_of_the_first_step_is_given_up_for_step_0(trainer, compiled, config, tmp_path):
    config = dataclasses.replace(config, eval_every_steps=1)
    unbroken = outcome(compiled[0], tmp_path / "unbroken", trainer(config, tmp_path / "unbroken"))
    with signal_before_batch(1), pytest.raises(Interrupted, match="saved as checkpoint 0;"):
        trainer(config, tmp_path / "run")
    assert outcome(compiled[0], tmp_path / "run", trainer(config, tmp_path / "run")) == unbroken


def test_a_run_stopped_many_times(trainer, compiled, config, unbroken, tmp_path):
    workdir = tmp_path / "often"
    for stop in (1, 2, 5, 8, 9, 13, 16, 24, 39):
        with pytest.raises(Interrupted) as caught:
            trainer(config, workdir, stop_at=stop, number=signal.SIGINT)
        assert caught.value.exit_code == 130
    found = outcome(compiled[0], workdir, trainer(config, workdir))
    assert {part: found[part] for part in PARTS} == {part: unbroken[part] for part in PARTS}
    assert found["rows"] == unbroken["rows"]


def test_logging_evaluating_and_saving_do_not_change_training(trainer, compiled, config, unbroken, tmp_path):
    quiet = dataclasses.replace(
        config,
        log_every_steps=0,
        eval_every_steps=0,
        checkpoint=dataclasses.replace(config.checkpoint, every_steps=0, keep_best=0),
    )
    found = outcome(compiled[0], tmp_path / "quiet", trainer(quiet, tmp_path / "quiet"))
    assert {part: found[part] for part in PARTS} == {part: unbroken[part] for part in PARTS}
    assert found["record"]["first_losses"] == unbroken["record"]["first_losses"]


def test_the_newest_damaged_checkpoint_is_passed_over(trainer, compiled, config, unbroken, tmp_path, capsys):
    workdir = tmp_path / "damaged"
    with pytest.raises(Interrupted):
        trainer(config, workdir, stop_at=27)
    newest = workdir / "checkpoints" / "27"
    victim = max(newest.rglob("*"), key=lambda file: file.stat().st_size if file.is_file() else 0)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    found = outcome(compiled[0], workdir, trainer(config, workdir))
    said = capsys.readouterr().err
    assert f"checkpoint 27 is not used: {victim} is damaged" in said
    assert "going on from step 24" in said
    assert {part: found[part] for part in PARTS} == {part: unbroken[part] for part in PARTS}
    assert any(name.startswith("damaged-27-") for name in found["checkpoints"])


def test_other_data_are_refused(trainer, config, path, tmp_path):
    workdir = tmp_path / "run"
    with pytest.raises(Interrupted):
        trainer(config, workdir, stop_at=3)
    original = path.read_bytes()
    micro.write_npz(path.parent, seed=1)
    try:
        with pytest.raises(DataError, match="the data must be those that"):
            trainer(config, workdir)
    finally:
        path.write_bytes(original)


def test_a_finished_run_returns_its_record(trainer, config, tmp_path):
    record = trainer(config, tmp_path / "once")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "once").rglob("*")}
    assert trainer(config, tmp_path / "once") == record
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "once").rglob("*")} == before
    assert json.loads((tmp_path / "once" / "result.json").read_text()) == record
