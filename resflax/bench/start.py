"""Seconds from the start of a process to the end of its first training step, and where they went.

Every sample is a process of its own: the command `python -m resflax.train`, or a peer, run by `resflax.bench.observe`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from resflax.bench.observe import Event
from resflax.bench.outcome import figures, ratio
from resflax.bench.timing import interleave
from resflax.bench.workload import Workload
from resflax.errors import ConfigError, TemporaryError
from resflax.pages import VARIABLES

STEPS = 2  # of a run; the second shows that nothing was left to be compiled
COLD, WARM = "resflax", "resflax-warm"  # ours, always measured
EXAMPLE, EXAMPLE_WARM = "flax-example", "flax-example-warm"
DIFFERS = {
    COLD: "an empty compilation cache; goes on to evaluate, save and draw, which is not timed",
    WARM: "a compilation cache that another process has filled; else the same",
    EXAMPLE: "imports TensorFlow; tf.data; no compilation cache, no evaluation, no checkpoint",
    EXAMPLE_WARM: "the same with a compilation cache that another process has filled",
}
# What the time until each moment of `resflax.training.moments` was spent on.
_PHASES = {
    "imported": "import_seconds",
    "read": "data_seconds",
    "built": "build_seconds",
    "lowered": "lower_seconds",
    "compiled": "compile_seconds",
    "chunk": "first_step_seconds",
}


@dataclass(frozen=True)
class Launch:
    """A process to be timed."""

    module: str
    arguments: Sequence[str]
    cache: Path | None  # of compiled programs and what else is kept between runs; None: none

    def environment(self) -> dict[str, str]:
        """Ours, but for the caches, and for the huge pages that a program asks for itself."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(
                ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE", "JAX_ENABLE_COMPILATION_CACHE", *VARIABLES)
            )
        }
        if self.cache is None:
            return {**environment, "JAX_ENABLE_COMPILATION_CACHE": "false"}
        return {
            **environment,
            "XDG_CACHE_HOME": str(self.cache / "home"),  # our functions in C
            "JAX_COMPILATION_CACHE_DIR": str(self.cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }


def measure_start(workload: Workload, images: int, against: Sequence[str], repeats: int) -> dict[str, dict[str, Any]]:
    """Starts every contender in turn; the first round fills caches and does not count.

    Args:
      workload: the network and its batches.
      images: of the training split, in one `.npz` file.
      against: `flax-example`, `flax-example-warm`.
      repeats: that count.

    Returns:
      `{name: row}`, ours first. The `ratio` of a peer is its seconds over those of `resflax`, or of `resflax-warm` for
      a `-warm` one.

    Raises:
      ConfigError: a peer's package is missing.
      TemporaryError: a process did not end well.
    """
    if against and importlib.util.find_spec("tensorflow") is None:  # not imported here: it takes seconds and memory
        raise ConfigError(
            f"--against={against[0]} needs the package tensorflow, but there is none; pip install 'resflax[prepare]'"
        )
    with TemporaryDirectory() as text:
        folder = Path(text)
        data = workload.write(folder / "synthetic.npz", batches=-(-images // workload.batch_size))
        timed = interleave(_samples(workload, data, folder, against), repeats)
    return rows(timed)


def _samples(workload: Workload, data: Path, folder: Path, against: Iterable[str]) -> dict[str, Callable[[], dict[str, float]]]:
    def ours(cache: Path) -> dict[str, float]:
        with TemporaryDirectory() as workdir:
            return start(Launch("resflax.train", (*our_arguments(workload, data), f"--workdir={workdir}/run"), cache))

    def cold() -> dict[str, float]:
        with TemporaryDirectory() as cache:
            return ours(Path(cache))

    def example(cache: Path | None) -> dict[str, float]:
        numbers = map(str, (workload.depth, workload.batch_size, STEPS))
        return start(Launch("resflax.bench.flax_example", (str(data), *numbers), cache))

    peers: dict[str, Callable[[], dict[str, float]]] = {
        EXAMPLE: lambda: example(None),
        EXAMPLE_WARM: lambda: example(folder / "example-cache"),
    }
    return {COLD: cold, WARM: lambda: ours(folder / "cache"), **{name: peers[name] for name in against}}


def our_arguments(workload: Workload, data: Path) -> tuple[str, ...]:
    """Of `python -m resflax.train`: a CIFAR recipe of a few steps on the data set."""
    fields = {
        "total_steps": STEPS,
        "log_every_steps": 1,
        "eval_every_steps": 0,
        "data.name": data,
        "data.batch_size": workload.batch_size,
        "data.augment": "pad_crop:4,flip",
        "model.name": workload.model,
        "batch_norm.group_size": None,
    }
    return tuple(f"--config.{name}={value}" for name, value in fields.items())


def start(launch: Launch) -> dict[str, float]:
    """One sample, see `phases`."""
    with TemporaryDirectory() as folder:
        events = Path(folder) / "events.json"
        command = [sys.executable, "-m", "resflax.bench.observe", str(events), launch.module, *launch.arguments]
        began = time.time()
        child = subprocess.run(command, env=launch.environment(), capture_output=True, text=True, check=False)
        if child.returncode:
            last = (child.stderr.strip() or "nothing").splitlines()[-1]
            raise TemporaryError(
                f"{launch.module} must end well, but it ended with {child.returncode} and said: {last}; see to it"
            )
        return phases(began, json.loads(events.read_text()))


def phases(began: float, events: Iterable[Event]) -> dict[str, float]:
    """Where the time until the end of the first step went.

    Args:
      began: when the process was started, the time of day in seconds.
      events: of `resflax.bench.observe`.

    Returns:
      `start_seconds`, the sum of the phases that were told; `backend_seconds`, what JAX spent in the compiler or in reading
      its results from the cache until then; `cache_misses` until the end of the process.
    """
    found: dict[str, float] = {}
    last, backend, misses = began, 0.0, 0
    for when, event, seconds in events:
        misses += event == "/jax/compilation_cache/cache_misses"
        phase = _PHASES.get(event.removeprefix("/resflax/")) if event.startswith("/resflax/") else None
        if "first_step_seconds" in found:
            continue
        if event == "/jax/core/compile/backend_compile_duration":
            backend += seconds
        if phase is not None:
            found[phase], last = when - last, when
    return {"start_seconds": last - began, **found, "backend_seconds": backend, "cache_misses": misses}


def rows(timed: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, dict[str, Any]]:
    """A row a contender, see `measure_start`."""
    found: dict[str, dict[str, Any]] = {}
    for name, samples in timed.items():
        row: dict[str, Any] = {}
        for part in samples[0]:
            values = [sample[part] for sample in samples]
            row |= {part: max(values)} if part == "cache_misses" else figures(part, values)
        if name not in (COLD, WARM):
            ours = timed[WARM if name.endswith("-warm") else COLD]
            row |= ratio([one["start_seconds"] for one in ours], [one["start_seconds"] for one in samples])
        found[name] = {**row, "differs": DIFFERS[name]}
    return found
