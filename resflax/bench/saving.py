"""What saving every so many steps costs a training run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from resflax.bench.outcome import figures
from resflax.bench.timing import Timing, ratios
from resflax.bench.workload import Program

UNSAVED, ORBAX = "unsaved", "orbax-sync"
SAVERS = {
    "resflax": "copies the state on the device; a thread writes, hashes and commits it beside the steps; keeps three",
    UNSAVED: "saves nothing",
    ORBAX: "returns when Orbax has written all; neither hashes nor progress; keeps one",
}
# `(state, start, stop) -> (state, loss of the last step)` after steps start .. stop - 1; overwrites the state it was given.
Advance = Callable[[Any, int, int], tuple[Any, float]]


class Saver(Protocol):
    """Something that keeps a state."""

    def save(self, step: int, state: Any) -> None:
        """Returns when the caller may go on."""

    def wait(self) -> None:
        """Returns when the last state is kept."""


class OrbaxSync:
    """A save that returns when all is on disk, the older one removed: as `flax.training.checkpoints.save_checkpoint` does."""

    def __init__(self, folder: Path):
        import orbax.checkpoint as ocp

        self._folder, self._last = folder, folder / "none"
        self._args, self._orbax = ocp.args.StandardSave, ocp.Checkpointer(ocp.StandardCheckpointHandler())

    def save(self, step: int, state: Any) -> None:
        """See `Saver`."""
        import shutil

        path = self._folder.absolute() / str(step)
        self._orbax.save(path, args=self._args(state))
        shutil.rmtree(self._last, ignore_errors=True)
        self._last = path

    def wait(self) -> None:
        """Nothing is under way."""


def saving_program(
    initial: Any, advance: Advance, every_steps: int, saver: Saver | None, stalls: list[float], parameters: int = 0
) -> Program:
    """Steps in stretches of `every_steps`, the state saved before each; without a `saver` the same stretches.

    A save starts a stretch so that what it leaves to other threads runs beside steps of its own contender; the last one
    is waited for.

    Args:
      initial: the state of step 0.
      advance: see `Advance`; waits for the device.
      every_steps: the length of a stretch.
      saver: keeps the states.
      stalls: takes the seconds that the loop stood still, one number a save.
      parameters: of the network.
    """
    state, position = initial, 0

    def run(steps: int) -> float:
        nonlocal state, position
        end, loss = position + steps, float("nan")
        while position < end:
            stop = min(end, position + every_steps)
            if saver is not None:
                began = time.perf_counter()
                saver.save(position, state)
                stalls.append(time.perf_counter() - began)
            state, loss = advance(state, position, stop)
            position = stop
        if saver is not None:
            began = time.perf_counter()
            saver.wait()
            stalls[-1] += time.perf_counter() - began
        return loss

    return Program(run, parameters)


def costs(
    timings: Mapping[str, Timing], stalls: Mapping[str, Sequence[float]], steps: int, every_steps: int
) -> dict[str, dict[str, float]]:
    """What each contender that saves adds to its row.

    Args:
      timings: of all contenders, `unsaved` among them.
      stalls: of those that save, see `saving_program`, whatever came before the repeats included.
      steps: of a repeat, a multiple of `every_steps`.
      every_steps: between saves.

    Returns:
      `stall_seconds` of a save, from calling it until the loop goes on; `stall_share`, their mean over the time of the steps
      between two saves; `checkpoint_share`, by how much a step is longer than without saves, taken within each repeat, which
      has also what the threads take from the steps.
    """
    plain = timings[UNSAVED].step_seconds
    found = {}
    for name, seconds in stalls.items():
        counted = seconds[-len(plain) * (steps // every_steps) :]
        share = ratios(plain, timings[name].step_seconds)
        found[name] = {
            **figures("stall_seconds", counted),
            "stall_share": statistics.fmean(counted) / (every_steps * statistics.median(plain)),
            "checkpoint_share": share.median - 1,
            "checkpoint_share_lowest": share.lowest - 1,
            "checkpoint_share_highest": share.highest - 1,
        }
    return found
