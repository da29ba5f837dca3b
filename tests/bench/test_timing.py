"""Measuring, on a clock that only the contenders move."""

import math
import statistics

import pytest

from resflax.bench.outcome import figures, outcome
from resflax.bench.timing import Spread, Timing, interleave, measure, ratios, seconds_of, spread
from resflax.bench.workload import Contender, Program
from resflax.errors import DataError


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Fake:
    """Takes the given seconds, one number a call."""

    def __init__(self, clock, log, name, preparation, *runs):
        self.clock, self.log, self.name = clock, log, name
        self.preparation, self.runs = preparation, iter(runs)

    def prepare(self):
        self.log.append((self.name, "prepare"))
        self.clock.now += self.preparation

    def run(self, steps):
        self.log.append((self.name, steps))
        self.clock.now += next(self.runs)


@pytest.fixture
def measured():
    """Two contenders, three repeats of ten steps, and the order in which they ran."""
    clock, log = Clock(), []
    ours = Fake(clock, log, "ours", 7.0, 1000.0, 10.0, 40.0, 20.0)
    theirs = Fake(clock, log, "theirs", 3.0, 1.0, 30.0, 40.0, 50.0)
    return measure([ours, theirs], steps=10, repeats=3, clock=clock), log


def test_contenders_are_prepared_first_and_then_run_in_turn(measured):
    _, log = measured
    assert log == [("ours", "prepare"), ("theirs", "prepare"), *[("ours", 10), ("theirs", 10)] * 4]


def test_warm_up_is_dropped_and_preparation_timed_apart(measured):
    timings, _ = measured
    assert timings == {"ours": Timing(7.0, (1.0, 4.0, 2.0)), "theirs": Timing(3.0, (3.0, 4.0, 5.0))}


def test_ratios_are_taken_within_repeats():
    # 3/1, 4/4, 5/2; the ratio of the medians would be 2.
    assert ratios((1.0, 4.0, 2.0), (3.0, 4.0, 5.0)) == Spread(2.5, 1.0, 3.0)


def test_a_slow_spell_of_the_machine_leaves_ratios_alone():
    assert ratios((1.0, 10.0, 1.0), (2.0, 20.0, 2.0)) == Spread(2.0, 2.0, 2.0)


def test_ratios_need_as_many_repeats_of_both():
    with pytest.raises(ValueError, match="shorter"):
        ratios((1.0, 2.0), (1.0,))


@pytest.mark.parametrize("values", [(3.0,), (1.0, 2.0), (5.0, 1.0, 3.0), (4.0, 1.0, 2.0, 9.0)])
def test_spread(values):
    assert spread(values) == Spread(statistics.median(values), min(values), max(values))


def test_seconds_of_reads_the_clock_around_the_call():
    clock = Clock()

    def function():
        clock.now += 2.5

    assert seconds_of(function, clock) == 2.5


def test_interleaved_samples_may_be_anything():
    counter = iter(range(100))
    samples = {"a": lambda: f"a{next(counter)}", "b": lambda: f"b{next(counter)}"}
    assert interleave(samples, 2, warm_up=0) == {"a": ("a0", "a2"), "b": ("b1", "b3")}
    assert interleave(samples, 1, warm_up=2) == {"a": ("a8",), "b": ("b9",)}


def test_what_is_reported(measured):
    contenders = [Contender(name, lambda: Program(lambda steps: 0.5, 12), f"{name} differs") for name in ("ours", "theirs")]
    for one in contenders:
        one.prepare()
    rows = outcome(contenders, measured[0], batch_size=64)
    shared = {"parameters": 12, "last_value": 0.5}
    assert rows["ours"] == {
        "images_per_second": 32.0,
        "step_seconds": 2.0,
        "step_seconds_lowest": 1.0,
        "step_seconds_highest": 4.0,
        "compile_seconds": 7.0,
        **shared,
        "differs": "ours differs",
    }
    assert rows["theirs"] == {
        "images_per_second": 16.0,
        "step_seconds": 4.0,
        "step_seconds_lowest": 3.0,
        "step_seconds_highest": 5.0,
        "compile_seconds": 3.0,
        **shared,
        "differs": "theirs differs",
        "ratio": 2.5,
        "ratio_lowest": 1.0,
        "ratio_highest": 3.0,
    }


def test_figures_are_named():
    assert figures("lower_seconds", (3.0, 1.0, 2.0)) == {
        "lower_seconds": 2.0,
        "lower_seconds_lowest": 1.0,
        "lower_seconds_highest": 3.0,
    }


def test_preparing_builds_and_takes_a_step():
    taken = []
    contender = Contender("c", lambda: Program(lambda steps: taken.append(steps) or 1.0))
    contender.prepare()
    contender.run(5)
    assert taken == [1, 5]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_result_that_is_not_finite_is_no_result(value):
    contender = Contender("peer", lambda: Program(lambda steps: value))
    with pytest.raises(DataError, match=f"the result of peer must be finite, got {value}; "):
        contender.prepare()
