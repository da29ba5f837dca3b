"""Numbers in documents are those of the committed records."""

import json
import statistics

import pytest

from tests.conftest import ROOT

RECORDS = [json.loads(path.read_text()) for path in sorted((ROOT / "experiments/results").glob("*.json"))]


def quickstart():
    return [record for record in RECORDS if record["config"]["data"]["name"] == "digits"]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: f"{record['model']}-s{record['seed']}")
def test_a_record_can_be_traced(record):
    assert record["git_commit"]
    assert not record["git_commit"].endswith("-dirty")
    assert record["images_scored"] == {"digits": 360, "cifar10": 10_000}[record["dataset"]]
    assert record["versions"].keys() >= {"python", "jax", "flax", "resflax"}
    assert record["seed"] == record["config"]["seed"]
    assert len(record["first_losses"]) == min(100, record["steps"])


def test_readme_states_the_quickstart_as_it_was_recorded():
    records = quickstart()
    assert sorted(record["seed"] for record in records) == [0, 1, 2, 3, 4]
    assert len({json.dumps({**record["config"], "seed": 0}) for record in records}) == 1
    accuracies = [100 * record["test_accuracy"] for record in records]
    seconds = [record["train_seconds"] for record in records]
    mean, spread = statistics.mean(accuracies), statistics.stdev(accuracies)
    readme = (ROOT / "README.md").read_text()
    assert f"{mean:.2f} % ± {spread:.2f}" in readme
    assert f"{min(seconds):.0f} to {max(seconds):.0f}" in readme
    assert mean >= 98.5
