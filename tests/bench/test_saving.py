"""What saving costs, on a clockwork of which everything is known, and once on a small network."""

import json

import pytest

from resflax.bench import saving
from resflax.bench.saving import ORBAX, UNSAVED, OrbaxSync, costs, saving_program
from resflax.bench.timing import Timing
from resflax.bench.workload import Workload
from resflax.benchmark import benchmark, main
from resflax.errors import ConfigError


class Slow:
    """A saver that takes 2 seconds a save and 1 to finish."""

    def __init__(self, clock):
        self.clock, self.saved = clock, []

    def save(self, step, state):
        self.clock[0] += 2
        self.saved.append((step, state))

    def wait(self):
        self.clock[0] += 1


def test_saves_before_each_stretch_and_waits_for_the_last(monkeypatch):
    clock, ran, stalls = [0.0], [], []
    monkeypatch.setattr(saving.time, "perf_counter", lambda: clock[0])

    def advance(state, start, stop):
        clock[0] += 100 * (stop - start)
        ran.append((start, stop))
        return state + stop - start, 0.5

    saver = Slow(clock)
    program = saving_program(0, advance, 3, saver, stalls, parameters=7)
    assert (program.advance(1), program.parameters) == (0.5, 7)
    program.advance(6)
    assert ran == [(0, 1), (1, 4), (4, 7)]
    assert saver.saved == [(0, 0), (1, 1), (4, 4)]
    assert stalls == [3, 2, 3]
    plain = []
    saving_program(0, advance, 3, None, plain).advance(6)
    assert ran[3:] == [(0, 3), (3, 6)]
    assert plain == []


def test_costs():
    timings = {
        "resflax": Timing(0.0, (1.1, 1.5)),
        UNSAVED: Timing(0.0, (1.0, 1.2)),
        ORBAX: Timing(0.0, (2.0, 1.8)),
    }
    stalls = {"resflax": [99.0, 99.0, 0.1, 0.2, 0.3, 0.4], ORBAX: [5.0] * 6}
    found = costs(timings, stalls, steps=20, every_steps=10)
    assert found.keys() == {"resflax", ORBAX}
    ours = found["resflax"]
    assert (ours["stall_seconds_lowest"], ours["stall_seconds_highest"]) == (0.1, 0.4)
    assert ours["stall_share"] == pytest.approx(0.25 / (10 * 1.1))
    assert ours["checkpoint_share"] == pytest.approx((0.1 + 0.25) / 2)
    assert (ours["checkpoint_share_lowest"], ours["checkpoint_share_highest"]) == (pytest.approx(0.1), pytest.approx(0.25))
    assert found[ORBAX]["checkpoint_share"] == pytest.approx((1.0 + 0.5) / 2)


def test_orbax_keeps_the_last_state(tmp_path):
    import jax.numpy as jnp
    import numpy as np
    import orbax.checkpoint as ocp

    saver = OrbaxSync(tmp_path)
    for step in (3, 7):
        saver.save(step, {"x": jnp.full(4, float(step))})
    saver.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["7"]
    restored = ocp.StandardCheckpointer().restore(tmp_path / "7", {"x": np.zeros(4, np.float32)})
    np.testing.assert_array_equal(restored["x"], np.full(4, 7, np.float32))


def test_the_same_steps_with_and_without_saves():
    result = benchmark("checkpoint", Workload("cifar_resnet8", 4), [ORBAX], steps=2, repeats=2, every_steps=1)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    (measurement,) = result["measurements"]
    ours, plain, orbax = measurement["contenders"].values()
    assert list(measurement["contenders"]) == ["resflax", UNSAVED, ORBAX]
    assert ours["last_value"] == plain["last_value"] == orbax["last_value"]
    assert (result["every_steps"], result["stall_seconds"]) == (1, ours["stall_seconds"])
    assert min(ours["stall_seconds_lowest"], orbax["stall_seconds_lowest"]) > 0
    assert "stall_seconds" not in plain


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("checkpoint --steps=150", "--steps must be a multiple of --every_steps, got 150 and 100; "),
        ("checkpoint --every_steps=0", "argument --every_steps: must be a whole number at least 1"),
        ("checkpoint --against=linen", "--against must hold only orbax-sync with checkpoint, got 'linen'"),
    ],
)
def test_usage_errors(arguments, says):
    with pytest.raises(ConfigError) as caught:
        main(arguments.split())
    assert says in str(caught.value)
