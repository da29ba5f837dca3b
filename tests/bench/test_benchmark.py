"""The benchmark command on tiny networks: what it prints, what it refuses. No test looks at how long anything took."""

import dataclasses
import json
import math
import os
import subprocess
import sys

import pytest

from resflax import benchmark as command_module
from resflax.bench.peers import make_peer, require
from resflax.bench.process import in_new_process
from resflax.bench.workload import Contender, Program, Workload
from resflax.benchmark import _without_cache, benchmark, main
from resflax.build import inference
from resflax.build.measure import build_run, compile_once, our_training
from resflax.errors import ConfigError, ResflaxError

TINY = Workload("cifar_resnet8", 4)
HEADLINE = {"images_per_second", "step_seconds", "compile_seconds"}
ROW = {*HEADLINE, "step_seconds_lowest", "step_seconds_highest", "parameters", "last_value", "differs"}
RATIO = {"ratio", "ratio_lowest", "ratio_highest"}


def check(result, task):
    """What all tasks report."""
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["benchmark"] == task
    assert {
        "work",
        "device",
        "device_count",
        "cores",
        "versions",
        "git_commit",
        "load_before",
        "steps",
        "repeats",
        "batch_size",
    } <= result.keys()
    assert {"python", "jax", "resflax"} <= result["versions"].keys()
    (*_, last) = result["measurements"]
    ours = next(iter(last["contenders"].values()))
    assert {name: ours[name] for name in HEADLINE & ours.keys()} == {name: result[name] for name in HEADLINE & ours.keys()}
    return result["measurements"]


def check_rows(contenders, peers):
    assert list(contenders) == ["resflax", *peers]
    for name, row in contenders.items():
        assert row.keys() - {"temporary_bytes"} == (ROW if name == "resflax" else ROW | RATIO)
        assert 0 < row["step_seconds_lowest"] <= row["step_seconds"] <= row["step_seconds_highest"]


def test_train():
    result = benchmark("train", TINY, ["linen"], steps=2, repeats=2)
    (measurement,) = check(result, "train")
    check_rows(measurement["contenders"], ["linen"])
    assert len({row["parameters"] for row in measurement["contenders"].values()}) == 1
    assert (result["model"], result["precision"]) == ("cifar_resnet8", "float32")
    assert (result["steps"], result["repeats"]) == (2, 2)


def test_infer():
    (measurement,) = check(benchmark("infer", Workload("cifar_resnet8", 1), ["unfolded"], steps=2, repeats=2), "infer")
    check_rows(measurement["contenders"], ["unfolded"])
    ours, unfolded = measurement["contenders"].values()
    assert ours["parameters"] == unfolded["parameters"]
    assert ours["last_value"] == pytest.approx(unfolded["last_value"], rel=1e-4)  # the same images, weights and function


def test_inference_is_measured_at_batch_one_too(monkeypatch):
    def fake(name, task, workload):
        return Contender(name, lambda: Program(lambda steps: float(workload.batch_size)))

    monkeypatch.setattr(inference, "our_inference", lambda workload: fake("resflax", "infer", workload))
    monkeypatch.setattr(command_module, "make_peer", fake)
    single, batch = check(benchmark("infer", TINY, ["linen"], steps=2, repeats=2), "infer")
    for measurement, size in ((single, 1), (batch, 4)):
        assert measurement["batch_size"] == size
        assert [row["last_value"] for row in measurement["contenders"].values()] == [size, size]
        check_rows(measurement["contenders"], ["linen"])


def test_compile(monkeypatch):
    calls = []

    def here(initialize, function, workload):
        assert (initialize, function) == (_without_cache, compile_once)
        calls.append((workload.model, workload.repeat))
        return {"trace_seconds": 1.0, "lower_seconds": 2.0, "backend_seconds": 3.0, "compile_seconds": 6.0 + len(calls)}

    monkeypatch.setattr(command_module, "in_new_process", here)
    result = benchmark("compile", TINY, ["cifar_resnet14:scan"], repeats=2)
    (measurement,) = check(result, "compile")
    assert calls == [("cifar_resnet8", "loop"), ("cifar_resnet8", "scan"), ("cifar_resnet14", "scan")] * 2
    assert list(measurement["contenders"]) == ["loop", "scan", "cifar_resnet14:scan"]
    assert result["compile_seconds"] == measurement["contenders"]["loop"]["compile_seconds"] == 8.5
    assert measurement["contenders"]["scan"]["compile_seconds_highest"] == 11.0
    assert measurement["contenders"]["cifar_resnet14:scan"]["ratio"] == pytest.approx((9 / 7 + 12 / 10) / 2)


