"""The runner of paper tables: whole, cut by a budget or killed, it ends in the same records; `--verify` finds false ones."""

import json
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
from resflax.config import config_hash, from_dict
from resflax.errors import ConfigError, ResflaxError
from resflax.report import report
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


def test_a_budget_stops_cleanly_and_the_next_call_goes_on(records, experiment, tmp_path):
    again = {"rows": ["plain8", "resnet8"], "seeds": 2, "workdir": "again", "note": "on a test machine"}
    summary = command.reproduce(experiment, budget_minutes=0, **again)
    assert (summary["done"], len(summary["pending"])) == ([], 4)
    summary = command.reproduce(experiment, budget_minutes=1e-4, **again)  # over before the first step is
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
    "arguments", [[], ["paper.py", "--verify=x"], ["paper.py", "--seeds=0"], ["quickstart.py"], ["--verify=paper.py"]]
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


def test_the_report_shows_every_row_beside_the_paper(records, experiment, tmp_path):
    shutil.copy(experiment, tmp_path)
    shutil.copytree(records, tmp_path / "results")
    written = [path.name for path in report(tmp_path / "results")]
    assert written == ["RESULTS.md", "paper-curves.png"]
    text = (tmp_path / "RESULTS.md").read_text()
    errors = [100 - 100 * record["test_accuracy"] for name, record in read(records).items() if "resnet8" in name]
    mean, deviation = sum(errors) / 2, abs(errors[0] - errors[1]) / 2**0.5
    assert f"| resnet8 | 20.00 | {mean:.2f} ± {deviation:.2f} (2) | {mean - 20:+.2f} | 40 | " in text
    assert "| resnet20 | - | not run | - | - | - | - |" in text
    assert "- plain8: read from a curve." in text
    assert "- plain8, resnet8: on a test machine." in text
    assert text.startswith("# Results")
    assert "## A paper of this test\n" in text


@pytest.mark.long
def test_killed_again_and_again_it_ends_in_the_same_records(records, experiment, one_device_environment, tmp_path):
    rng = random.Random(0)
    arguments = ["--rows=plain8,resnet8", "--seeds=2", "--workdir=killed", "--note=on a test machine"]
    line = [sys.executable, "-m", "resflax.reproduce", experiment, *arguments]
    environment = {**one_device_environment, "PYTHONPATH": str(ROOT)}
    kills = 0
    while True:
        process = subprocess.Popen(line, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            process.communicate(timeout=rng.uniform(4, 14) if kills < 8 else 300)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            time.sleep(0.1)
    assert process.returncode == 0
    assert kills >= 3
    assert read(tmp_path / "killed/paper/results") == read(records)
    assert len(list((tmp_path / "killed/paper/results").iterdir())) == 4  # no leftovers either
