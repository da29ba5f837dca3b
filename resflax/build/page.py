"""The page of a run, or of several, from their workdirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from resflax.build.pictures import MISTAKES, Pictures
from resflax.build.trained import open_trained
from resflax.config import Config, from_dict, to_dict
from resflax.config.serial import changes
from resflax.errors import ResflaxError, StorageError
from resflax.files import Workdir, read_json, read_lines
from resflax.results.scores import calibration, class_scores
from resflax.version import __version__
from resflax.viz.mistakes import Mistake
from resflax.viz.page.chart import Line, chart
from resflax.viz.page.confusion import Cell, Images, cells, galleries, matrix, said
from resflax.viz.page.html import Element, document, element, notice, picture, section
from resflax.viz.page.mistakes import mistakes
from resflax.viz.page.record import comparison, configuration, header, provenance
from resflax.viz.page.scores import class_table, reliability

IN_CELL, THUMBNAIL, READ = 12, 64, 64  # images of a cell; pixels of the longer side; examples read at once
BUDGET = 3_500_000  # characters of all cells' images, so that a page of CIFAR-10 has less than 5 MB
_RECORD = {"test_accuracy", "images_scored", "split", "steps", "seed"}


class Run(NamedTuple):
    """What a workdir says without its checkpoints."""

    name: str  # of its folder
    config: Config
    rows: Sequence[Mapping[str, Any]]  # of metrics.jsonl
    record: Mapping[str, Any] | None  # None: not finished

    @property
    def split(self) -> str:
        """The name its evaluation's scalars start with."""
        return self.config.data.eval_split.partition("[")[0]

    @property
    def title(self) -> str:
        """The network and what it was trained on."""
        return f"{self.config.model.name} on {self.config.data.name}"


def read_run(workdir: str) -> Run:
    """Reads the small files of a workdir.

    Raises:
      ConfigError: it holds a configuration that this version does not know.
      StorageError: a file is missing, or not what it must be.
    """
    files = Workdir(epath.Path(workdir))
    record = read_json(files.result) if files.result.exists() else None
    if record is not None and not (isinstance(record, dict) and record.keys() >= _RECORD):
        raise StorageError(f"{files.result} must be the record of a run, but is none; restore it or remove it")
    return Run(Path(workdir).resolve().name, from_dict(read_json(files.config)), read_lines(files.metrics), record)


def run_page(workdir: str) -> bytes:
    """The page of one run, of all that its workdir has; what is missing is said there.

    Args:
      workdir: of a training run, finished or not.

    Raises:
      ConfigError, StorageError: see `read_run`.
    """
    run = read_run(workdir)
    config = to_dict(run.config)
    sections = [
        section("curves", "Curves", *(_curves({"": run}) or [notice("Nothing was logged yet.")])),
        *_scored_sections(workdir, run),
        section("configuration", "Configuration", configuration(changes(to_dict(Config()), config), config)),
    ]
    if run.record is None:
        step = max((row["step"] for row in run.rows), default=0)
        text = f"This run is not finished: it has no result.json. The last line of its metrics is that of step {step:,}."
        sections.insert(0, notice(text))
        top = header(run.title, [f"seed {run.config.seed}"])
    else:
        sections.append(section("provenance", "Provenance", provenance(run.record)))
        scored = f"{run.record['images_scored']:,} images of split {run.record['split']}"
        facts = [scored, f"after {run.record['steps']:,} steps", f"seed {run.record['seed']}"]
        top = header(run.title, facts, run.record["test_accuracy"])
    return document(run.title, top, sections, _footer(run.name))


def comparison_page(workdirs: Sequence[str]) -> bytes:
    """The page of several runs: what they differ in and their curves; raises as `read_run` does."""
    runs = [read_run(workdir) for workdir in workdirs]
    names = _distinct(workdirs)
    title = f"{len(runs)} runs"
    table = comparison(names, _differences(runs))
    drawn = _curves(dict(zip(names, runs, strict=True)))
    sections = [
        section("runs", "Runs", table),
        section("curves", "Curves", *(drawn or [notice("No run has logged anything yet.")])),
    ]
    about = list(dict.fromkeys(run.title for run in runs))
    return document(title, header(title, about), sections, _footer(*names))


def _footer(*names: str) -> str:
    return f"Made by resflax {__version__} from {', '.join(names)}."


def _distinct(workdirs: Sequence[str]) -> list[str]:
    names = [Path(workdir).resolve().name for workdir in workdirs]
    return names if len(set(names)) == len(names) else [*workdirs]


def _differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """`{column: the runs' values}`: what came out, then the keys in which not all configurations are the same."""
    results = [run.record or {} for run in runs]
    found: dict[str, list[Any]] = {
        "test accuracy": [_percent(one.get("test_accuracy")) for one in results],
        "images scored": [one.get("images_scored", "not finished") for one in results],
        "steps": [one.get("steps", "not finished") for one in results],
        "training, seconds": [f"{one['train_seconds']:.0f}" if "train_seconds" in one else "not finished" for one in results],
    }
    first = to_dict(runs[0].config)
    differing = [{key: (before, after) for key, before, after in changes(first, to_dict(run.config))} for run in runs]
    for key in sorted({key for one in differing for key in one}):
        (before,) = {repr(one[key][0]): one[key][0] for one in differing if key in one}.values()
        found[key] = [one[key][1] if key in one else before for one in differing]
    return found


def _percent(share: float | None) -> str:
    return "not finished" if share is None else f"{100 * share:.2f} %"


