"""Numbers in documents are those of the committed records."""

import json
import statistics

import pytest

from resflax.report import figures, read_records, render
from tests.conftest import ROOT

RECORDS = [json.loads(path.read_text()) for path in sorted((ROOT / "experiments/results").glob("*.json"))]


def quickstart():
    return [record for record in RECORDS if record["experiment"] == "quickstart"]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: f"{record['experiment']}-{record['row']}-s{record['seed']}")
def test_a_record_can_be_traced(record):
    assert record["git_commit"]
    assert not record["git_commit"].endswith("-dirty")
    assert record["images_scored"] == {"digits": 360, "cifar10": 10_000}[record["dataset"]]
    assert record["versions"].keys() >= {"python", "jax", "flax", "resflax"}
    assert record["seed"] == record["config"]["seed"]
    assert len(record["first_losses"]) == min(100, record["steps"])


def test_results_are_those_of_the_records():
    """`python -m resflax.report` brings them up to date."""
    folder = ROOT / "experiments/results"
    records = read_records(folder)
    drawings = [f"{name}-{kind}.png" for name in records for kind in figures(name, records[name])]
    assert (ROOT / "experiments/RESULTS.md").read_text() == render(folder, records, drawings)
    assert {path.name for path in (folder / "figures").glob("*.png")} == {*drawings}


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


@pytest.mark.parametrize(("row", "shown"), [("plain20_782", "plain-20, 782 steps"), ("resnet20_782", "ResNet-20, 782 steps")])
def test_readme_states_the_short_rows_as_they_were_recorded(row, shown):
    runs = [record for record in RECORDS if record["row"] == row]
    assert sorted(record["seed"] for record in runs) == [0, 1, 2]
    errors = [100 - 100 * record["test_accuracy"] for record in runs]
    readme = (ROOT / "README.md").read_text()
    assert f"| {shown} | {statistics.mean(errors):.2f} % ± {statistics.stdev(errors):.2f} |" in readme
    assert max(errors) <= 40 or row.startswith("plain")  # at least 60 % right


def test_depth_harms_plain_networks_and_not_residual_ones():
    """He et al. 2015, Sec. 4.2, on the digits."""

    def error(row):
        return statistics.mean(100 - 100 * one["test_accuracy"] for one in RECORDS if one["row"] == row)

    assert error("plain56") > error("plain20") + 10
    assert error("resnet56") < error("resnet20") + 1
