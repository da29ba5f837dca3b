"""python -m resflax.report: the tables and figures of a folder of records, paper against ours; or the page of runs."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resflax.cli import Parser, prepare_jax, run
from resflax.config import load_config, to_dict
from resflax.config.files import load_experiment
from resflax.config.serial import changed_keys
from resflax.errors import ConfigError, InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from resflax.build.cost import Rate
    from resflax.results.table import Unmeasured

Record = Mapping[str, Any]
ABOUT = (
    "Generated from the records by `python -m resflax.report`. Errors are those of the last step on the test split; ± is the "
    "standard deviation over n seeds."
)
INDEX = "| file | paper or study | rows | of them run |\n|---|---|---|---|"
# What a run may do otherwise than its row without being another experiment.
_FREE = (
    "seed",
    "log_every_steps",
    "eval_every_steps",
    "checkpoint.",
    "data.data_dir",
    "data.workers",
    "data.input",
)


def main(argv: Sequence[str]) -> int:
    """The command; the last line of stdout is a JSON object. Returns the exit code."""
    parser = Parser(prog="python -m resflax.report", description=__doc__)
    parser.add_argument(
        "folders", nargs="*", default=["experiments/results"], metavar="FOLDER", help="of records, or workdirs of runs"
    )
    parser.add_argument(
        "--output", metavar="FILE.html", help="the page of runs; default: report.html in the workdir, or beside several"
    )
    arguments = parser.parse_args(argv)
    folders = arguments.folders
    if len(folders) > 1 or arguments.output or is_workdir(folders[0]):
        written = [report_runs(folders, arguments.output)]
    else:
        written = [str(path) for path in report(Path(folders[0]))]
    print(json.dumps({"written": written}))
    return 0


def is_workdir(folder: str) -> bool:
    """Whether a folder is that of a run, by its configuration."""
    from etils import epath

    from resflax.files import Workdir

    return Workdir(epath.Path(folder)).config.exists()


def report_runs(workdirs: Sequence[str], output: str | None = None) -> str:
    """Writes one HTML page of a run, or one that compares several; returns its path.

    Args:
      workdirs: of training runs, finished or not.
      output: the file; None: `report.html` in the workdir, or of several in the folder of the first.

    Raises:
      InputError: a folder is not that of a run.
      ConfigError, StorageError: a file of a run is not what it must be, or the page cannot be written.
    """
    from etils import epath

    from resflax.files import write_bytes

    workdirs = list(dict.fromkeys(workdirs))
    for workdir in workdirs:
        if not is_workdir(workdir):
            raise InputError(f"{workdir} must be the workdir of a run, but has no config.json; give a folder of records alone")
    prepare_jax()
    from resflax.build.page import comparison_page, run_page

    first = epath.Path(workdirs[0])
    if len(workdirs) == 1:
        page, folder = run_page(workdirs[0]), first
    else:
        page, folder = comparison_page(workdirs), first.parent
    path = epath.Path(output) if output else folder / "report.html"
    write_bytes(path, page)
    return str(path)


def report(folder: Path) -> list[Path]:
    """Writes `RESULTS.md` beside `folder`, and its figures into `folder/figures`; returns what was written.

    Experiments whose files lie beside the folder are listed although none of their rows was run.

    Raises `InputError` when there is no record.
    """
    from resflax.files import write_bytes
    from resflax.viz.style import save

    records = read_records(folder)
    drawings = {f"{name}-{kind}.png": figure for name in records for kind, figure in figures(name, records[name]).items()}
    written = [folder.parent / "RESULTS.md"]
    write_bytes(written[0], render(folder, records, list(drawings)).encode())
    for name, figure in drawings.items():
        save(figure, folder / "figures" / name)
        written.append(folder / "figures" / name)
    return written


def read_records(folder: Path) -> dict[str, list[Record]]:
    """`{experiment: records}`, ordered by experiment, row and seed."""
    from resflax.files import read_json

    found: dict[str, list[Record]] = {}
    for path in sorted(folder.glob("*.json")):
        record = read_json(path)
        if not isinstance(record, dict) or not {"experiment", "row", "curves", "config"} <= record.keys():
            raise InputError(f"{path} must be a record of python -m resflax.reproduce, but is none; move it elsewhere")
        found.setdefault(record["experiment"], []).append(record)
    if not found:
        raise InputError(
            f"{folder} must hold records (*.json) of python -m resflax.reproduce, or the config.json of a run, but there is "
            "neither; give another folder"
        )
    return {name: sorted(found[name], key=lambda one: (_natural(one["row"]), one["seed"])) for name in sorted(found)}


def _natural(row: str) -> list[tuple[str, int]]:
    """Sorts `plain8` before `plain20`."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", row)]


def render(folder: Path, records: Mapping[str, list[Record]], drawings: Sequence[str]) -> str:
    """The text of `RESULTS.md`."""
    from resflax.build.cost import rates
    from resflax.results.table import markdown, measured

    reached = rates(record for mine in records.values() for record in mine)
    index, sections = [INDEX], []
    for name in sorted({*records, *(path.stem for path in folder.parent.glob("*.py"))}):
        beside = folder.parent / f"{name}.py"
        file = str(beside) if beside.exists() else name
        published, rows, title = _paper(file, name)
        mine = records.get(name, [])
        if not (rows or mine):
            continue
        ours, changed = measured(mine), deviations(file, mine)
        missing = {row: _unmeasured(f"{file}:{row}", reached) for row in rows if row not in ours}
        parts = [f'<a id="{name}"></a>', f"## {title}", f"`{name}`", markdown(published, ours, changed, missing)]
        remarks = [*(f"{row} was run with {changes}." for row, changes in changed.items()), *_notes(mine)]
        parts += ["\n".join(f"- {line}" for line in remarks)] if remarks else []
        parts += [f"![{one}]({folder.name}/figures/{one})" for one in drawings if one.startswith(f"{name}-")]
        index.append(f"| [`{name}`](#{name}) | {title} | {len(ours) + len(missing)} | {len(ours)} |")
        sections.append("\n\n".join(parts))
    return "\n\n".join(["# Results", ABOUT, *_about_estimates(reached), "\n".join(index), *sections]) + "\n"


