"""Runs steps `start .. stop - 1` and returns what each reported: the unit in which the loop works.

On accelerators a chunk is one dispatch: a loop on the device with dynamic bounds, one compilation for any length. On CPU
it is one dispatch a step, since XLA:CPU runs gradients of convolutions in loops slowly (see `resflax.nn.conv`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from resflax.errors import ResflaxError
from resflax.training.moments import phase
from resflax.training.state import TrainState
from resflax.training.steps import StepMetrics, TrainStep
from resflax.types import Array, Batch

HostBatch = Callable[[int], dict[str, np.ndarray]]  # step -> global batch


class RunChunk(Protocol):
    """`(state, start, stop) -> (state, metrics of each step)`; a step that is not finite changes nothing, the next follows."""

    host_seconds: float  # that the last call spent to make batches on the host

    @property
    def max_steps(self) -> int:
        """The most that one call may run."""

    @property
    def compiled(self) -> jax.stages.Compiled:
        """The program."""

    def __call__(self, state: TrainState, start: int, stop: int) -> tuple[TrainState, StepMetrics]: ...


@dataclass
class StepwiseChunk:
    """One dispatch a step; nothing waits for the device until the chunk ends.

    While the device works on a step the next batch is made and put beside it, also that of the next chunk.
    """

    compiled: jax.stages.Compiled  # a `TrainStep`
    host_batch: HostBatch
    resident: Batch
    put: Callable[[Any], Any]
    total_steps: int
    max_steps: int = 1000
    host_seconds: float = 0.0
    _ready: dict[int, Any] = field(default_factory=dict)

    def __call__(self, state: TrainState, start: int, stop: int) -> tuple[TrainState, StepMetrics]:
        """See `RunChunk`."""
        self.host_seconds = 0.0
        reports = []
        for step in range(start, stop):
            batch = self._ready.pop(step, None)
            state, report = self.compiled(state, self._make(step) if batch is None else batch, self.resident)
            reports.append(report)
        self._ready.clear()
        if stop < self.total_steps:
            with contextlib.suppress(ResflaxError):  # it is met again, and reported, where the batch is due
                self._ready[stop] = self._make(stop)
        return state, jax.tree.map(lambda *xs: np.stack(xs), *jax.device_get(reports))

    def _make(self, step: int) -> Any:
        began = time.perf_counter()
        with phase("read", step=step):
            batch = self.host_batch(step)
        self.host_seconds += time.perf_counter() - began
        return self.put(batch)


@dataclass
class FusedChunk:
    """One dispatch a chunk."""

    compiled: jax.stages.Compiled  # `fuse(...)`
    host_batch: HostBatch
    resident: Batch
    put: Callable[[Any], Any]  # of batches [max_steps, B], split along the second axis
    max_steps: int
    host_seconds: float = 0.0

    def __call__(self, state: TrainState, start: int, stop: int) -> tuple[TrainState, StepMetrics]:
        """See `RunChunk`."""
        began = time.perf_counter()
        with phase("read", step=start):
            batches = stack_batches(self.host_batch, start, stop, self.max_steps)
        self.host_seconds = time.perf_counter() - began
        state, reports = self.compiled(state, self.put(batches), jnp.int32(stop - start), self.resident)
        return state, jax.tree.map(lambda x: np.asarray(x)[: stop - start], reports)


@dataclass
class PhasedChunk:
    """Programs that follow one another, each for the steps up to its stop."""

    phases: Sequence[tuple[int, RunChunk]]  # stop, what runs the steps before it
    host_seconds: float = 0.0

    @property
    def max_steps(self) -> int:
        """Of any of them."""
        return min(one.max_steps for _, one in self.phases)

    @property
    def compiled(self) -> jax.stages.Compiled:
        """The last one's."""
        return self.phases[-1][1].compiled

    def __call__(self, state: TrainState, start: int, stop: int) -> tuple[TrainState, StepMetrics]:
        """See `RunChunk`."""
        self.host_seconds, reports = 0.0, []
        for end, one in self.phases:
            if start < min(end, stop):
                state, report = one(state, start, min(end, stop))
                reports.append(report)
                self.host_seconds += one.host_seconds
                start = min(end, stop)
        return state, jax.tree.map(lambda *xs: np.concatenate(xs), *reports)


def stack_batches(host_batch: HostBatch, start: int, stop: int, length: int) -> dict[str, np.ndarray]:
    """Batches `start .. stop - 1` stacked to [length, B]; rows past the end are zeros and never used."""
    batches = [host_batch(step) for step in range(start, stop)]
    stacked = {name: np.zeros((length, *value.shape), value.dtype) for name, value in batches[0].items()}
    for index, batch in enumerate(batches):
        for name, value in batch.items():
            stacked[name][index] = value
    return stacked


def fuse(train_step: TrainStep, length: int) -> Callable[[TrainState, Batch, Array, Batch], Any]:
    """`loop(state, batches [length, B], count, resident) -> (state, metrics [length])`: `count` steps on the device."""

    def loop(state: TrainState, batches: Batch, count: Array, resident: Batch) -> tuple[TrainState, StepMetrics]:
        def at(index: Array) -> Batch:
            return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), batches)

        def body(index: Array, carry: tuple[TrainState, StepMetrics]) -> tuple[TrainState, StepMetrics]:
            state, reports = carry
            state, report = train_step(state, at(index), resident)
            return state, jax.tree.map(lambda all_, one: all_.at[index].set(one), reports, report)

        shapes = jax.eval_shape(lambda s, r: train_step(s, at(jnp.int32(0)), r)[1], state, resident)
        reports = jax.tree.map(lambda leaf: jnp.zeros((length, *leaf.shape), leaf.dtype), shapes)
        return jax.lax.fori_loop(0, count, body, (state, reports))

    return loop
