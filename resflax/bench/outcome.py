"""From timings to what a benchmark reports, as JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from resflax.bench.timing import Timing, ratios, spread
from resflax.bench.workload import Contender


def figures(name: str, values: Sequence[float]) -> dict[str, float]:
    """`{name: the median, name_lowest, name_highest}`."""
    found = spread(values)
    return {name: found.median, f"{name}_lowest": found.lowest, f"{name}_highest": found.highest}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """`ratios` of seconds, as `figures` has them."""
    found = ratios(ours, theirs)
    return {"ratio": found.median, "ratio_lowest": found.lowest, "ratio_highest": found.highest}


def outcome(contenders: Sequence[Contender], timings: Mapping[str, Timing], batch_size: int) -> dict[str, dict[str, Any]]:
    """A row a contender.

    The first contender is ours. The others' `ratio` is our images per second over theirs, taken within each repeat: above 1
    we are the faster. One that could not run has its reason under `not_available` and nothing that was measured.
    """
    ours = timings[contenders[0].name].step_seconds
    rows: dict[str, dict[str, Any]] = {}
    for one in contenders:
        if one.name not in timings:
            rows[one.name] = {"not_available": one.not_available, "differs": one.differs}
            continue
        timing = timings[one.name]
        rows[one.name] = {
            "images_per_second": batch_size / spread(timing.step_seconds).median,
            **figures("step_seconds", timing.step_seconds),
            "compile_seconds": timing.compile_seconds,
            "parameters": one.program.parameters,
            **({} if one.program.temporary_bytes is None else {"temporary_bytes": one.program.temporary_bytes}),
            "last_value": one.last_value,
            "differs": one.differs,
        }
        if one is not contenders[0]:
            rows[one.name] |= ratio(ours, timing.step_seconds)
    return rows