def _curves(runs: Mapping[str, Run]) -> list[Element]:
    """Charts of what was logged; of several runs each has a colour, and training is dashed."""
    several = len(runs) > 1

    def evaluated(scalar: str, convert: Callable[[float], float] = float) -> list[Line]:
        return [
            _line(
                run.rows, f"{part}_{scalar}", f"{name}, {said}" if several else said, index if several else number, convert
            )._replace(dashed=several and part == "train")
            for index, (name, run) in enumerate(runs.items())
            for number, (part, said) in enumerate((("train", "training"), (run.split, run.split)))
        ]

    def logged(scalar: str) -> list[Line]:
        return [_line(run.rows, scalar, name or "training", index) for index, (name, run) in enumerate(runs.items())]

    charts = [
        chart("Cross-entropy (nats)", evaluated("loss"), logarithmic=True),
        chart("Error (%)", evaluated("accuracy", lambda share: 100 - 100 * share)),
        chart("Learning rate", logged("learning_rate")),
        chart("Gradient norm", logged("gradient_norm"), logarithmic=True),
    ]
    drawn = [one for one in charts if one is not None]
    return [element("div", *drawn, class_="charts")] if drawn else []


def _line(
    rows: Sequence[Mapping[str, Any]], scalar: str, name: str, color: int, convert: Callable[[float], float] = float
) -> Line:
    there = [row for row in rows if row.get(scalar) is not None]
    return Line(name, [row["step"] for row in there], [convert(row[scalar]) for row in there], color)


def _scored_sections(workdir: str, run: Run) -> list[Element]:
    """What the newest checkpoint says of the evaluation split; the reason, where there is none or the images are gone."""
    damaged: list[str] = []
    try:
        pictures = Pictures(open_trained(workdir, None, None, damaged.append), workdir)
        found, worst = cell_images(pictures), worst_mistakes(pictures)
    except ResflaxError as error:
        reason = "; ".join([*damaged, str(error)])
        return [section("images", "Images", notice(f"There are no images and no scores of classes here: {reason}"))]
    names, labels, confusion = pictures.names, pictures.outputs.labels, pictures.confusion
    right, step = int(np.trace(confusion)), pictures.trained.step
    counted = f"{len(labels):,} images of split {pictures.trained.split} by the checkpoint of step {step:,}, {right:,} rightly."
    about = [*map(notice, damaged), element("p", counted)]
    if run.record and not (step == run.record["steps"] and np.isclose(right / len(labels), run.record["test_accuracy"])):
        of_record = f"{100 * run.record['test_accuracy']:.2f} % after step {run.record['steps']:,}"
        here = f"That is {100 * right / len(labels):.2f} %; the record says {of_record}, perhaps on another device."
        about.append(notice(here))
    shown = (
        f"{len(worst)} of {len(labels) - right:,}, the greatest loss first; beside each image Grad-CAM at {pictures.stage}: "
        "where the network sees what it takes it for, red most."
    )
    explored = element("div", matrix(confusion, names), galleries(found, names), class_="explore")
    return [
        section("confusion", "Confusion matrix", *about, explored),
        section("mistakes", "Worst mistakes", element("p", shown if worst else "There is none."), mistakes(worst)),
        section("classes", "Classes", class_table(*class_scores(confusion), names)),
        section("reliability", "Reliability", reliability(*calibration(pictures.probabilities, labels))),
    ]


def worst_mistakes(pictures: Pictures) -> list[Mistake]:
    """The misclassified examples of the greatest loss."""
    wrong = pictures.predictions != pictures.outputs.labels
    chosen = pictures.hardest[wrong[pictures.hardest]][:MISTAKES]
    return pictures.mistakes(chosen) if chosen.size else []


def cell_images(pictures: Pictures) -> dict[Cell, Images]:
    """Images of each cell, those of the greatest loss first: the first of every cell, then the second, while there is room."""
    cell_of: list[Cell] = list(zip(pictures.outputs.labels.tolist(), pictures.predictions.tolist(), strict=True))
    found: dict[Cell, list[Element]] = {cell: [] for cell in cells(pictures.confusion)}
    room = BUDGET
    for index, image in _read(pictures, in_turn(pictures.hardest, cell_of, found.keys())):
        cell = cell_of[index]
        probability = f"{100 * pictures.probabilities[index, cell[1]]:.0f} %"
        name = pictures.example_name(int(pictures.outputs.ids[index]))
        made = picture(image, f"{said(cell, pictures.names)}, {probability}", THUMBNAIL, f"{name}, {probability}")
        room -= len(made.get("src", ""))
        if room < 0:
            break
        found[cell].append(made)
    return {cell: Images(made, int(pictures.confusion[cell])) for cell, made in found.items()}


def in_turn(hardest: np.ndarray, cell_of: Sequence[Cell], wanted: Container[Cell]) -> np.ndarray:
    """int[M]: of each wanted cell the hardest example, then of each the second, up to `IN_CELL`."""
    seen: Counter[Cell] = Counter()
    ranks: list[list[int]] = [[] for _ in range(IN_CELL)]
    for index in hardest:
        cell = cell_of[index]
        if cell in wanted and seen[cell] < IN_CELL:
            ranks[seen[cell]].append(index)
            seen[cell] += 1
    return np.array([index for rank in ranks for index in rank], int)


def _read(pictures: Pictures, chosen: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Some examples and their pixels, read as they are asked for."""
    for start in range(0, len(chosen), READ):
        some = chosen[start : start + READ]
        yield from zip(some, pictures.images(pictures.outputs.ids[some])[1], strict=True)
