"""The loop: chunks of steps between the points where something is due."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from resflax.errors import DataError, Interrupted
from resflax.training.chunk import RunChunk
from resflax.training.distributed import agree
from resflax.training.logs import Display, MetricsWriter
from resflax.training.moments import reached
from resflax.training.progress import Progress
from resflax.training.signals import SignalFlag
from resflax.training.state import TrainState

CHUNK_SECONDS = 1.5  # how long a signal may wait


class Hook(Protocol):
    """Something that happens every `every_steps` steps (0: only at the end) and may add scalars to the step's line."""

    every_steps: int

    def __call__(self, step: int, state: TrainState, progress: Progress) -> dict[str, float]: ...


@dataclass
class Loop:
    """What `fit` needs beside the state."""

    total_steps: int
    steps_per_epoch: float
    batch_size: int
    run_chunk: RunChunk
    hooks: Sequence[Hook]
    save: Callable[[int, TrainState, Progress], None]
    save_every_steps: int
    finish: Callable[[TrainState], TrainState]  # applied once, after the last step
    writer: MetricsWriter | None  # None: another process writes
    display: Display
    signals: SignalFlag


def fit(loop: Loop, state: TrainState, step: int, progress: Progress) -> TrainState:
    """Trains from `step` to the end.

    Raises:
      DataError: a loss, gradient or statistic is not finite; nothing is saved after the last good checkpoint.
      Interrupted: a signal came; the state of the step reached is saved.
    """
    cadences = [*(hook.every_steps for hook in loop.hooks), loop.save_every_steps]
    pace = 1
    saved = step
    while step < loop.total_steps:
        stop = min(
            step + min(pace, loop.run_chunk.max_steps),
            loop.total_steps,
            *(_next_due(step, every) for every in cadences if every),
        )
        began = time.perf_counter()
        state, reports = loop.run_chunk(state, step, stop)
        seconds = time.perf_counter() - began
        reached("chunk")
        if not reports.finite[-1]:
            raise DataError(
                f"the loss or gradient of step {step + len(reports.finite)} is not finite; "
                "lower config.optim.learning_rate, clip with config.optim.clip_norm, or check the data"
            )
        progress.add(reports, seconds)
        progress.wall_seconds += seconds
        pace = max(1, int(CHUNK_SECONDS / max(seconds / (stop - step), 1e-6)))
        loop.display.advance(stop, (stop - step) * loop.batch_size / seconds)
        step = stop

        if step == loop.total_steps:
            state = loop.finish(state)
        began = time.perf_counter()
        scalars: dict[str, float] = {}
        for hook in loop.hooks:
            if _is_due(step, hook.every_steps, loop.total_steps):
                scalars |= hook(step, state, progress)
        progress.wall_seconds += time.perf_counter() - began
        if scalars and loop.writer is not None:
            loop.writer.write(step, step / loop.steps_per_epoch, scalars)
            loop.display.scalars(step, scalars)
        received, pace = agree(loop.signals.received or 0, pace)
        interrupted = received if step < loop.total_steps else 0
        if interrupted or _is_due(step, loop.save_every_steps, loop.total_steps):
            loop.save(step, state, progress)
            saved = step
        if interrupted:
            cause = "the deadline" if interrupted == signal.SIGALRM else f"signal {interrupted}"
            raise Interrupted(
                interrupted, f"stopped by {cause} at step {step}, saved as checkpoint {saved}; run again to go on"
            )
    return state


def _next_due(step: int, every: int) -> int:
    return (step // every + 1) * every


def _is_due(step: int, every: int, total: int) -> bool:
    return step == total or (every > 0 and step % every == 0)