def test_a_network_without_repetition_is_compiled_in_its_one_form(monkeypatch):
    monkeypatch.setattr(command_module, "in_new_process", lambda *_: {"compile_seconds": 1.0})
    (measurement,) = benchmark("compile", Workload("tutorial_cnn", 4), repeats=1)["measurements"]
    assert list(measurement["contenders"]) == ["loop"]


@pytest.mark.parametrize("repeat", ["loop", "scan"])
def test_compile_once_adds_up(repeat):
    parts = compile_once(dataclasses.replace(TINY, repeat=repeat))
    assert set(parts) == {"trace_seconds", "lower_seconds", "backend_seconds", "compile_seconds"}
    assert min(parts.values()) > 0
    assert parts["compile_seconds"] == pytest.approx(sum(parts.values()) / 2)


@pytest.mark.long
def test_layouts_are_peers_of_each_other():
    """Our network beside itself in a loop: the same parameters and, from the same start, nearly the same loss."""
    result = benchmark("train", Workload("cifar_resnet14", 2), ["scan_remat"], steps=1, repeats=1)
    (measurement,) = check(result, "train")
    rows = list(measurement["contenders"].values())
    assert [*measurement["contenders"]] == ["resflax", "scan_remat"]
    assert rows[0]["parameters"] == rows[1]["parameters"]
    assert rows[0]["temporary_bytes"] > 0 < rows[1]["temporary_bytes"]


def test_our_steps_are_those_of_a_run(tmp_path):
    """One step, two and one more end where four at once do."""
    run = build_run(TINY, tmp_path, 8)
    contender = our_training(run)
    contender.prepare()  # one step
    contender.run(2)
    contender.run(1)
    state = run.initial_state()
    _, reports = run.compile_chunk(state)(state, 0, 4)
    assert contender.last_value == pytest.approx(float(reports.loss[-1]), rel=1e-6)
    assert run.train.augment == ()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("train --model=tutorial_cnn --repeat=scan", "blocks of tutorial_cnn are not equal and cannot run as scan"),
        ("compile --against=cifar_resnet20", "must hold MODEL:LAYOUT with compile"),
        ("compile --against=resnet20:scan", "there is no model 'resnet20'; did you mean cifar_resnet20"),
        ("", "the following arguments are required: TASK; see python -m resflax.benchmark --help"),
        ("trian", "argument TASK: invalid choice: 'trian'"),
        (
            "train --against=pytorch",
            "linen, torch, torch-compile, keras, torch-graphs, timm, timm-compile, loop, scan, scan_remat, ",
        ),
        ("train --against=linen,pillow", "got 'pillow'; did you mean "),
        ("input --against=torch", "--against must hold only pillow, tf.data with input, got 'torch'; did you mean "),
        ("input-cifar --against=pillow", "--against must hold only host, torch-loader, tf.data with input-cifar, got 'pillow'"),
        ("train --model=resnet50 --against=linen", "--against=linen needs a --model=cifar_resnet<depth>, got resnet50; "),
        ("train --against=timm", "--against=timm needs a --model for ImageNet, got cifar_resnet20; use --model=resnet50"),
        (
            "train --model=resnet50 --against=torch-graphs",
            "--against=torch-graphs needs a --model=cifar_resnet<depth>, got resnet",
        ),
        ("infer --against=closed_form", " with infer, got 'closed_form'; did you mean "),
        ("infer --model=resnet18 --against=torch", "=cifar_resnet<depth> or resnet50, resnet101, resnet152, got resnet18; "),
        ("infer --model=cifar_resnet8 --against=timm", "--against=timm needs a --model for ImageNet, got cifar_resnet8; "),
        ("train --against=onnxruntime", "with train, got 'onnxruntime'; "),
        ("train --batch_size=0", "argument --batch_size: must be a whole number at least 1, got '0'; see "),
        ("train --repeats=-1", "argument --repeats: must be a whole number at least 1, got '-1'"),
        ("train --steps=1.5", "argument --steps: must be a whole number at least 1, got '1.5'"),
        ("train --precision=float16", "argument --precision: invalid choice: 'float16'"),
        ("train --model=cifar_resnet21", "must be 6n+2 (8, 14, 20, ...), got 21; use cifar_resnet20"),
        ("compile --steps=3", "unrecognized arguments: --steps=3"),
        ("input --model=cifar_resnet20", "unrecognized arguments: --model=cifar_resnet20"),
    ],
)
def test_usage_errors(arguments, says):
    with pytest.raises(ConfigError) as caught:
        main(arguments.split())
    assert says in str(caught.value)


