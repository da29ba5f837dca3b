"""The runner of paper tables: whole, cut by a budget or killed, it ends in the same records; `--verify` finds false ones."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from resflax import reproduce as command
from resflax.build import build
from resflax.build import verify as replay
from resflax.config import config_hash, from_dict
from resflax.errors import ConfigError, ResflaxError, StorageError
from resflax.report import report
from resflax.training.progress import Progress
from tests import micro
from tests.conftest import ROOT

EXPERIMENT = '''"""A paper of this test.

More about it.
"""

import dataclasses

from resflax.results.published import Published
from tests import micro

PUBLISHED = {"plain8": Published(30.0, "read from a curve"), "resnet8": Published(20.0), "resnet20": Published(None)}


def get_config(variant="resnet8"):
    base = micro.config(%r)
    model = dataclasses.replace(base.model, name="cifar_" + variant)
    norm = dataclasses.replace(base.batch_norm, reestimate=False)  # it would be compiled in each run
    return dataclasses.replace(base, model=model, batch_norm=norm)
'''
VOLATILE = ("train_seconds", "wall_seconds", "images_per_second")


@pytest.fixture(scope="module", autouse=True)
def one_device():
    with pytest.MonkeyPatch.context() as patch:
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
        patch.setattr("resflax.training.sharding.make_mesh", lambda devices=None: mesh)
        yield


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment")
    path = folder / "paper.py"
    path.write_text(EXPERIMENT % str(micro.write_npz(folder)))
    return str(path)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def lasting(record):
    return {key: value for key, value in record.items() if key not in VOLATILE}


def read(folder):
    return {path.stem: lasting(json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))}


@pytest.fixture(scope="module")
def runs(experiment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    command.reproduce(experiment, rows=["plain8", "resnet8"], seeds=2, note="on a test machine", workdir=str(folder))
    return folder


@pytest.fixture
def records(runs):
    return runs / "paper/results"


@pytest.fixture(scope="module")
def one_device_records(experiment, tmp_path_factory):
    """The same records by a process that sees one device: its steps are in C, and those of several devices are not."""
    folder = tmp_path_factory.mktemp("one_device")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("XLA_FLAGS")
    arguments = ["--rows=plain8,resnet8", "--seeds=2", "--note=on a test machine"]
    line = [sys.executable, "-m", "resflax.reproduce", experiment, *arguments]
    subprocess.run(line, env=environment, cwd=folder, capture_output=True, check=True, timeout=300)
    return folder / "runs/paper/results"


def test_rows_times_seeds_become_records_once(runs, records, experiment, monkeypatch):
    found = read(records)
    assert list(found) == ["paper-plain8-s0", "paper-plain8-s1", "paper-resnet8-s0", "paper-resnet8-s1"]
    for name, record in found.items():
        assert name == f"{record['experiment']}-{record['row']}-s{record['seed']}"
        assert record["model"] == f"cifar_{record['row']}"
        assert record["images_scored"] == 21
        assert record["curves"]["train"]["step"] == list(range(5, 41, 5))
        assert record["curves"]["test"]["step"] == list(range(8, 41, 8))
        assert record["curves"]["test"]["accuracy"][-1] == record["test_accuracy"]
    assert len({record["loss_digest"] for record in found.values()}) == 4
    monkeypatch.setattr("resflax.train.train_and_evaluate", None)  # nothing is trained again
    summary = command.reproduce(experiment, rows=["plain8", "resnet8"], seeds=2, workdir=str(runs))
    assert summary["done"] == list(found)
    assert summary["pending"] == []


@pytest.mark.long
def test_a_budget_stops_cleanly_and_the_next_call_goes_on(records, experiment, tmp_path):
    again = {"rows": ["plain8", "resnet8"], "seeds": 2, "workdir": "again", "note": "on a test machine"}
    summary = command.reproduce(experiment, budget_minutes=0, **again)
    assert (summary["done"], len(summary["pending"])) == ([], 4)
    summary = command.reproduce(experiment, budget_minutes=2e-3, **again)  # over before the first step is
    assert (summary["done"], len(summary["pending"])) == ([], 4)
    assert [path.name for path in (tmp_path / "again/paper/plain8-s0/checkpoints").iterdir()] == ["1"]
    assert command.reproduce(experiment, **again)["pending"] == []
    assert read(tmp_path / "again/paper/results") == read(records)


def test_records_of_another_configuration_are_refused(runs, experiment):
    with pytest.raises(ConfigError, match=r"was made with another configuration \(config.optim.learning_rate: 0.1 -> 0.2\)"):
        command.reproduce(experiment, ["plain8"], 2, workdir=str(runs), overrides=["optim.learning_rate=0.2"])


def test_a_row_that_does_not_exist_is_refused_before_anything_is_trained(experiment, tmp_path):
    with pytest.raises(ConfigError, match="got 9; use cifar_resnet8"):
        command.reproduce(experiment, rows=["resnet8", "resnet9"], seeds=1)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["paper.py", "--verify=x"],
        ["paper.py", "--seeds=0"],
        ["paper.py", "--at_once=0"],
        ["quickstart.py"],
        ["--verify=paper.py"],
    ],
)
def test_usage_errors(arguments, experiment):
    with pytest.raises(ResflaxError) as caught:
        command.main(arguments)
    assert caught.value.exit_code in (2, 74)
    assert "\n" not in str(caught.value)


def test_a_run_that_diverges_is_reported_and_the_others_go_on(experiment):
    summary = command.reproduce(experiment, rows=["plain8"], seeds=2, overrides=["optim.learning_rate=1e38"])
    assert list(summary["failed"]) == ["paper-plain8-s0", "paper-plain8-s1"]
    assert "is not finite" in summary["failed"]["paper-plain8-s0"]


def tampered(record, key, value):
    """The record of a run that was not made: its configuration and hash agree, its losses are another's."""
    *sections, name = key.split(".")
    config = json.loads(json.dumps(record["config"]))
    node = config
    for section in sections:
        node = node[section]
    node[name] = value
    return {**record, "config": config, "config_hash": config_hash(from_dict(config))}


