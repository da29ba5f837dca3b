"""Learning rates against golden tables and closed forms."""

import dataclasses
import math

import pytest

from resflax.build import make_schedule
from resflax.config import Config, DataConfig, OptimConfig, load_config
from resflax.optim.schedules import cosine_schedule, linear_schedule, step_schedule, with_warmup

# He et al. 2015, Sec. 4.2: step -> rate.
HE_2015 = {0: 0.1, 1: 0.1, 31_999: 0.1, 32_000: 0.01, 47_999: 0.01, 48_000: 0.001, 63_999: 0.001}
# The same, "0.01 to warm up" for 400 iterations.
RESNET_110 = {**HE_2015, 0: 0.01, 1: 0.01, 399: 0.01, 400: 0.1, 401: 0.1}
# Cut to 782 steps the divisions keep their places.
SHORT = {0: 0.1, 390: 0.1, 391: 0.01, 585: 0.01, 586: 0.001, 781: 0.001}


@pytest.mark.parametrize(
    ("row", "table"),
    [("resnet20", HE_2015), ("plain56", HE_2015), ("resnet1202", HE_2015), ("resnet110", RESNET_110), ("resnet20_782", SHORT)],
)
def test_rows_of_he_2015(row, table):
    config, _ = load_config(f"he2015_cifar:{row}")
    schedule = make_schedule(config, config.total_steps, 50_000 / 128)
    assert {step: float(schedule(step)) for step in table} == pytest.approx(table)


def test_goyal_2017():
    config, _ = load_config("goyal2017:batch8192")
    steps_per_epoch = 1_281_167 / 8192
    schedule = make_schedule(config, math.ceil(90 * steps_per_epoch), steps_per_epoch)
    # Sec. 2.2: from 0.1 to 3.2 over five epochs; Sec. 5.1: divided by 10 at epochs 30, 60 and 80.
    epochs = {
        0: 0.1,
        2.5: 1.65,
        5: 3.2,
        29.9: 3.2,
        30.1: 0.32,
        59.9: 0.32,
        60.1: 0.032,
        79.9: 0.032,
        80.1: 0.0032,
        89.9: 0.0032,
    }
    for epoch, rate in epochs.items():
        assert float(schedule(round(epoch * steps_per_epoch))) == pytest.approx(rate, rel=2e-3), epoch


def test_goyal_2017_at_batch_256_has_the_same_shape():
    config, _ = load_config("goyal2017:batch8192")
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=256))
    schedule = make_schedule(config, 90 * 5004, 5004)
    assert [float(schedule(round(epoch * 5004))) for epoch in (5, 31, 61, 81)] == pytest.approx([0.1, 0.01, 0.001, 0.0001])


def test_cosine_and_linear_have_their_closed_forms():
    for step in (0, 1, 250, 500, 999, 1000):
        cosine = 0.4 * ((1 - 0.1) * (1 + math.cos(math.pi * step / 1000)) / 2 + 0.1)
        assert float(cosine_schedule(0.4, 1000, 0.1)(step)) == pytest.approx(cosine)
        assert float(linear_schedule(0.4, 1000, 0.25)(step)) == pytest.approx(0.4 + (0.1 - 0.4) * step / 1000)


def test_a_linear_warm_up_scales_what_lies_beneath_and_shifts_nothing():
    schedule = with_warmup(step_schedule(1.0, (6,), 0.1), 4, 0.2)
    assert [float(schedule(step)) for step in range(8)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 0.1, 0.1])


@pytest.mark.parametrize(("unit", "milestones"), [("fraction", (0.25, 0.5)), ("steps", (50.0, 100.0)), ("epochs", (2.5, 5.0))])
def test_milestones_in_any_unit(unit, milestones):
    optim = OptimConfig(learning_rate=1.0, schedule="step", milestones=milestones, milestone_unit=unit)
    schedule = make_schedule(Config(optim=optim), 200, 20.0)
    assert [float(schedule(step)) for step in (49, 50, 99, 100, 199)] == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])


def test_the_rate_scales_with_the_batch():
    optim = OptimConfig(learning_rate=0.1, base_batch_size=256)
    for batch_size in (64, 256, 8192):
        config = Config(data=DataConfig(batch_size=batch_size), optim=optim)
        assert float(make_schedule(config, 100, 10.0)(50)) == pytest.approx(0.1 * batch_size / 256)
