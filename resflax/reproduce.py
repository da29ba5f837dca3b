"""python -m resflax.reproduce: runs the rows of a paper with several seeds, or verifies a record."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from resflax.cli import Parser, prepare_jax, run, split_overrides
from resflax.config import Config, apply_overrides, config_hash, from_dict, load_config, to_dict, validate
from resflax.config.files import load_experiment
from resflax.config.serial import changed_keys
from resflax.errors import ConfigError, DataError, InputError, Interrupted, StorageError, TemporaryError
from resflax.training.device_shares import share_devices
from resflax.training.side_by_side import Ended, Job, end_with_stdin, run_side_by_side

if TYPE_CHECKING:
    from etils import epath


def main(argv: Sequence[str]) -> int:
    """The command; the last line of stdout is a JSON object. Returns the exit code."""
    others, overrides = split_overrides(argv)
    parser = Parser(prog="python -m resflax.reproduce", description=__doc__, epilog="Any field: --config.a.b=VALUE")
    parser.add_argument("experiment", nargs="?", metavar="FILE.py")
    parser.add_argument("--rows", metavar="A,B", help="default: all that the experiment lists")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="number of seeds (default: 5)")
    parser.add_argument("--first_seed", type=int, default=0, metavar="S", help="seeds are S to S + N - 1 (default: 0)")
    parser.add_argument(
        "--at_once", type=int, default=1, metavar="N", help="runs side by side, see docs/reproducing.md (default: 1)"
    )
    parser.add_argument("--budget_minutes", type=float, metavar="M", help="stop then, with checkpoints; run again to go on")
    parser.add_argument("--workdir", default="runs", metavar="DIR", help="of all runs (default: runs)")
    parser.add_argument("--results", metavar="DIR", help="of the records (default: WORKDIR/FILE/results)")
    parser.add_argument("--note", metavar="TEXT", help="kept in the records and shown in the table")
    parser.add_argument("--verify", metavar="RECORD", help="replay a record's first steps instead")
    parser.add_argument("--end_with_stdin", action="store_true", help=argparse.SUPPRESS)  # how one of several is started
    arguments = parser.parse_args(others)
    if (arguments.experiment is None) == (arguments.verify is None):
        parser.error("name either an experiment's FILE.py or --verify=RECORD")
    for name, least in (("seeds", 1), ("first_seed", 0), ("at_once", 1)):
        if getattr(arguments, name) < least:
            parser.error(f"--{name} must be at least {least}, got {getattr(arguments, name)}")
    if arguments.end_with_stdin:
        end_with_stdin()
    if arguments.verify:
        verdict = verify_record(Path(arguments.verify), overrides)
        print(json.dumps(verdict))
        return 0 if verdict["confirmed"] else DataError.exit_code
    summary = reproduce(
        arguments.experiment,
        rows=arguments.rows.split(",") if arguments.rows else None,
        seeds=arguments.seeds,
        budget_minutes=arguments.budget_minutes,
        workdir=arguments.workdir,
        results=arguments.results,
        overrides=overrides,
        note=arguments.note,
        first_seed=arguments.first_seed,
        at_once=arguments.at_once,
    )
    print(json.dumps(summary))
    return DataError.exit_code if summary["failed"] else 0


@dataclass(frozen=True)
class Planned:
    """A row with one seed."""

    experiment: str
    row: str
    note: str | None
    config: Config
    workdir: epath.Path
    results: epath.Path

    @property
    def name(self) -> str:
        """Of the record."""
        return f"{self.experiment}-{self.row}-s{self.config.seed}"

    @property
    def record(self) -> epath.Path:
        """The file."""
        return self.results / f"{self.name}.json"


@dataclass
class Outcome:
    """Names of records: made, not yet made, and not to be had, with the reason."""

    done: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def reproduce(
    experiment: str,
    rows: Sequence[str] | None = None,
    seeds: int = 5,
    budget_minutes: float | None = None,
    workdir: str = "runs",
    results: str | None = None,
    overrides: Sequence[str] = (),
    note: str | None = None,
    first_seed: int = 0,
    at_once: int = 1,
) -> dict[str, Any]:
    """Trains each row with `seeds` seeds and writes one record a run, all seeds of a row before the next row.

    A record that is there is not made again, a run that was begun goes on; so whatever ends this, the same call continues.
    A record is the run's `result.json` with `experiment`, `row`, `note`, `curves`, and what the experiment's `MEASUREMENTS`,
    `{name: function(config, workdir)}`, find in the finished run.

    Args:
      experiment: a file, or the name of a shipped one.
      rows: variants of its `get_config`; None: its `ROWS`, else the names in its `PUBLISHED`.
      seeds: their number.
      budget_minutes: the runs under way are stopped then, and saved; None: no limit.
      workdir: runs are in `<workdir>/<experiment>/<row>-s<seed>`.
      results: folder of the records `<experiment>-<row>-s<seed>.json`; None: `<workdir>/<experiment>/results`.
      overrides: `key=value` for all rows.
      note: kept in the records.
      first_seed: the seeds are `first_seed .. first_seed + seeds - 1`.
      at_once: runs side by side, each in a process of its own; 1: one after another, in this one.

    Returns:
      `{"experiment", "done", "pending", "failed", "results"}`: names of records; `failed` with reasons.

    Raises:
      ConfigError: there is no such row, or a record that is there has another configuration.
      Interrupted: a signal came; the state of the runs under way was saved.
    """
    from etils import epath

    deadline = math.inf if budget_minutes is None else time.monotonic() + 60 * budget_minutes
    module, path = load_experiment(experiment)
    listed: Sequence[str] = getattr(module, "ROWS", ()) or tuple(getattr(module, "PUBLISHED", ()))
    names = list(rows or listed)
    if not names:
        raise ConfigError(f"--rows must name variants of {path}, which has no list of rows; for example --rows=a,b")
    # All configurations first: a typo in the last row must not show after hours.
    configs = {row: validate(apply_overrides(load_config(f"{path}:{row}")[0], overrides)) for row in names}
    root = epath.Path(workdir) / path.stem
    folder = epath.Path(results) if results else root / "results"
    runs = [
        Planned(path.stem, row, note, dataclasses.replace(configs[row], seed=seed), root / f"{row}-s{seed}", folder)
        for row in names
        for seed in range(first_seed, first_seed + seeds)
    ]
    outcome = Outcome(done=[planned.name for planned in runs if _is_recorded(planned.record, planned.config)])
    waiting = due(runs, outcome, deadline)
    if at_once == 1:
        for planned in waiting:
            make_record(planned, module, outcome, deadline)
    else:
        common = [str(path), f"--workdir={workdir}", *(f"--config.{override}" for override in overrides)]
        jobs = (Job(planned.name, command(planned, common, deadline)) for planned in waiting)
        run_side_by_side(jobs, share_devices(at_once), lambda job, ended: take_in(job.name, ended, outcome))
    order = [planned.name for planned in runs]
    return {
        "experiment": path.stem,
        "done": sorted(outcome.done, key=order.index),
        "pending": sorted(outcome.pending, key=order.index),
        "failed": {name: outcome.failed[name] for name in sorted(outcome.failed, key=order.index)},
        "results": str(folder),
    }


def due(runs: Sequence[Planned], outcome: Outcome, deadline: float) -> Iterator[Planned]:
    """The runs without a record, in order, while there is time; the others become pending."""
    for planned in [one for one in runs if one.name not in outcome.done]:
        if time.monotonic() >= deadline:
            outcome.pending.append(planned.name)
            continue
        if len(runs) > 1:
            print(f"{planned.name}: {len(outcome.done)} of {len(runs)} runs are recorded", file=sys.stderr)
        yield planned


def make_record(planned: Planned, experiment: ModuleType, outcome: Outcome, deadline: float) -> None:
    """Trains in this process and writes the record."""
    from resflax.files import write_json

    about = {"experiment": planned.experiment, "row": planned.row, "note": planned.note}
    try:
        record = {**about, **train(planned.config, planned.workdir, experiment, deadline)}
    except Interrupted as stop:
        if time.monotonic() < deadline:
            raise
        print(f"resflax: {stop}", file=sys.stderr)
        outcome.pending.append(planned.name)
    except DataError as error:
        print(f"resflax: {planned.name}: {error}", file=sys.stderr)
        outcome.failed[planned.name] = str(error)
    else:
        write_json(planned.record, record)
        outcome.done.append(planned.name)


def command(planned: Planned, common: Sequence[str], deadline: float) -> list[str]:
    """This very command for one run, to be executed by a process of its own; `common` are the words that all runs share."""
    words = [f"--rows={planned.row}", f"--first_seed={planned.config.seed}", "--seeds=1", f"--results={planned.results}"]
    if planned.note is not None:
        words.append(f"--note={planned.note}")
    if math.isfinite(deadline):
        words.append(f"--budget_minutes={max(0.0, deadline - time.monotonic()) / 60}")
    return [sys.executable, "-m", "resflax.reproduce", *common, *words, "--end_with_stdin"]


def take_in(name: str, ended: Ended, outcome: Outcome) -> None:
    """Adds what the process of run `name` came to; an error that would have ended this process is raised here too."""
    stopped = {sign for number in (signal.SIGTERM, signal.SIGINT) for sign in (-number, 128 + number)}
    fatal = {error.exit_code: error for error in (ConfigError, InputError, StorageError, TemporaryError)}
    lines = ended.output.splitlines()
    if ended.code in (0, DataError.exit_code) and lines:
        summary = json.loads(lines[-1])
        outcome.done += summary["done"]
        outcome.pending += summary["pending"]
        outcome.failed |= summary["failed"]
    elif ended.code in stopped:  # by someone else's signal
        outcome.pending.append(name)
    elif ended.code in fatal:
        raise fatal[ended.code](f"{name}: {ended.last_line.removeprefix('resflax: ')}")
    else:
        how = f"was killed by signal {-ended.code}" if ended.code < 0 else f"ended with {ended.code}: {ended.last_line}"
        outcome.failed[name] = f"its process {how}; run again to go on"
        print(f"resflax: {name}: {outcome.failed[name]}", file=sys.stderr)


def train(config: Config, workdir: epath.Path, experiment: ModuleType, deadline: float) -> dict[str, Any]:
    """One run to its end: its result, its curves and the measurements of its experiment; errors as `train_and_evaluate`."""
    from resflax.train import train_and_evaluate
    from resflax.training.limits import DEFAULTS
    from resflax.training.watchdog import Watchdog

    with Watchdog(DEFAULTS):
        result = train_and_evaluate(config, str(workdir), deadline)
    measurements = getattr(experiment, "MEASUREMENTS", {})
    measured = {name: measure(config, str(workdir)) for name, measure in measurements.items()}
    return {**result, "curves": read_curves(workdir, config.data.eval_split), **measured}


def _is_recorded(path: epath.Path, config: Config) -> bool:
    """Whether the record is there; one of another configuration is an error."""
    from resflax.files import read_json

    if not path.exists():
        return False
    record = read_json(path)
    if record["config_hash"] != config_hash(config):
        changes = "; ".join(changed_keys(record["config"], to_dict(config))[:5])
        raise ConfigError(f"{path} was made with another configuration ({changes}); name other --results, or remove it")
    return True


def read_curves(workdir: epath.Path, split: str) -> dict[str, dict[str, list[float]]]:
    """`{"train": {"step", "loss", "accuracy"}, "test": ...}` of the run's `metrics.jsonl`; `test` is the evaluation split."""
    from resflax.files import Workdir, read_lines

    lines = read_lines(Workdir(workdir).metrics)
    curves = {}
    for name, prefix in (("train", "train"), ("test", split.partition("[")[0])):
        rows = [line for line in lines if f"{prefix}_loss" in line]
        curves[name] = {
            "step": [row["step"] for row in rows],
            "loss": [row[f"{prefix}_loss"] for row in rows],
            "accuracy": [row[f"{prefix}_accuracy"] for row in rows],
        }
    return curves


def verify_record(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Replays the first steps of a record on this machine, see `resflax.build.verify`.

    Args:
      path: a record, or a run's `result.json`.
      overrides: where the data are, `data.name=...` and `data.data_dir=...`; nothing else may be changed.

    Returns:
      `{"confirmed": bool, "reason": str, ...}`.

    Raises:
      ConfigError: the record is none, or something else is overridden.
    """
    from resflax.files import read_json

    record = read_json(path)
    if not isinstance(record, dict) or not {"config", "config_hash", "first_losses", "loss_digest"} <= record.keys():
        raise ConfigError(f"--verify must name a record, but {path} is none; name a result.json or a record of reproduce")
    for override in overrides:
        if override.partition("=")[0] not in ("data.name", "data.data_dir", "data.workers"):
            raise ConfigError(f"--verify takes no override but those of where the data are, got {override}; leave it out")
    config = from_dict(record["config"])
    prepare_jax(config.precision.compute == "float64")
    from resflax.build.verify import verify

    return verify(record, validate(apply_overrides(config, overrides)))


if __name__ == "__main__":
    run(main)