@pytest.mark.parametrize("name", ["torch", "torch-compile", "keras"])
def test_a_missing_package_is_told_in_a_sentence(name, monkeypatch):
    package = name.removesuffix("-compile")
    monkeypatch.setitem(sys.modules, package, None)  # importing it now raises ImportError
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(ConfigError, match=f"--against={name} needs the package {package}, but .*; pip install {package}$"):
        make_peer(name, "train", TINY)


def test_a_package_that_is_there_is_given():
    assert require("json", "peer") is json


def test_default_peers_need_a_network_that_they_have(monkeypatch, capsys):
    asked = []

    def record(task, workload, against, steps, repeats):
        asked.append((task, workload.model, list(against), steps, repeats))
        return {}

    monkeypatch.setattr(command_module, "benchmark", record)
    monkeypatch.setattr(command_module, "_without_cache", lambda: None)
    for line in (
        "train",
        "train --against=",
        "infer --model=resnet50",
        "input --steps=3",
        "input-cifar",
        "compile --repeats=2",
    ):
        assert main(line.split()) == 0
    assert asked == [
        ("train", "cifar_resnet20", ["linen"], 20, 5),
        ("train", "cifar_resnet20", [], 20, 5),
        ("infer", "resnet50", [], 20, 5),
        ("input", "cifar_resnet20", ["pillow"], 3, 5),
        ("input-cifar", "cifar_resnet20", ["host"], 20, 5),
        ("compile", "cifar_resnet20", [], 1, 2),
    ]


def test_a_bad_command_line_is_refused_before_anything_heavy_is_imported(one_device_environment):
    program = "import sys, resflax.benchmark; print(*{name.split('.')[0] for name in sys.modules})"
    child = subprocess.run([sys.executable, "-c", program], env=one_device_environment, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert not {"jax", "flax", "numpy", "optax", "PIL", "torch", "keras"} & set(child.stdout.split())


def test_the_command_prints_and_records_the_same(command, tmp_path):
    child = command("benchmark", "input-cifar", "--batch_size=2", "--steps=1", "--repeats=1", "--output=out/record.json")
    assert child.returncode == 0, child.stderr
    printed = json.loads(child.stdout.splitlines()[-1])
    check(printed, "input-cifar")
    assert json.loads((tmp_path / "out/record.json").read_text()) == printed


@pytest.mark.long
def test_the_compile_command_starts_a_process_a_sample(command):
    child = command("benchmark", "compile", "--model=cifar_resnet8", "--batch_size=2", "--repeats=2")
    assert child.returncode == 0, child.stderr
    (measurement,) = check(json.loads(child.stdout.splitlines()[-1]), "compile")
    assert measurement["contenders"].keys() == {"loop", "scan"}


@pytest.mark.long
def test_a_killed_process_is_told_in_a_sentence():
    with pytest.raises(ResflaxError, match="the process that compiles must finish, but it was killed; "):
        in_new_process(_without_cache, os._exit, 9)


@pytest.mark.long
@pytest.mark.parametrize("model", ["cifar_resnet1202", "cifar_preresnet1001"])
def test_a_thousand_layers_train_where_activations_are_recomputed(model):
    """Two steps at batch 8 in float32. XLA plans about 0.3 and 0.5 GB beside weights and optimizer (docs/models.md)."""
    result = benchmark("train", Workload(model, 8, repeat="scan_remat"), steps=1, repeats=1)
    (measurement,) = check(result, "train")
    (row,) = measurement["contenders"].values()
    assert math.isfinite(row["last_value"])
    assert row["temporary_bytes"] < 0.75 * 2**30
