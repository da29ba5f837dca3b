"""How contenders are measured: in turn, warm-up apart, medians with their spread. Knows neither JAX nor a device."""

from __future__ import annotations

import contextlib
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

T = TypeVar("T")
Clock = Callable[[], float]  # seconds


class NotAvailable(Exception):
    """Raised by a contender that cannot run here, and without which the others are measured; says why."""


class Timed(Protocol):
    """Something that can be timed."""

    @property
    def name(self) -> str:
        """Unique among those it is measured with."""

    def prepare(self) -> None:
        """Compiles everything and takes a first step; may raise `NotAvailable`."""

    def run(self, steps: int) -> object:
        """Takes `steps` steps and returns when the device is done with them."""


@dataclass(frozen=True)
class Spread:
    """A sample of repeats."""

    median: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Timing:
    """What was measured of a contender."""

    compile_seconds: float  # of `prepare`
    step_seconds: tuple[float, ...]  # one a repeat


def spread(values: Sequence[float]) -> Spread:
    """The median, lowest and highest of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """`theirs / ours` of seconds, taken within each repeat: how many times as fast as they we are.

    The two of a repeat were measured one after the other, so a machine that slows down for a while slows down both.
    """
    return spread([other / own for own, other in zip(ours, theirs, strict=True)])


def seconds_of(function: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    """How long a call took."""
    began = clock()
    function()
    return clock() - began


def interleave(samples: Mapping[str, Callable[[], T]], repeats: int, warm_up: int = 1) -> dict[str, tuple[T, ...]]:
    """Takes samples in turn, A B A B ..., and returns `repeats` of each; `warm_up` rounds before them are dropped."""
    rounds = [{name: sample() for name, sample in samples.items()} for _ in range(warm_up + repeats)]
    return {name: tuple(one[name] for one in rounds[warm_up:]) for name in samples}


def measure(contenders: Sequence[Timed], steps: int, repeats: int, clock: Clock = time.perf_counter) -> dict[str, Timing]:
    """Times contenders in turn.

    Args:
      contenders: with different names.
      steps: of a repeat.
      repeats: that count; one round before them does not.
      clock: returns seconds.

    Returns:
      `{name: timing}` in the order given, without those that are not available.
    """
    prepared: dict[str, float] = {}
    samples: dict[str, Callable[[], float]] = {}
    for one in contenders:
        with contextlib.suppress(NotAvailable):
            prepared[one.name] = seconds_of(one.prepare, clock)
            samples[one.name] = functools.partial(seconds_of, functools.partial(one.run, steps), clock)
    seconds = interleave(samples, repeats)
    return {name: Timing(prepared[name], tuple(one / steps for one in seconds[name])) for name in prepared}
