"""python -m resflax.train: trains a network, or goes on where an earlier call was stopped."""

from __future__ import annotations

import functools
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import TYPE_CHECKING, Any

from resflax.cli import Parser, prepare_jax, run, split_overrides
from resflax.config import Config, apply_overrides, load_config, to_dict, validate
from resflax.config.serial import changed_keys
from resflax.errors import ConfigError, Interrupted
from resflax.training.limits import parse_limits

if TYPE_CHECKING:
    from resflax.files import Workdir
    from resflax.training.progress import Progress
    from resflax.training.state import TrainState

DEFAULT_CONFIG = "quickstart"


def main(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    others, overrides = split_overrides(argv)
    parser = Parser(prog="python -m resflax.train", description=__doc__, epilog="Any field: --config.a.b=VALUE")
    parser.add_argument("--config", default=DEFAULT_CONFIG, metavar="FILE.py[:variant]")
    parser.add_argument("--workdir", metavar="DIR", help="default: runs/<file>-<variant>")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, where no scheduler says so")
    parser.add_argument("--num_processes", type=int, metavar="N")
    parser.add_argument("--process_id", type=int, metavar="N")
    parser.add_argument("--limits", metavar="PHASE:SECONDS,...", help="before a process that hangs is ended: docs/runs.md")
    arguments = parser.parse_args(others)
    config, name = load_config(arguments.config)
    config = validate(apply_overrides(config, overrides))
    limits = parse_limits(arguments.limits)
    workdir = arguments.workdir or f"runs/{name}"
    prepare_jax(config.precision.compute == "float64")
    from resflax.training.distributed import initialize, is_primary
    from resflax.training.watchdog import Watchdog

    initialize(arguments.coordinator, arguments.num_processes, arguments.process_id, limits["silence"])
    with Watchdog(limits):
        record = train_and_evaluate(config, workdir)
    if not is_primary():
        return 0
    print(json.dumps({key: record[key] for key in SUMMARY}))
    print(
        f"everything about this run is in {workdir}; try: python -m resflax.predict --workdir={workdir} IMAGE...",
        file=sys.stderr,
    )
    return 0


SUMMARY = (
    "model", "parameters", "dataset", "test_accuracy", "test_loss", "images_scored", "steps", "seed", "train_seconds",
)  # fmt: skip


def train_and_evaluate(config: Config, workdir: str, deadline: float = math.inf) -> dict[str, Any]:
    """Trains to the end and returns the record, the content of `result.json`.

    Resumes from the newest intact checkpoint in `workdir`; a finished workdir returns its record at once. At `deadline`, a
    time of `time.monotonic`, the run is stopped as by a signal.

    Raises:
      ConfigError: the configuration cannot be run, or the workdir belongs to another one.
      DataError: a number is not finite, or the data are not what they must be.
      StorageError: the workdir cannot be written.
      TemporaryError: another process trains in the workdir.
      Interrupted: SIGTERM, SIGINT or the deadline came; the state was saved.
    """
    began = time.perf_counter()
    validate(config)
    prepare_jax(config.precision.compute == "float64")

    from etils import epath

    from resflax.files import Workdir, read_json
    from resflax.training import distributed, lock
    from resflax.training.moments import reached

    reached("imported")
    files = Workdir(epath.Path(workdir))
    check_workdir(files, config)
    distributed.check_shared(files.root)
    if files.result.exists():
        return read_json(files.result)
    with lock.held(files.root):
        check_workdir(files, config)  # another trainer may have been at it until now
        if files.result.exists():
            return read_json(files.result)
        return _train(config, files, deadline, began)


def _train(config: Config, files: Workdir, deadline: float, began: float) -> dict[str, Any]:
    """`train_and_evaluate` where no other process writes to the workdir."""
    from resflax.build import build
    from resflax.build.record import draw, introduce, make_record
    from resflax.build.resume import check_checkpoint, choose_checkpoint, start_from
    from resflax.files import remove_temporaries, write_json
    from resflax.training import distributed
    from resflax.training.checkpoint_files import to_stderr
    from resflax.training.checkpoints import Checkpoints
    from resflax.training.hooks import EvaluateHook, LogHook
    from resflax.training.logs import Display, MetricsWriter
    from resflax.training.loop import Loop, fit, heed
    from resflax.training.moments import phase, reached
    from resflax.training.non_finite import Recover, RollBack, Skip, Start, abort
    from resflax.training.signals import SignalFlag

    primary = distributed.is_primary()
    if primary:
        for folder in (files.root, files.figures):
            remove_temporaries(folder)
    saved = choose_checkpoint(files)
    run = build(config, resumed=None if saved is None else saved.metadata)
    check_checkpoint(files, saved, run)
    if primary and not files.config.exists():
        write_json(files.config, to_dict(config))
    if primary and run.skipped:
        list_skipped(files, run.skipped)
    step = 0 if saved is None else saved.step
    display = Display(run.total_steps, step, quiet=not primary)
    say = display.say if primary else to_stderr
    introduce(display, run, step)
    with futures.ThreadPoolExecutor(1, "compile") as compiler:
        # XLA compiles what makes the state while the training step is traced, then the step while the state is made.
        making = compiler.submit(lambda: run.compiled_init) if saved is None else None
        compile_chunk = run.lower_chunk(run.abstract_state())
        reached("lowered")
        with phase("compile"):
            compiling = compiler.submit(compile_chunk)
            if making is not None:
                making.result()
            step, state, progress = start_from(run, saved)
            evaluate, metadata = run.make_evaluate(), run.metadata()
            keep = config.checkpoint
            checkpoints = Checkpoints(files.checkpoints, keep.keep_last, keep.keep_best, keep.max_failed_saves, say)
            run_chunk = compiling.result()
    reached("compiled")
    progress.wall_seconds += time.perf_counter() - began

    with SignalFlag(deadline) as signals:
        through = functools.partial(heed, signals)
        scoring = EvaluateHook(
            config.eval_every_steps, config.data.eval_split, lambda state: evaluate(state.variables(), through)
        )
        writer = MetricsWriter(files, step) if primary else None

        def restore() -> Start:
            checkpoints.settle()
            newest = choose_checkpoint(files)
            check_checkpoint(files, newest, run)
            start = start_from(run, newest)
            if writer is not None:
                writer.rewind(start.step)
            return start

        most = config.non_finite.max_consecutive
        recover: dict[str, Recover] = {
            "abort": abort,
            "skip": Skip(most, display.say),
            "roll_back": RollBack(most, restore, display.say),
        }

        def save(step: int, state: TrainState, progress: Progress) -> None:
            with phase("save", step=step):
                checkpoints.save(step, state, progress.to_dict(), metadata, scoring.score(step))
            reached("saving", step=step)

        loop = Loop(
            total_steps=run.total_steps,
            steps_per_epoch=run.steps_per_epoch,
            batch_size=config.data.batch_size,
            run_chunk=run_chunk,
            hooks=(LogHook(config.log_every_steps, config.data.batch_size, run.schedule, run.peak_rate), scoring),
            save=save,
            save_every_steps=config.checkpoint.every_steps,
            recover=recover[config.non_finite.policy],
            finish=lambda state: run.finish(state, through),
            writer=writer,
            display=display,
            signals=signals,
        )
        with checkpoints:
            try:
                state, progress = fit(loop, state, step, progress)
            finally:
                display.close()
                if writer is not None:
                    writer.close()
        stopped = distributed.agree(signals.heard or 0).signal
    if stopped:
        raise Interrupted(
            stopped,
            f"stopped by signal {stopped} after the last step, saved as checkpoint {run.total_steps}; run again for the record",
        )
    reached("trained")
    evaluation = scoring.last[1] if scoring.last is not None else evaluate(state.variables())
    record = make_record(run, evaluation, progress, state)
    if primary:
        draw(files, run, evaluation)
        write_json(files.result, record)
    return record


def check_workdir(files: Workdir, config: Config) -> None:
    """Raises `ConfigError` where the workdir belongs to a run with another configuration."""
    from resflax.errors import StorageError
    from resflax.files import read_json, storage

    with storage("write", files.root):
        if not files.config.exists():
            files.root.mkdir(parents=True, exist_ok=True)
            return
    found = read_json(files.config)
    if not isinstance(found, dict):
        raise StorageError(f"{files.config} must hold the configuration of a run, but it does not; restore or remove the file")
    changes = changed_keys(found, to_dict(config))
    if changes:
        raise ConfigError(
            f"{files.root} belongs to a run with another configuration ({'; '.join(changes[:5])}); name another --workdir, "
            "or remove it"
        )


def list_skipped(files: Workdir, skipped: Mapping[str, str]) -> None:
    """Writes down the files that are left out, and why."""
    from resflax.files import write_bytes

    path = files.root / "skipped.jsonl"
    lines = [json.dumps({"path": name, "reason": reason}) + "\n" for name, reason in skipped.items()]
    write_bytes(path, "".join(lines).encode())
    print(f"{len(skipped)} unreadable files are left out, listed in {path}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
