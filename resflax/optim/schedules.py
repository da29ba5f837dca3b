"""Learning rates as pure functions of the step, which counts from 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

Schedule = Callable[[Any], Any]  # step (int or int32 array) -> rate


def step_schedule(peak: float, milestones: tuple[int, ...], factor: float) -> Schedule:
    """`peak`, multiplied by `factor` from each milestone (in steps) on."""
    return optax.piecewise_constant_schedule(peak, dict.fromkeys(milestones, factor))


def cosine_schedule(peak: float, total_steps: int, final_factor: float = 0.0) -> Schedule:
    """Half a cosine from `peak` at step 0 to `peak * final_factor` at `total_steps` (Loshchilov and Hutter 2017, Eq. 5)."""
    return optax.cosine_decay_schedule(peak, max(1, total_steps), alpha=final_factor)


def linear_schedule(peak: float, total_steps: int, final_factor: float = 0.0) -> Schedule:
    """A straight line from `peak` at step 0 to `peak * final_factor` at `total_steps`."""
    return optax.linear_schedule(peak, peak * final_factor, max(1, total_steps))


def polynomial_schedule(peak: float, total_steps: int, power: float, final_factor: float = 0.0) -> Schedule:
    """`(1 - step / total_steps) ** power` from `peak` at step 0 to `peak * final_factor` at `total_steps`."""
    return optax.polynomial_schedule(peak, peak * final_factor, power, max(1, total_steps))


def piecewise_schedule(peak: float, points: tuple[int, ...], factors: tuple[float, ...]) -> Schedule:
    """Lines through `peak * factor` at each of the points (in steps); constant before the first and after the last."""

    def rate(step: Any) -> Any:
        return peak * jnp.interp(jnp.asarray(step, float), jnp.asarray(points, float), jnp.asarray(factors, float))

    return rate


def with_cycles(schedule: Schedule, start: int, length: int, first: float, last: float) -> Schedule:
    """`schedule` until `start`, then cycles of `length` steps (Izmailov et al. 2018, Sec. 3.1).

    Step i of a cycle, from 1, has the rate `(1 - i / length) * first + i / length * last`: constant if both are equal.
    """

    def rate(step: Any) -> Any:
        done = ((step - start) % length + 1) / length
        return jnp.where(step < start, schedule(step), (1 - done) * first + done * last)

    return rate


def with_warmup(schedule: Schedule, warmup_steps: int, factor: float = 0.0, shape: str = "linear") -> Schedule:
    """`schedule`, scaled while `step < warmup_steps`.

    The scale is `factor` throughout (`constant`, as for ResNet-110 in He et al. 2015, Sec. 4.2), or a line from
    `factor` at step 0 to 1 at `warmup_steps` (`linear`, as in Goyal et al. 2017, Sec. 2.2). The schedule underneath does
    not shift: its milestones count from the start of the run.
    """
    if not warmup_steps:
        return schedule

    def rate(step: Any) -> Any:
        done = jnp.minimum(step / warmup_steps, 1.0)
        ramp = factor + (1 - factor) * done if shape == "linear" else jnp.where(done < 1.0, factor, 1.0)
        return schedule(step) * ramp

    return rate
