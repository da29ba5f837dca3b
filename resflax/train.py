"""python -m resflax.train: trains a network, or goes on where an earlier call was stopped."""

from __future__ import annotations

import functools
import json
import math
import sys
import time
from collections.abc import Sequence
from concurrent import futures
from typing import TYPE_CHECKING, Any

from resflax.cli import Parser, prepare_jax, run, split_overrides
from resflax.config import Config, apply_overrides, config_hash, load_config, to_dict, validate
from resflax.config.serial import changed_keys
from resflax.errors import ConfigError, Interrupted
from resflax.training.limits import parse_limits

if TYPE_CHECKING:
    from resflax.build import Run
    from resflax.files import Workdir
    from resflax.training.checkpoints import Saved
    from resflax.training.evaluation import Evaluation
    from resflax.training.logs import Display
    from resflax.training.progress import Progress

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
    from resflax.files import remove_temporaries, write_bytes, write_json
    from resflax.training import distributed
    from resflax.training.checkpoint_files import to_stderr
    from resflax.training.checkpoints import Checkpoints
    from resflax.training.hooks import EvaluateHook, LogHook
    from resflax.training.logs import Display, MetricsWriter
    from resflax.training.loop import Loop, fit, heed
    from resflax.training.moments import phase, reached
    from resflax.training.non_finite import Recover, RollBack, Skip, Start, abort
    from resflax.training.progress import Progress
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
        lines = [json.dumps({"path": path, "reason": reason}) + "\n" for path, reason in run.skipped.items()]
        write_bytes(files.root / "skipped.jsonl", "".join(lines).encode())
        print(f"{len(run.skipped)} unreadable files are left out, listed in {files.root}/skipped.jsonl", file=sys.stderr)
    progress, step = (Progress(), 0) if saved is None else (Progress(**saved.progress), saved.step)
    display = Display(run.total_steps, step, quiet=not primary)
    introduce(display, run, step)
    compile_chunk = run.lower_chunk(run.abstract_state())
    reached("lowered")
    # XLA compiles while the state is made.
    with phase("compile"), futures.ThreadPoolExecutor(1, "compile") as compiler:
        compiling = compiler.submit(compile_chunk)
        state = run.initial_state() if saved is None else saved.restore(run.abstract_state())
        run_chunk = compiling.result()
    reached("compiled")
    progress.wall_seconds += time.perf_counter() - began
    evaluate = run.make_evaluate()
    metadata = run.metadata()

    with SignalFlag(deadline) as signals:
        through = functools.partial(heed, signals)
        scoring = EvaluateHook(
            config.eval_every_steps, config.data.eval_split, lambda state: evaluate(state.variables(), through)
        )
        keep = config.checkpoint
        say = display.say if primary else to_stderr
        checkpoints = Checkpoints(files.checkpoints, keep.keep_last, keep.keep_best, keep.max_failed_saves, say)
        writer = MetricsWriter(files, step) if primary else None

        def restore() -> Start:
            checkpoints.settle()
            newest = choose_checkpoint(files)
            check_checkpoint(files, newest, run)
            step = 0 if newest is None else newest.step
            if writer is not None:
                writer.rewind(step)
            if newest is None:
                return Start(0, run.initial_state(), Progress())
            return Start(step, newest.restore(run.abstract_state()), Progress(**newest.progress))

        most = config.non_finite.max_consecutive
        recover: dict[str, Recover] = {
            "abort": abort,
            "skip": Skip(most, display.say),
            "roll_back": RollBack(most, restore, display.say),
        }

        def save(step: int, state: Any, progress: Progress) -> None:
            with phase("save", step=step):
                checkpoints.save(step, state, progress.to_dict(), metadata, scoring.score(step))
            reached("saving", step=step)

        def finish(state: Any) -> Any:
            if not (config.batch_norm.reestimate and state.batch_stats):
                return state
            stats = run.reestimate(state.variables()["params"], through)
            return (
                state.replace(batch_stats=stats)
                if state.ema is None
                else state.replace(ema=state.ema.replace(batch_stats=stats))
            )

        loop = Loop(
            total_steps=run.total_steps,
            steps_per_epoch=run.steps_per_epoch,
            batch_size=config.data.batch_size,
            run_chunk=run_chunk,
            hooks=(LogHook(config.log_every_steps, config.data.batch_size, run.schedule, run.peak_rate), scoring),
            save=save,
            save_every_steps=config.checkpoint.every_steps,
            recover=recover[config.non_finite.policy],
            finish=finish,
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


def choose_checkpoint(files: Workdir) -> Saved | None:
    """The checkpoint to go on from: process 0 looks for it, all open the same one."""
    from resflax.training import distributed
    from resflax.training.checkpoint_files import to_stderr
    from resflax.training.checkpoints import latest_checkpoint, open_checkpoint

    saved = None
    if distributed.is_primary():
        saved = latest_checkpoint(files.checkpoints, to_stderr, set_aside=True)
    step = distributed.from_primary(-1 if saved is None else saved.step)
    if step < 0:
        return None
    return saved or open_checkpoint(files.checkpoints / str(step))


def check_checkpoint(files: Workdir, saved: Saved | None, run: Run) -> None:
    """Raises, before an array is read, `ConfigError` for a checkpoint of another run and `DataError` for other data."""
    from resflax.errors import DataError
    from resflax.tree import differences, signature

    if saved is None:
        return
    changes = changed_keys(saved.metadata["config"], to_dict(run.config))
    if changes:
        changes += differences(saved.tree, signature(run.abstract_state()))
        raise ConfigError(
            f"checkpoint {saved.path} belongs to a run with another configuration ({'; '.join(changes[:8])}); remove it, or "
            "name another --workdir"
        )
    if saved.metadata["dataset_fingerprint"] != run.fingerprint:
        raise DataError(
            f"the data must be those that {files.root} was started with, but their fingerprint is {run.fingerprint} and was "
            f"{saved.metadata['dataset_fingerprint']}; restore the data, or name another --workdir"
        )
    if saved.step > run.total_steps:
        raise ConfigError(
            f"checkpoint {saved.path} lies beyond the {run.total_steps} steps of this run; remove it, or name another --workdir"
        )


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


def introduce(display: Display, run: Run, step: int) -> None:
    """Says what is about to happen."""
    import jax

    from resflax.tree import named_leaves, parameter_count

    count = parameter_count(run.abstract_state().params)
    devices = f"{run.mesh.size} x {jax.devices()[0].device_kind}"
    if jax.process_count() > 1:
        devices += f" in {jax.process_count()} processes"
    display.say(
        f"{run.config.model.name} ({count:,} parameters) on {run.config.data.name}: {len(run.train):,} training, "
        f"{len(run.test):,} {run.config.data.eval_split} images; {run.total_steps} steps of "
        f"{run.config.data.batch_size}; {devices}"
    )
    if run.pretrained is not None and run.init is not None and not step:
        fresh = run.init["fresh"]
        kept = sum(name not in fresh for name in named_leaves(run.pretrained.variables))
        display.say(
            f"{kept} arrays are those of {run.init['weights']} (SHA-256 {run.init['digest'][:12]}), {len(fresh)} are new"
            f"{': ' if fresh else ''}{', '.join(fresh)}; images of {run.test.preprocessing.image_size[0]} pixels, there "
            f"{run.pretrained.preprocessing.image_size[0]}"
        )
    display.say(f"going on from step {step}" if step else "compiling the training step")


def draw(files: Workdir, run: Run, evaluation: Evaluation) -> None:
    """The two figures of a run."""
    from resflax.files import read_lines
    from resflax.viz.confusion import plot_confusion
    from resflax.viz.curves import plot_curves
    from resflax.viz.style import save

    split = run.config.data.eval_split.partition("[")[0]
    title = f"{run.config.model.name} on {run.config.data.name}, seed {run.config.seed}"
    figures = {
        "curves.png": plot_curves(read_lines(files.metrics), split, title),
        "confusion.png": plot_confusion(
            evaluation.confusion,
            run.class_names,
            f"{title}: {evaluation.images_scored} {split} images, accuracy {100 * evaluation.accuracy:.2f} %",
        ),
    }
    for name, figure in figures.items():
        save(figure, files.figures / name)


def make_record(run: Run, evaluation: Evaluation, progress: Progress, state: Any) -> dict[str, Any]:
    """The content of `result.json`."""
    import jax

    from resflax.results.record import describe_evaluation, git_commit, versions
    from resflax.training.utilization import model_flops_utilization
    from resflax.tree import parameter_count

    config = run.config
    rate = run.total_steps * config.data.batch_size / progress.train_seconds
    return {
        "model": config.model.name,
        "parameters": parameter_count(state.params),
        "dataset": config.data.name,
        "dataset_fingerprint": run.fingerprint,
        "split": config.data.eval_split,
        "images_scored": evaluation.images_scored,
        "images_skipped": len(run.skipped),
        "test_accuracy": evaluation.accuracy,
        "test_top5_accuracy": evaluation.top5_accuracy,
        "test_loss": evaluation.loss,
        "test_expected_calibration_error": evaluation.expected_calibration_error,
        "best_accuracy": progress.best_accuracy,  # over all evaluations of the run: never the result
        "best_step": progress.best_step,
        "steps": run.total_steps,
        "skipped_steps": progress.skipped_steps,  # their numbers, counted from 1
        "epochs": run.total_steps / run.steps_per_epoch,
        "seed": config.seed,
        "train_seconds": progress.train_seconds,
        "wall_seconds": progress.wall_seconds,
        "images_per_second": rate,
        "model_flops_utilization": model_flops_utilization(rate, run.peak_rate),
        **({} if run.init is None else {"init": run.init}),
        "evaluation": describe_evaluation(config, run.metadata()),
        "loss_digest": progress.loss_digest(),
        "first_losses": progress.first_losses,
        "device": jax.devices()[0].device_kind,
        "device_count": run.mesh.size,
        "process_count": jax.process_count(),
        "versions": versions(),
        "git_commit": git_commit(),
        "config_hash": config_hash(config),
        "config": to_dict(config),
    }


if __name__ == "__main__":
    run(main)