def _paper(file: str, name: str) -> tuple[dict[str, Any], list[str], str]:
    """What is published of an experiment, the rows that it lists, and the first line of its documentation."""
    try:
        module, _ = load_experiment(file)
    except ConfigError:
        return {}, [], name  # a file of the user's own, which is elsewhere
    published = getattr(module, "PUBLISHED", {})
    rows = list(dict.fromkeys([*published, *getattr(module, "ROWS", ())]))
    return published, rows, (inspect.getdoc(module) or name).splitlines()[0].rstrip(".")


def _unmeasured(row: str, reached: Sequence[Rate]) -> Unmeasured:
    """How long a row that was not run would be, and take where the records were made."""
    from resflax.build.cost import examples, operations
    from resflax.results.table import Unmeasured

    try:
        config = load_config(row)[0]
    except ConfigError:
        return Unmeasured()
    seen, needed = examples(config), operations(config)
    steps = None if seen is None else math.ceil(seen / config.data.batch_size)
    if needed is None or not reached:
        return Unmeasured(steps)
    between = (needed / reached[-1].operations_per_second, needed / reached[0].operations_per_second)
    return Unmeasured(steps, between, reached[0].hardware)


def _about_estimates(reached: Sequence[Rate]) -> list[str]:
    """What the estimated times rest on."""
    if not reached:
        return []
    ends = dict.fromkeys((reached[0], reached[-1]))
    named = " to ".join(f"{rate.operations_per_second / 1e9:.0f} · 10⁹ ({rate.run})" for rate in ends)
    return [
        "A time marked as an estimate was not measured. It is the arithmetic of a row's training, 6 operations for each image "
        "and each multiply-add of its network (12 where two gradients are taken; a teacher is not counted), over the "
        f"operations a second that training reached in records of this folder: on {reached[0].hardware} {named}, of all "
        "networks the slowest and the fastest. Nothing is claimed of other hardware than that of the records."
    ]


def deviations(file: str, records: Sequence[Record]) -> dict[str, str]:
    """`{row: what its runs did otherwise than the row says}`."""
    found = {}
    for row in dict.fromkeys(record["row"] for record in records):
        try:
            declared = to_dict(load_config(f"{file}:{row}")[0])
        except ConfigError:
            continue
        runs = [record for record in records if record["row"] == row]
        changes = {change for record in runs for change in changed_keys(declared, record["config"])}
        other = sorted(one for one in changes if not one.removeprefix("config.").startswith(_FREE))
        if other:
            found[row] = "; ".join(other)
    return found


def _notes(records: Sequence[Record]) -> list[str]:
    rows: dict[str, dict[str, None]] = {}
    for record in records:
        if record.get("note"):
            rows.setdefault(record["note"], {})[record["row"]] = None
    return [f"{', '.join(names)}: {note}." for note, names in rows.items()]


def figures(name: str, records: Sequence[Record]) -> dict[str, Figure]:
    """`{kind: figure}` of the rows `plainN` and `resnetN` among the records; those of another length, `resnetN_782`, apart."""
    from resflax.viz.paper import plot_error_by_depth, plot_error_by_step, plot_gradient_by_layer

    groups: dict[str, dict[tuple[str, int], list[Record]]] = {}
    for record in records:
        match = re.fullmatch(r"(plain|resnet)(\d+)(.*)", record["row"])
        if match:
            groups.setdefault(match[3], {}).setdefault((match[1], int(match[2])), []).append(record)
    drawn: dict[str, Figure] = {}
    for suffix, rows in groups.items():
        seeds = max(len(runs) for runs in rows.values())
        about = f"{name}, {next(iter(rows.values()))[0]['steps']:,} steps, {seeds} seed{'s' if seeds > 1 else ''}"
        drawn[f"curves{suffix}"] = plot_error_by_step([_mean_curve(*row, runs) for row, runs in rows.items()], about)
        if len({depth for _, depth in rows}) > 1:
            errors = {row: [100 - 100 * one["test_accuracy"] for one in runs] for row, runs in rows.items()}
            drawn[f"depth{suffix}"] = plot_error_by_depth(errors, about)
        measured = {f"{family}-{depth}": runs[0] for (family, depth), runs in rows.items() if "gradient_norms" in runs[0]}
        if measured:
            drawn[f"gradients{suffix}"] = plot_gradient_by_layer(_by_moment(measured), f"{name}: gradient by layer, seed 0")
    return drawn


def _by_moment(records: Mapping[str, Record]) -> dict[str, dict[str, list[float]]]:
    """`{"step 0": {network: norms}, "step 75": ...}`, without the last step, where little is left to learn."""
    steps = sorted({int(step) for record in records.values() for step in record["gradient_norms"]})[:-1]
    return {f"step {step}": {name: record["gradient_norms"][str(step)] for name, record in records.items()} for step in steps}


def _mean_curve(family: str, depth: int, runs: Sequence[Record]) -> Any:
    import numpy as np

    from resflax.viz.paper import Curve

    def mean(split: str) -> tuple[Any, Any]:
        errors = 100 - 100 * np.mean([run["curves"][split]["accuracy"] for run in runs], axis=0)
        return runs[0]["curves"][split]["step"], errors

    return Curve(family, depth, *mean("train"), *mean("test"))


if __name__ == "__main__":
    run(main)