def test_a_true_record_is_confirmed_and_a_false_one_refuted(records, tmp_path):
    path = records / "paper-resnet8-s1.json"
    record = json.loads(path.read_text())
    verdict = command.verify_record(path)
    assert verdict["confirmed"], verdict
    assert verdict["exact"]
    assert verdict["steps"] == 40
    false = {
        "seed": tampered(record, "seed", 2),
        "rate": tampered(record, "optim.learning_rate", 0.11),
        "configuration without its hash": {**record, "config": tampered(record, "seed", 2)["config"]},
        "losses": {**record, "first_losses": [1.0, *record["first_losses"][1:]]},
        "data": {**record, "dataset_fingerprint": "0" * 33},
    }
    for name, content in false.items():
        (tmp_path / "false.json").write_text(json.dumps(content))
        verdict = command.verify_record(tmp_path / "false.json")
        assert not verdict["confirmed"], name
        assert command.main([f"--verify={tmp_path / 'false.json'}"]) == 65
    other = micro.write_npz(tmp_path, seed=1)
    verdict = command.verify_record(path, [f"data.name={other}"])
    assert not verdict["confirmed"]
    assert "the data have the fingerprint" in verdict["reason"]
    with pytest.raises(ConfigError, match="takes no override but"):
        command.verify_record(path, ["seed=1"])


def test_a_record_of_another_processor_is_confirmed_as_far_as_rounding_does_not_decide(records, tmp_path):
    """Its losses are those of a run whose weights differ by some units in the last place, which training amplifies."""
    record = json.loads((records / "paper-resnet8-s1.json").read_text())

    def verdict(config, size):
        made = build(from_dict(config), jax.devices()[:1])
        chunk = made.compile_chunk(made.abstract_state(), fused=False)
        losses = replay._replay(made, chunk, replay._nudged(made.initial_state(), size), 40, set()).tolist()
        digest = Progress(first_losses=losses).loss_digest()
        (tmp_path / "other.json").write_text(json.dumps({**record, "first_losses": losses, "loss_digest": digest}))
        return command.verify_record(tmp_path / "other.json")

    true = verdict(record["config"], 3e-7)
    assert (true["confirmed"], true["exact"]) == (True, False)
    assert true["compared"] >= 3
    false = verdict(tampered(record, "optim.learning_rate", 0.11)["config"], 3e-7)
    assert not false["confirmed"]
    assert false["compared"] == true["compared"]


