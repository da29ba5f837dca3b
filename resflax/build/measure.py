"""Training runs of ours as `resflax.benchmark` times them."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import jax

from resflax.bench.workload import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Contender, Program, Workload
from resflax.build.run import Run, build
from resflax.config import Config, DataConfig, ModelConfig, OptimConfig, PrecisionConfig, validate
from resflax.training import sharding
from resflax.tree import parameter_count


def build_run(workload: Workload, folder: Path, total_steps: int) -> Run:
    """A run of resflax on one device whose synthetic data set is written to `folder`."""
    path = workload.write(folder / "synthetic.npz")
    config = Config(
        total_steps=total_steps,
        data=DataConfig(str(path), batch_size=workload.batch_size, eval_batch_size=workload.batch_size, input="resident"),
        model=ModelConfig(workload.model, {} if workload.repeat is None else {"repeat": workload.repeat}),
        optim=OptimConfig(learning_rate=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY),
        precision=PrecisionConfig(workload.precision),
    )
    return build(validate(config), jax.devices()[:1])


def our_training(run: Run, name: str = "resflax") -> Contender:
    """The chunks in which `python -m resflax.train` runs its steps."""
    initial = run.initial_state()

    def make() -> Program:
        state, position = initial, 0
        parameters, chunk = parameter_count(state.params), run.compile_chunk(state)

        def advance(steps: int) -> float:
            nonlocal state, position
            end = position + steps
            while position < end:
                stop = min(end, position + chunk.max_steps)
                state, reports = chunk(state, position, stop)
                position = stop
            jax.block_until_ready(state)
            return float(reports.loss[-1])

        memory = chunk.compiled.memory_analysis()
        return Program(advance, parameters, None if memory is None else memory.temp_size_in_bytes)

    differs = "gathers and normalises resident uint8 images; loss, accuracy, gradient norm and a check for NaN every step"
    return Contender(name, make, differs)


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
