"""Training runs of ours as `resflax.benchmark` times them."""

from __future__ import annotations

import contextlib
import functools
import math
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
from etils import epath

from resflax.bench.saving import SAVERS, UNSAVED, OrbaxSync, Saver, saving_program
from resflax.bench.workload import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Contender, Program, Workload
from resflax.build.run import Run, build
from resflax.config import BatchNormConfig, Config, DataConfig, ModelConfig, OptimConfig, PrecisionConfig, validate
from resflax.errors import ConfigError
from resflax.training import sharding
from resflax.training.checkpoints import Checkpoints
from resflax.training.chunk import RunChunk
from resflax.training.progress import Progress
from resflax.training.state import TrainState
from resflax.tree import parameter_count


def build_run(workload: Workload, folder: Path, total_steps: int) -> Run:
    """A run of resflax on one device whose synthetic data set is written to `folder`."""
    path = workload.write(folder / "synthetic.npz")
    repeat = {} if workload.repeat is None else {"repeat": workload.repeat}
    config = Config(
        total_steps=total_steps,
        data=DataConfig(str(path), batch_size=workload.batch_size, eval_batch_size=workload.batch_size, input="resident"),
        model=ModelConfig(workload.model, {**workload.kwargs, **repeat}),
        batch_norm=BatchNormConfig(gradient=workload.gradient),
        optim=OptimConfig(learning_rate=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY),
        precision=PrecisionConfig(workload.precision, workload.compiler_options),
    )
    return build(validate(config), jax.devices()[:1])


def our_training(run: Run, fused: bool | None = None) -> Contender:
    """The chunks in which `python -m resflax.train` runs its steps; `fused`: see `Run.lower_chunk`."""
    initial = run.initial_state()

    def make() -> Program:
        state, position = initial, 0
        check_options(run.config.precision.compiler_options, run.mesh.devices.flat[0].platform)
        parameters, chunk = parameter_count(state.params), run.compile_chunk(state, fused)

        def advance(steps: int) -> float:
            nonlocal state, position
            state, loss = advance_in_chunks(chunk, state, position, position + steps)
            position += steps
            return loss

        memory = chunk.compiled.memory_analysis()
        return Program(advance, parameters, None if memory is None else memory.temp_size_in_bytes)

    differs = "gathers and normalises resident uint8 images; loss, accuracy, gradient norm and a check for NaN every step"
    return Contender("resflax", make, differs)


def advance_in_chunks(chunk: RunChunk, state: TrainState, start: int, stop: int) -> tuple[TrainState, float]:
    """The state after steps `start .. stop - 1`, ready, and the loss of the last one."""
    loss = math.nan
    while start < stop:
        end = min(stop, start + chunk.max_steps)
        state, reports = chunk(state, start, end)
        start, loss = end, float(reports.loss[-1])
    return jax.block_until_ready(state), loss


@contextlib.contextmanager
def saving_contenders(
    run: Run, folder: Path, every_steps: int, against: Sequence[str]
) -> Iterator[tuple[list[Contender], dict[str, list[float]]]]:
    """The chunks of a run with checkpoints, without, and with those of peers.

    Gives the contenders and, for those that save, the seconds of each save, see `resflax.bench.saving.saving_program`.
    """
    checkpoints = Checkpoints(epath.Path(folder / "resflax"), run.config.checkpoint.keep_last)

    class Ours:
        def save(self, step: int, state: TrainState) -> None:
            checkpoints.save(step, state, Progress().to_dict(), run.metadata())

        def wait(self) -> None:
            checkpoints.wait()

    savers: dict[str, Saver | None] = {"resflax": Ours(), UNSAVED: None}
    savers |= {name: OrbaxSync(folder / name) for name in against}
    stalls: dict[str, list[float]] = {name: [] for name, saver in savers.items() if saver is not None}
    parameters = parameter_count(run.abstract_state().params)
    chunk = functools.cache(lambda: run.compile_chunk(run.abstract_state()))  # one program for all: they differ beside it

    def contender(name: str, saver: Saver | None) -> Contender:
        def make() -> Program:
            advance = functools.partial(advance_in_chunks, chunk())
            return saving_program(run.initial_state(), advance, every_steps, saver, stalls.get(name, []), parameters)

        return Contender(name, make, SAVERS[name])

    try:
        yield [contender(name, saver) for name, saver in savers.items()], stalls
    finally:
        checkpoints.close()


def check_options(options: Sequence[str], platform: str) -> None:
    """Raises `ConfigError` for options of another platform: XLA takes them, without effect."""
    for option in options:
        owner = re.match(r"xla_(cpu|gpu|tpu)_", option)
        if owner and owner[1] != platform:
            raise ConfigError(f"an option that is timed must have an effect on the {platform}, got {option}; leave it out")


def compile_once(workload: Workload) -> dict[str, float]:
    """Seconds to trace, lower and compile one training step, and for all three; cold in a new process alone."""
    with TemporaryDirectory() as folder:
        run = build_run(workload, Path(folder), 1)
    batch = sharding.put_rows(run.train.training_batches()(0), sharding.batch_sharded(run.mesh))
    arguments = (run.abstract_state(), batch, run.resident(run.train))
    jitted = jax.jit(run.train_step(), donate_argnums=0, out_shardings=sharding.replicated(run.mesh))
    times = [time.perf_counter()]
    traced = jitted.trace(*arguments)
    times.append(time.perf_counter())
    lowered = traced.lower()
    times.append(time.perf_counter())
    lowered.compile()
    times.append(time.perf_counter())
    names = ("trace_seconds", "lower_seconds", "backend_seconds")
    parts = {name: after - before for name, before, after in zip(names, times, times[1:], strict=False)}
    return {**parts, "compile_seconds": times[-1] - times[0]}