def test_the_report_shows_every_row_beside_the_paper(records, experiment, tmp_path):
    shutil.copy(experiment, tmp_path)
    shutil.copytree(records, tmp_path / "results")
    written = [path.name for path in report(tmp_path / "results")]
    assert written == ["RESULTS.md", "paper-curves.png"]
    text = (tmp_path / "RESULTS.md").read_text()
    errors = [100 - 100 * record["test_accuracy"] for name, record in read(records).items() if "resnet8" in name]
    mean, deviation = sum(errors) / 2, abs(errors[0] - errors[1]) / 2**0.5
    assert f"| resnet8 | 20.00 | {mean:.2f} ± {deviation:.2f} (2) | {mean - 20:+.2f} | 40 | " in text
    assert "| resnet20 | - | not run | - | 40 | - | - |" in text
    assert "- plain8: read from a curve." in text
    assert "- plain8, resnet8: on a test machine." in text
    assert text.startswith("# Results")
    assert "## A paper of this test\n" in text


def test_seeds_may_begin_anywhere(runs, records, experiment, monkeypatch):
    monkeypatch.setattr("resflax.train.train_and_evaluate", None)
    summary = command.reproduce(experiment, rows=["plain8"], seeds=1, first_seed=1, workdir=str(runs))
    assert summary["done"] == ["paper-plain8-s1"]
    with pytest.raises(ConfigError, match="--first_seed must be at least 0, got -1"):
        command.main([experiment, "--first_seed=-1"])


# Side by side. Where the schedule is tested and not the training, the children train in no time: what a row does is its name.

PRETENCE = '''"""Runs that do what their rows are called."""

import os
import signal
import sys
import time
from pathlib import Path

import resflax.train
from resflax.config import Config, config_hash, to_dict
from resflax.errors import DataError, Interrupted, StorageError
from resflax.files import write_json
from resflax.training.signals import SignalFlag

ROWS = ("meets", "fails", "crashes", "killed", "stopped", "full", "waits")


def get_config(variant):
    return Config(total_steps=ROWS.index(variant) + 1)


def train(config, workdir, deadline):
    workdir = Path(workdir)
    row = workdir.name.partition("-")[0]
    with SignalFlag(deadline) as signals:
        write_json(workdir / "began", {"pid": os.getpid(), "at": time.monotonic(), "lane": os.environ.get("LANE")})
        if row == "meets":  # another one that runs at the same time
            while len(list(workdir.parent.glob("meets-*/began"))) < 2:
                time.sleep(0.01)
        if row == "fails":
            raise DataError("the loss is not finite; lower it")
        if row == "crashes":
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
        if row == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if row == "stopped":
            os.kill(os.getpid(), signal.SIGTERM)
        if row == "full":
            while not list(workdir.parent.glob("waits-*/began")):
                time.sleep(0.01)
            raise StorageError("cannot write there: no space left; make some")
        while row in ("waits", "stopped"):
            time.sleep(0.01)
            if signals.received:
                (workdir / "saved").touch()
                raise Interrupted(signals.received, f"stopped by signal {signals.received}, saved")
    return {"config": to_dict(config), "config_hash": config_hash(config), "seed": config.seed}


if "--end_with_stdin" in sys.argv:
    resflax.train.train_and_evaluate = train
'''


