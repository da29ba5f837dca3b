"""From records to the table of a paper: `paper | ours, mean ± standard deviation (n) | difference | ...`."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from resflax.results.published import Published

HEADER = (
    "| row | paper, error % | ours, error % (n) | difference | steps | training, seconds a run | hardware |\n"
    "|---|---|---|---|---|---|---|"
)

UNITS = {"days": 86_400, "hours": 3_600, "minutes": 60, "seconds": 1}


@dataclass(frozen=True)
class Measured:
    """The runs of one row."""

    errors: tuple[float, ...]  # percent, at the last step on the evaluation split, one a seed
    steps: int
    seconds: tuple[float, ...]  # of training
    hardware: str

    @property
    def mean(self) -> float:
        """Percent."""
        return statistics.mean(self.errors)

    @property
    def deviation(self) -> float | None:
        """The sample's standard deviation; None for a single run."""
        return statistics.stdev(self.errors) if len(self.errors) > 1 else None

    def __str__(self) -> str:
        spread = "" if self.deviation is None else f" ± {self.deviation:.2f}"
        return f"{self.mean:.2f}{spread} ({len(self.errors)})"


@dataclass(frozen=True)
class Unmeasured:
    """A row without a run."""

    steps: int | None = None  # None: as many as the data set has, which is not known
    seconds: tuple[float, float] | None = None  # that training would take, from and to; None: not estimated
    hardware: str = "-"


def measured(records: Iterable[Mapping[str, Any]]) -> dict[str, Measured]:
    """`{row: its runs}` of the records of one experiment, in the order of first appearance."""
    by_row: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        by_row.setdefault(record["row"], []).append(record)
    return {
        row: Measured(
            errors=tuple(100 - 100 * one["test_accuracy"] for one in runs),
            steps=runs[0]["steps"],
            seconds=tuple(one["train_seconds"] for one in runs),
            hardware=", ".join(dict.fromkeys(f"{one['device_count']} x {one['device']}" for one in runs)),
        )
        for row, runs in by_row.items()
    }


def markdown(
    published: Mapping[str, Published],
    ours: Mapping[str, Measured],
    changed: Collection[str] = (),
    missing: Mapping[str, Unmeasured] = MappingProxyType({}),
) -> str:
    """The table; published rows first, run or not, then the others. Rows `changed` are not compared with the paper."""
    rows = list(dict.fromkeys([*published, *missing, *ours]))
    notes = [f"{row}: {published[row].note}." for row in rows if row in published and published[row].note]
    lines = [HEADER, *(_line(row, published.get(row), ours.get(row) or missing.get(row), row not in changed) for row in rows)]
    return "\n".join([*lines, *(["", *_bullets(notes)] if notes else [])])


def _bullets(notes: Sequence[str]) -> list[str]:
    return [f"- {note}" for note in notes]


def _line(row: str, paper: Published | None, ours: Measured | Unmeasured | None, comparable: bool) -> str:
    printed = "-" if paper is None or paper.error is None else f"{paper.error:.2f}"
    if not isinstance(ours, Measured):
        ours = ours or Unmeasured()
        steps = "-" if ours.steps is None else f"{ours.steps:,}"
        time = "-" if ours.seconds is None else f"estimate: {duration(*ours.seconds)}"
        return f"| {row} | {printed} | not run | - | {steps} | {time} | {ours.hardware} |"
    difference = f"{ours.mean - paper.error:+.2f}" if comparable and paper is not None and paper.error is not None else "-"
    low, high = min(ours.seconds), max(ours.seconds)
    seconds = f"{low:.0f}" if round(low) == round(high) else f"{low:.0f} to {high:.0f}"
    return f"| {row} | {printed} | {ours} | {difference} | {ours.steps:,} | {seconds} | {ours.hardware} |"


def duration(low: float, high: float) -> str:
    """`40 to 90 minutes`, from seconds."""
    unit, length = next((unit, length) for unit, length in UNITS.items() if low >= 1.5 * length or length == 1)
    first, last = (
        f"{seconds / length:,.0f}" if seconds >= 10 * length else f"{seconds / length:.2g}" for seconds in (low, high)
    )
    return f"{first} {unit}" if first == last else f"{first} to {last} {unit}"
