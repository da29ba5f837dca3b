"""The loop: chunks of steps between the points where something is due.

A signal is heard after each chunk, and the state that was reached is saved. What takes long, an evaluation or the
re-estimation of statistics, is given up for a signal: then the step before it is saved, from where everything is done
again as if nothing had been.
"""

from __future__ import annotations

import copy
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

import jax

from resflax.errors import Interrupted
from resflax.training.chunk import RunChunk
from resflax.training.distributed import agree
from resflax.training.logs import Display, MetricsWriter
from resflax.training.moments import phase, reached
from resflax.training.non_finite import Recover, failures
from resflax.training.progress import Progress
from resflax.training.signals import SignalFlag
from resflax.training.state import TrainState, snapshot
from resflax.training.stragglers import Stragglers

CHUNK_SECONDS = 1.5  # how long a signal may wait
AGREE_BATCHES = 10  # of an evaluation, between two points where several processes ask each other for signals

T = TypeVar("T")


class Hook(Protocol):
    """Something that happens every `every_steps` steps (0: only at the end) and may add scalars to the step's line."""

    is_long: ClassVar[bool]  # it may raise `GivenUp`
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
    recover: Recover
    finish: Callable[[TrainState], TrainState]  # applied once, after the last step; it may raise `GivenUp`
    writer: MetricsWriter | None  # None: another process writes
    display: Display
    signals: SignalFlag


class GivenUp(Exception):
    """A signal came to a process during something long."""

    def __init__(self, signal_number: int):
        super().__init__(signal_number)
        self.signal_number = signal_number


def heed(signals: SignalFlag, batches: Iterable[T]) -> Iterator[T]:
    """Yields `batches`; raises `GivenUp` before the next one when a signal has come, on all processes alike."""
    every = 1 if jax.process_count() == 1 else AGREE_BATCHES
    for index, batch in enumerate(batches):
        reached("batch")
        if index % every == 0 and (received := agree(signals.heard or 0).signal):
            raise GivenUp(received)
        yield batch


def fit(loop: Loop, state: TrainState, step: int, progress: Progress) -> tuple[TrainState, Progress]:
    """Trains from `step` to the end.

    Raises:
      DataError: steps were not finite, and `loop.recover` ended the run; nothing is saved after the last good checkpoint.
      Interrupted: a signal came; the state of the step reached, or of the one before it, is saved.
    """
    cadences = [*(hook.every_steps for hook in loop.hooks), loop.save_every_steps]
    long = [0, *(hook.every_steps for hook in loop.hooks if hook.is_long)]  # 0: what comes at the end
    pace = 1
    saved = step
    stragglers = Stragglers()
    while step < loop.total_steps:
        left_out = step + 1 in progress.skipped_steps  # known since a roll-back
        stop = min(
            step + (1 if left_out else min(pace, loop.run_chunk.max_steps)),
            loop.total_steps,
            *(_next_due(step, every) for every in cadences if every),
            *(skipped - 1 for skipped in progress.skipped_steps if skipped > step + 1),
        )
        resort = None
        if any(_is_due(stop, every, loop.total_steps) for every in long):
            if stop - step == 1:
                resort = (step, snapshot(state), copy.deepcopy(progress))
            else:
                stop -= 1
        if not left_out:
            began = time.perf_counter()
            with phase("step", step=step):
                state, reports = loop.run_chunk(state, step, stop)
            seconds = time.perf_counter() - began
            reached("chunk", step=stop)
            progress.wall_seconds += seconds
            failed = failures(step, reports)
            if failed and (start := loop.recover(failed, progress, saved)):
                step, state, progress = start
                saved = step
                continue
            progress.add(reports, seconds)
            pace = max(1, int(CHUNK_SECONDS / max(seconds / (stop - step), 1e-6)))
            loop.display.advance(stop, (stop - step) * loop.batch_size / seconds)
        steps, step = stop - step, stop

        began = time.perf_counter()
        scalars: dict[str, float] = {}
        try:
            if step == loop.total_steps:
                state = loop.finish(state)
            for hook in loop.hooks:
                if _is_due(step, hook.every_steps, loop.total_steps):
                    scalars |= hook(step, state, progress)
        except GivenUp as given_up:
            assert resort is not None
            loop.save(*resort)
            raise Interrupted(
                given_up.signal_number,
                f"stopped by signal {given_up.signal_number} while step {step} was evaluated, the step before is saved as "
                f"checkpoint {resort[0]}; run again to go on",
            ) from None
        progress.wall_seconds += time.perf_counter() - began
        if scalars and loop.writer is not None:
            loop.writer.write(step, step / loop.steps_per_epoch, scalars)
            loop.display.scalars(step, scalars)
        received, pace, host_seconds = agree(loop.signals.received or 0, pace, loop.run_chunk.host_seconds)
        if not left_out and (slow := stragglers.note(host_seconds, seconds, steps)):
            loop.display.say(slow)
        interrupted = received if step < loop.total_steps else 0
        if interrupted or _is_due(step, loop.save_every_steps, loop.total_steps):
            loop.save(step, state, progress)
            saved = step
        if interrupted:
            cause = "the deadline" if interrupted == signal.SIGALRM else f"signal {interrupted}"
            raise Interrupted(interrupted, f"stopped by {cause} at step {step}, saved as checkpoint {step}; run again to go on")
    return state, progress


def _next_due(step: int, every: int) -> int:
    return (step // every + 1) * every


def _is_due(step: int, every: int, total: int) -> bool:
    return step == total or (every > 0 and step % every == 0)
