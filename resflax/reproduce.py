"""python -m resflax.reproduce: runs the rows of a paper with several seeds, or verifies a record."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from resflax.cli import Parser, prepare_jax, run, split_overrides
from resflax.config import Config, apply_overrides, config_hash, from_dict, load_config, to_dict, validate
from resflax.config.files import load_experiment
from resflax.config.serial import changed_keys
from resflax.errors import ConfigError, DataError, Interrupted

if TYPE_CHECKING:
    from etils import epath


def main(argv: Sequence[str]) -> int:
    """The command; the last line of stdout is a JSON object. Returns the exit code."""
    others, overrides = split_overrides(argv)
    parser = Parser(prog="python -m resflax.reproduce", description=__doc__, epilog="Any field: --config.a.b=VALUE")
    parser.add_argument("experiment", nargs="?", metavar="FILE.py")
    parser.add_argument("--rows", metavar="A,B", help="default: all that the experiment lists")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="0 to N - 1 (default: 5)")
    parser.add_argument("--budget_minutes", type=float, metavar="M", help="stop then, with checkpoints; run again to go on")
    parser.add_argument("--workdir", default="runs", metavar="DIR", help="of all runs (default: runs)")
    parser.add_argument("--results", metavar="DIR", help="of the records (default: WORKDIR/FILE/results)")
    parser.add_argument("--note", metavar="TEXT", help="kept in the records and shown in the table")
    parser.add_argument("--verify", metavar="RECORD", help="replay a record's first steps instead")
    arguments = parser.parse_args(others)
    if (arguments.experiment is None) == (arguments.verify is None):
        parser.error("name either an experiment's FILE.py or --verify=RECORD")
    if arguments.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {arguments.seeds}")
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
    )
    print(json.dumps(summary))
    return DataError.exit_code if summary["failed"] else 0


def reproduce(
    experiment: str,
    rows: Sequence[str] | None = None,
    seeds: int = 5,
    budget_minutes: float | None = None,
    workdir: str = "runs",
    results: str | None = None,
    overrides: Sequence[str] = (),
    note: str | None = None,
) -> dict[str, Any]:
    """Trains each row with seeds 0 .. seeds - 1 and writes one record a run, all seeds of a row before the next row.

    A record that is there is not made again, a run that was begun goes on; so whatever ends this, the same call continues.
    A record is the run's `result.json` with `experiment`, `row`, `note`, `curves`, and what the experiment's `MEASUREMENTS`,
    `{name: function(config, workdir)}`, find in the finished run.

    Args:
      experiment: a file, or the name of a shipped one.
      rows: variants of its `get_config`; None: its `ROWS`, else the names in its `PUBLISHED`.
      seeds: their number.
      budget_minutes: the run under way is stopped then, and saved; None: no limit.
      workdir: runs are in `<workdir>/<experiment>/<row>-s<seed>`.
      results: folder of the records `<experiment>-<row>-s<seed>.json`; None: `<workdir>/<experiment>/results`.
      overrides: `key=value` for all rows.
      note: kept in the records.

    Returns:
      `{"experiment", "done", "pending", "failed", "results"}`: names of records; `failed` with reasons.

    Raises:
      ConfigError: there is no such row, or a record that is there has another configuration.
      Interrupted: a signal came; the state of the run under way was saved.
    """
    from etils import epath

    from resflax.files import write_json

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
    done: list[str] = []
    pending: list[str] = []
    failed: dict[str, str] = {}
    for row, seed in [(row, seed) for row in names for seed in range(seeds)]:
        name = f"{path.stem}-{row}-s{seed}"
        config, place = dataclasses.replace(configs[row], seed=seed), root / f"{row}-s{seed}"
        if not _is_recorded(folder / f"{name}.json", config):
            if time.monotonic() >= deadline:
                pending.append(name)
                continue
            print(f"{name}: {len(done)} of {len(names) * seeds} runs are recorded", file=sys.stderr)
            try:
                record = {"experiment": path.stem, "row": row, "note": note, **train(config, place, module, deadline)}
            except Interrupted as stop:
                if time.monotonic() < deadline:
                    raise
                print(f"resflax: {stop}", file=sys.stderr)
                pending.append(name)
                continue
            except DataError as error:
                print(f"resflax: {name}: {error}", file=sys.stderr)
                failed[name] = str(error)
                continue
            write_json(folder / f"{name}.json", record)
        done.append(name)
    return {"experiment": path.stem, "done": done, "pending": pending, "failed": failed, "results": str(folder)}


def train(config: Config, workdir: epath.Path, experiment: ModuleType, deadline: float) -> dict[str, Any]:
    """One run to its end: its result, its curves and the measurements of its experiment; errors as `train_and_evaluate`."""
    from resflax.train import train_and_evaluate

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
