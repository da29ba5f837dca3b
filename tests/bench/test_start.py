"""What a start is made of, and that a second start compiles nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from resflax import benchmark as command_module
from resflax.bench import start as start_module
from resflax.bench.observe import main as observe
from resflax.bench.start import COLD, EXAMPLE, EXAMPLE_WARM, WARM, Launch, measure_start, our_arguments, phases, rows, start
from resflax.bench.workload import Workload
from resflax.benchmark import benchmark, main
from resflax.errors import ConfigError, ResflaxError

TINY = Workload("cifar_resnet8", 4)
MISS, BACKEND = "/jax/compilation_cache/cache_misses", "/jax/core/compile/backend_compile_duration"


def test_phases_add_up_to_the_first_step():
    events = [
        (11.0, "/resflax/imported", 0.0),
        (13.0, "/resflax/read", 0.0),
        (13.1, MISS, 0.0),
        (14.5, BACKEND, 0.5),
        (15.0, "/resflax/compiled", 0.0),
        (15.0, "/resflax/unknown", 0.0),
        (15.5, BACKEND, 0.25),
        (16.0, "/resflax/chunk", 0.0),
        (17.0, "/resflax/chunk", 0.0),
        (18.0, BACKEND, 9.0),
        (18.0, MISS, 0.0),
    ]
    assert phases(10.0, events) == {
        "start_seconds": 6.0,
        "import_seconds": 1.0,
        "data_seconds": 2.0,
        "compile_seconds": 2.0,
        "first_step_seconds": 1.0,
        "backend_seconds": 0.75,
        "cache_misses": 2,
    }


def test_rows_compare_like_with_like():
    seconds = {COLD: (10.0, 12.0), WARM: (2.0, 4.0), EXAMPLE: (20.0, 36.0), EXAMPLE_WARM: (3.0, 8.0)}
    timed = {
        name: [{"start_seconds": one, "cache_misses": misses} for misses, one in enumerate(values)]
        for name, values in seconds.items()
    }
    found = rows(timed)
    assert {name: row.get("ratio") for name, row in found.items()} == {COLD: None, WARM: None, EXAMPLE: 2.5, EXAMPLE_WARM: 1.75}
    assert found[COLD]["start_seconds"] == 11.0
    assert {row["cache_misses"] for row in found.values()} == {1}  # the most of any sample
    assert all(row["differs"] for row in found.values())


def test_each_process_has_the_cache_it_is_meant_to_have(monkeypatch, tmp_path):
    launches = []

    def record(launch):
        launches.append((launch, launch.cache is not None and launch.cache.is_dir()))
        return {"start_seconds": 1.0}

    monkeypatch.setattr(start_module, "start", record)
    monkeypatch.setattr(start_module.importlib.util, "find_spec", lambda name: name)
    found = measure_start(TINY, 10, [EXAMPLE, EXAMPLE_WARM], repeats=2)
    assert list(found) == [COLD, WARM, EXAMPLE, EXAMPLE_WARM]
    assert [launch.module for launch, _ in launches] == 3 * [*2 * ["resflax.train"], *2 * ["resflax.bench.flax_example"]]
    cold, warm, example, example_warm = ([launch.cache for launch, _ in launches[turn::4]] for turn in range(4))
    assert len(set(cold)) == 3
    assert all(empty for _, empty in launches[::4])
    assert len(set(warm)) == len(set(example_warm)) == 1
    assert warm[0] != example_warm[0]
    assert example == 3 * [None]


def test_the_environment_of_a_process(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "3")
    monkeypatch.setenv("OTHER", "kept")
    without = Launch("module", (), None).environment()
    assert "JAX_COMPILATION_CACHE_DIR" not in without
    assert (without["JAX_ENABLE_COMPILATION_CACHE"], without["OTHER"]) == ("false", "kept")
    cached = Launch("module", (), tmp_path).environment()
    assert (cached["JAX_COMPILATION_CACHE_DIR"], cached["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]) == (str(tmp_path), "0")
    assert "JAX_ENABLE_COMPILATION_CACHE" not in cached


def test_our_arguments_are_a_configuration(tmp_path):
    from resflax.cli import split_overrides
    from resflax.config import apply_overrides, load_config, validate

    others, overrides = split_overrides(our_arguments(TINY, tmp_path / "x.npz"))
    config = validate(apply_overrides(load_config("quickstart")[0], overrides))
    assert not others
    assert (config.model.name, config.data.batch_size, config.data.augment) == ("cifar_resnet8", 4, ("pad_crop:4", "flip"))


def test_what_a_module_told_is_written_however_it_ends(tmp_path, monkeypatch):
    (tmp_path / "tells.py").write_text(
        "import jax, sys\njax.monitoring.record_event('/resflax/' + sys.argv[1])\nassert __name__ == '__main__'\nsys.exit(3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    with pytest.raises(SystemExit, match="3"):
        observe([str(tmp_path / "events.json"), "tells", "something"])
    events = json.loads((tmp_path / "events.json").read_text())
    assert ["/resflax/something", 0.0] in [event[1:] for event in events]


def test_a_process_that_fails_is_told_in_a_sentence():
    with pytest.raises(
        ResflaxError, match=r"resflax\.train must end well, but it ended with 2 and said: resflax: .*nothing\.py"
    ):
        start(Launch("resflax.train", ("--config=nothing.py",), None))


def test_a_missing_tensorflow_is_told_in_a_sentence(monkeypatch):
    monkeypatch.setattr(start_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"--against=flax-example needs the package tensorflow, .*; pip install "):
        main(["start", "--against=flax-example"])


def test_the_command(monkeypatch):
    def fake(workload, images, against, repeats):
        assert (workload, images, against, repeats) == (TINY, 10, (), 2)
        return rows({COLD: [{"start_seconds": 3.0, "cache_misses": 5}]})

    monkeypatch.setattr(start_module, "measure_start", fake)
    result = benchmark("start", TINY, repeats=2, images=10)
    assert (result["start_seconds"], result["images"], result["benchmark"]) == (3.0, 10, "start")
    asked = []
    monkeypatch.setattr(
        command_module, "benchmark", lambda *arguments, **own: asked.append((arguments[0], arguments[2], own)) or {}
    )
    monkeypatch.setattr(command_module, "_without_cache", lambda: None)
    assert main(["start", "--images=7"]) == 0
    assert asked == [("start", [], {"images": 7})]


def test_the_example_needs_a_network_that_it_has():
    with pytest.raises(ConfigError, match="--against=flax-example needs a --model=cifar_resnet<depth>"):
        main(["start", "--against=flax-example", "--model=resnet50"])


def run_cached(cache, environment, *arguments):
    """`python -m resflax.train` on the digits with programs kept in `cache`; returns the names of all events."""
    program = Path(cache).parent / "events.json"
    child = subprocess.run(
        [sys.executable, "-m", "resflax.bench.observe", str(program), "resflax.train", *arguments],
        env={**environment, "JAX_COMPILATION_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
    )
    return child, [event for _, event, _ in json.loads(program.read_text())]


# Everything that a run compiles: averages, several parts a batch, statistics estimated anew, evaluations and saves on the way.
FIELDS = (
    "total_steps=6",
    "eval_every_steps=2",
    "log_every_steps=3",
    "checkpoint.every_steps=2",
    "checkpoint.keep_best=1",
    "model.name=cifar_resnet8",
    "model.kwargs.width=4",
    "ema.decay=0.9",
    "optim.accumulate=2",
    "batch_norm.group_size=32",
    "batch_norm.reestimate=true",
)


@pytest.mark.parametrize(
    "fields",
    [
        ("total_steps=3", "eval_every_steps=2", "checkpoint.every_steps=2", "model.name=tutorial_cnn", "data.image_size=16"),
        pytest.param(FIELDS, marks=pytest.mark.long),
    ],
    ids=["short", "everything"],
)
def test_a_second_run_compiles_nothing(fields, one_device_environment, tmp_path):
    """From its start to its record, whatever the least time is that JAX by default wants a compilation to have taken."""
    environment = {name: value for name, value in one_device_environment.items() if not name.startswith("JAX_PERSISTENT")}
    arguments = [f"--config.{field}" for field in fields]
    for run, empty in (("first", True), ("second", False)):
        child, events = run_cached(tmp_path / "xla", environment, f"--workdir={tmp_path / run}", *arguments)
        assert child.returncode == 0, child.stderr
        assert (MISS in events) == empty
        assert "/jax/compilation_cache/cache_hits" in events or empty


@pytest.mark.long
def test_a_resumed_run_compiles_nothing(one_device_environment, tmp_path):
    """Of a run that is stopped: what comes after the restart was compiled by one that was not."""
    arguments = [f"--config.{field}" for field in FIELDS]
    child, _ = run_cached(tmp_path / "xla", one_device_environment, f"--workdir={tmp_path / 'whole'}", *arguments)
    assert child.returncode == 0, child.stderr
    program = (
        "import os, signal; from resflax import train; from resflax.training import moments\n"
        "import jax; jax.monitoring.register_event_listener(\n"
        "    lambda event, **_: event == '/resflax/chunk' and os.kill(os.getpid(), signal.SIGTERM))\n"
        "from resflax.cli import run; run(train.main)"
    )
    stopped = subprocess.run(
        [sys.executable, "-c", program, f"--workdir={tmp_path / 'run'}", *arguments],
        env={**one_device_environment, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "xla")},
        capture_output=True,
        text=True,
    )
    assert stopped.returncode == 143, stopped.stderr
    child, events = run_cached(tmp_path / "xla", one_device_environment, f"--workdir={tmp_path / 'run'}", *arguments)
    assert child.returncode == 0, child.stderr
    assert "going on from step 1" in child.stderr
    assert MISS not in events


@pytest.mark.long
def test_the_command_measures_cold_and_warm(command):
    child = command("benchmark", "start", "--model=cifar_resnet8", "--batch_size=4", "--images=8", "--repeats=1")
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout.splitlines()[-1])["measurements"][0]["contenders"]
    assert list(found) == [COLD, WARM]
    assert found[COLD]["cache_misses"] > found[WARM]["cache_misses"] == 0
    for row in found.values():
        parts = ("import", "data", "build", "lower", "compile", "first_step")
        assert row["start_seconds"] == pytest.approx(sum(row[f"{part}_seconds"] for part in parts))


@pytest.mark.parity
def test_the_example_trains():
    """One step of it, in this process' TensorFlow."""
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    found = measure_start(TINY, 8, [EXAMPLE], repeats=1)
    assert found[EXAMPLE]["first_step_seconds"] > 0
