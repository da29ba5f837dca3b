"""What a run costs, and how long one that was not run would take."""

import dataclasses
import json

import pytest

from resflax.build.cost import examples, multiply_adds, operations, rates
from resflax.config import Config, DataConfig, ModelConfig, load_config
from resflax.models.profile import profile
from resflax.models.zoo import create_model
from resflax.results.table import Unmeasured, duration, markdown
from tests.conftest import ROOT

RECORD = json.loads((ROOT / "experiments/results/he2015_cifar-resnet20_782-s0.json").read_text())


def test_a_row_of_he_2015():
    """64k iterations of batch 128 with a network of 40.55 million multiply-adds (by hand, and in `summary`)."""
    config = load_config("he2015_cifar:resnet20")[0]
    assert examples(config) == 64_000 * 128
    by_hand = 32 * 32 * 9 * (3 * 16 + 6 * 16 * 16)  # the stem, and the stage of 16 channels
    by_hand += 16 * 16 * 9 * (16 * 32 + 5 * 32 * 32) + 8 * 8 * 9 * (32 * 64 + 5 * 64 * 64) + 64 * 10
    assert multiply_adds(config) == by_hand
    assert operations(config) == 6 * by_hand * 64_000 * 128
    twice = dataclasses.replace(config, optim=dataclasses.replace(config.optim, sharpness=0.05))
    assert operations(twice) == 2 * operations(config)


@pytest.mark.parametrize(("name", "kwargs"), [("cifar_wrn16_2", {}), ("cifar_resnet14", {"width": 8, "repeat": "scan"})])
def test_a_network_without_a_row_is_traced(name, kwargs):
    config = Config(total_steps=1, data=DataConfig("cifar100"), model=ModelConfig(name, kwargs))
    unrolled = create_model(name, 100, **{key: value for key, value in kwargs.items() if key != "repeat"})
    assert multiply_adds(config) == sum(layer.multiply_adds for layer in profile(unrolled, (32, 32, 3)))


def test_epochs_are_of_the_splits_that_are_named():
    config = Config(total_epochs=2, data=DataConfig("svhn_cropped", train_split="train+extra"))
    assert examples(config) == 2 * (73_257 + 531_131)
    assert examples(dataclasses.replace(config, data=DataConfig("some.npz"))) is None
    assert operations(dataclasses.replace(config, data=DataConfig("some.npz"))) is None


def test_larger_images_cost_by_their_area():
    at = {
        size: Config(total_steps=1, data=DataConfig("imagenet", image_size=size), model=ModelConfig("resnet50"))
        for size in (112, 224)
    }
    assert multiply_adds(at[224]) == 4_089_184_256
    assert multiply_adds(at[112]) == pytest.approx(4_089_184_256 / 4, abs=1)


def test_rates_are_of_each_networks_fastest_run_on_the_fastest_hardware():
    def run(**changes):
        return {**RECORD, **changes}

    wide = {**RECORD["config"], "model": {"name": "cifar_wrn16_8", "kwargs": {}}}
    runs = [
        run(images_per_second=100.0, seed=1),
        run(images_per_second=200.0, seed=2),
        run(images_per_second=50.0, config=wide, row="wide"),
        run(images_per_second=1.0, device="slower"),
        run(images_per_second=1e6, evaluation={"resolution": [8, 8]}),  # digits say nothing about larger images
    ]
    slow, fast = rates(runs)
    assert (slow.run, fast.run) == ("he2015_cifar-resnet20_782-s2", "he2015_cifar-wide-s0")
    assert slow.operations_per_second == 200 * 6 * 40_551_040
    assert fast.operations_per_second == 50 * 6 * 1_548_145_664
    assert {slow.hardware, fast.hardware} == {"1 x cpu"}
    assert rates([]) == []


def test_the_table_says_what_is_estimated():
    missing = {"a": Unmeasured(64_000, (7_000.0, 36_000.0), "1 x cpu"), "b": Unmeasured(), "c": Unmeasured(100)}
    table = markdown({}, {}, missing=missing)
    assert "| a | - | not run | - | 64,000 | estimate: 1.9 to 10 hours | 1 x cpu |" in table
    assert "| b | - | not run | - | - | - | - |" in table
    assert "| c | - | not run | - | 100 | - | - |" in table


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (1, 1.9, "1 to 1.9 seconds"),
        (60, 60, "60 seconds"),
        (2400, 5400, "40 to 90 minutes"),
        (8.64e5, 8.64e7, "10 to 1,000 days"),
    ],
)
def test_durations(low, high, shown):
    assert duration(low, high) == shown