@pytest.fixture
def pretence(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    path = tmp_path / "pretence.py"
    path.write_text(PRETENCE)
    return str(path)


def began(tmp_path):
    """Names of runs in the order in which they began."""
    paths = (tmp_path / "runs/pretence").glob("*/began")
    return [path.parent.name for path in sorted(paths, key=lambda path: json.loads(path.read_text())["at"])]


def test_two_at_once_row_by_row(pretence, tmp_path, capfd):
    summary = command.reproduce(pretence, rows=["meets", "fails"], seeds=2, at_once=2, note="side by side")
    assert summary["done"] == ["pretence-meets-s0", "pretence-meets-s1"]
    assert summary["failed"] == dict.fromkeys(["pretence-fails-s0", "pretence-fails-s1"], "the loss is not finite; lower it")
    assert {*began(tmp_path)[:2]} == {"meets-s0", "meets-s1"}
    records = read(tmp_path / "runs/pretence/results")
    assert [(one["row"], one["seed"], one["note"]) for one in records.values()] == [
        ("meets", 0, "side by side"),
        ("meets", 1, "side by side"),
    ]
    assert "pretence-fails-s1: resflax: pretence-fails-s1: the loss is not finite; lower it" in capfd.readouterr().err
    before = began(tmp_path)
    again = command.reproduce(pretence, rows=["meets"], seeds=2, at_once=2)
    assert again["done"] == summary["done"]
    assert began(tmp_path) == before  # nothing is begun again


def test_a_process_that_dies_is_reported_and_the_others_go_on(pretence, tmp_path, capfd):
    rows = ["killed", "crashes", "stopped", "meets"]
    code = command.main([pretence, f"--rows={','.join(rows)}", "--seeds=2", "--at_once=3"])
    assert code == 65
    output, errors = capfd.readouterr()
    summary = json.loads(output.splitlines()[-1])
    assert summary["done"] == ["pretence-meets-s0", "pretence-meets-s1"]
    assert summary["pending"] == ["pretence-stopped-s0", "pretence-stopped-s1"]
    crashed = "its process ended with 1: RuntimeError: RESOURCE_EXHAUSTED: out of memory; run again to go on"
    killed = "its process was killed by signal 9; run again to go on"
    assert summary["failed"] == {
        **dict.fromkeys(["pretence-killed-s0", "pretence-killed-s1"], killed),
        **dict.fromkeys(["pretence-crashes-s0", "pretence-crashes-s1"], crashed),
    }
    assert f"resflax: pretence-killed-s1: {killed}" in errors.splitlines()


def test_what_would_end_one_ends_all(pretence, tmp_path):
    with pytest.raises(StorageError, match="pretence-full-s0: cannot write there: no space left; make some"):
        command.reproduce(pretence, rows=["full", "waits"], seeds=1, at_once=2)
    assert (tmp_path / "runs/pretence/waits-s0/saved").exists()


def test_the_budget_ends_all(pretence, tmp_path):
    summary = command.reproduce(pretence, rows=["waits"], seeds=3, at_once=2, budget_minutes=2 / 60)
    assert summary["pending"] == [f"pretence-waits-s{seed}" for seed in range(3)]
    assert summary["failed"] == {}
    assert "waits-s2" not in began(tmp_path)
    for name in began(tmp_path):
        assert (tmp_path / "runs/pretence" / name / "saved").exists(), name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_after_saving(pretence, number, one_device_environment, tmp_path):
    line = [sys.executable, "-m", "resflax.reproduce", pretence, "--rows=waits", "--seeds=3", "--at_once=2"]
    process = subprocess.Popen(line, env=one_device_environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while len(began(tmp_path)) < 2:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert errors.splitlines()[-1] == f"resflax: stopped by signal {int(number)} with 2 runs under way; run again to go on"
    assert {*began(tmp_path)} == {"waits-s0", "waits-s1"}
    for name in began(tmp_path):
        assert (tmp_path / "runs/pretence" / name / "saved").exists(), name


@pytest.mark.long
def test_side_by_side_the_records_are_the_same(one_device_records, experiment, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.chdir(tmp_path)
    note = "on a test machine"
    summary = command.reproduce(experiment, rows=["plain8"], seeds=2, at_once=2, note=note)
    assert summary["done"] == ["paper-plain8-s0", "paper-plain8-s1"]
    expected = {name: record for name, record in read(one_device_records).items() if "plain8" in name}
    assert read(tmp_path / "runs/paper/results") == expected


@pytest.mark.long
def test_killed_again_and_again_it_ends_in_the_same_records(one_device_records, experiment, one_device_environment, tmp_path):
    rng = random.Random(0)
    arguments = ["--rows=plain8,resnet8", "--seeds=2", "--workdir=killed", "--note=on a test machine"]
    line = [sys.executable, "-m", "resflax.reproduce", experiment, *arguments]
    environment = {**one_device_environment, "PYTHONPATH": str(ROOT)}
    kills = 0
    while True:
        process = subprocess.Popen(line, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            process.communicate(timeout=rng.uniform(2, 8) if kills < 8 else 300)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            time.sleep(0.1)
    assert process.returncode == 0
    assert kills >= 3
    assert read(tmp_path / "killed/paper/results") == read(one_device_records)
    assert len(list((tmp_path / "killed/paper/results").iterdir())) == 4  # no leftovers either


@pytest.mark.long
def test_killed_side_by_side_it_ends_in_the_same_records(one_device_records, experiment, one_device_environment, tmp_path):
    rng = random.Random(0)
    arguments = ["--rows=plain8,resnet8", "--seeds=2", "--workdir=killed", "--note=on a test machine", "--at_once=2"]
    line = [sys.executable, "-m", "resflax.reproduce", experiment, *arguments]

    def start():
        return subprocess.Popen(line, env=one_device_environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)

    for place in ("plain8-s1/config.json", "plain8-s0/metrics.jsonl", "plain8-s1/result.json", "resnet8-s0/metrics.jsonl"):
        process = start()
        while not (tmp_path / "killed/paper" / place).exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()  # and the next one starts at once: nobody may still be at work
        process.wait()
    process = start()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert read(tmp_path / "killed/paper/results") == read(one_device_records)
