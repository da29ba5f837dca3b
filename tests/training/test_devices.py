import dataclasses
import re

import jax
import numpy as np
import pytest

from resflax.build import build
from resflax.config import BatchNormConfig, Config, DataConfig, ModelConfig, OptimConfig, PrecisionConfig
from resflax.errors import ConfigError
from resflax.training.sharding import check_mesh, make_mesh
from resflax.tree import named_leaves

# The paper's optimisation (He et al. 2015, Sec. 4.2) at a batch that eight devices share.
BASE = Config(
    total_steps=20,
    data=DataConfig(name="digits", batch_size=64, augment=("pad_crop:1", "flip")),
    model=ModelConfig("cifar_resnet8"),
    optim=OptimConfig(learning_rate=0.1, momentum=0.9, weight_decay=1e-4),
)


def variant(group, precision="float32", **optim):
    return dataclasses.replace(
        BASE,
        batch_norm=BatchNormConfig(group_size=group),
        precision=PrecisionConfig(precision),
        optim=dataclasses.replace(BASE.optim, **optim),
    )


def losses(config, devices, steps=20):
    run = build(config, jax.devices()[:devices])
    state = run.initial_state()
    _, reports = run.compile_chunk(state)(state, 0, steps)
    return np.asarray(reports.loss)


@pytest.mark.parametrize("group", [8, *(pytest.param(group, marks=pytest.mark.long) for group in (32, None))])
def test_losses_do_not_depend_on_the_number_of_devices(group):
    with jax.enable_x64(True):
        one, two, eight = (losses(variant(group, "float64"), devices) for devices in (1, 2, 8))
    assert one.dtype == np.float64
    assert one[-1] < one[0]
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-9)
    np.testing.assert_allclose(eight, one, rtol=0, atol=1e-9)


def test_the_group_matters():
    # Otherwise the test above would prove nothing.
    assert abs(losses(variant(8), 1, 1)[0] - losses(variant(32), 1, 1)[0]) > 1e-4


@pytest.mark.long
def test_accumulation_does_not_depend_on_the_number_of_devices():
    with jax.enable_x64(True):
        one, eight = (losses(variant(8, "float64", accumulate=4), devices, 5) for devices in (1, 8))
        whole = losses(variant(8, "float64"), 1, 5)
    np.testing.assert_allclose(eight, one, rtol=0, atol=1e-9)
    np.testing.assert_allclose(one, whole, rtol=0, atol=1e-9)


@pytest.mark.long
@pytest.mark.parametrize("group", [8, None])
def test_first_loss_and_gradient_in_float32(group):
    # With momentum 0 and no decay, one step of rate 1 moves each parameter by its gradient. Seed 0 has a ReLU whose input
    # is zero to within float32's rounding: its two one-sided gradients are 7e-5 apart, and 1 and 8 devices disagree on
    # the side (8 devices agree with float64). Seed 1 has none.
    config = dataclasses.replace(variant(group, momentum=0.0, weight_decay=0.0, learning_rate=1.0), seed=1)
    found = []
    for devices in (1, 2, 8):
        run = build(config, jax.devices()[:devices])
        state = run.initial_state()
        before = jax.device_get(state.params)
        after, reports = run.compile_chunk(state)(state, 0, 1)
        gradient = jax.tree.map(np.subtract, before, jax.device_get(after.params))
        found.append((float(reports.loss[0]), named_leaves(gradient)))
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], abs=1e-5)
        for name, leaf in gradient.items():
            np.testing.assert_allclose(leaf, found[0][1][name], atol=1e-5, err_msg=name)


def test_global_batches_hold_the_same_ids():
    batches = [build(variant(8), jax.devices()[:devices]).train.training_batches() for devices in (1, 2, 8)]
    for step in (0, 1, 30, 1000):
        first, *others = (batch(step)["id"] for batch in batches)
        for other in others:
            np.testing.assert_array_equal(other, first)


def collectives(group, gradient="autodiff", **options):
    config = dataclasses.replace(variant(group), batch_norm=BatchNormConfig(group_size=group, gradient=gradient), **options)
    run = build(config, jax.devices())
    text = run.compile_chunk(run.initial_state()).compiled.as_text()
    return re.findall(r" (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(", text)


def test_statistics_of_aligned_groups_need_no_collective():
    # One reduction is left, that of the gradients, and what is summed over the batch besides rides with it. A network
    # without normalisation has just as many.
    assert collectives(8) == ["all-reduce"]
    without = collectives(None, model=ModelConfig("tutorial_cnn"), data=dataclasses.replace(BASE.data, image_size=16))
    assert without == ["all-reduce"]


def test_statistics_across_devices_need_collectives():
    # The counterpart that gives the test above its power: 9 layers, a mean and a variance forward and back.
    for group in (32, None):
        found = collectives(group)
        assert set(found) == {"all-reduce"}
        assert len(found) > 20


def test_the_closed_form_gradient_sends_less():
    assert collectives(8, "closed_form") == ["all-reduce"]
    found = collectives(None, "closed_form")
    assert set(found) == {"all-reduce"}
    assert 20 < len(found) < len(collectives(None))


@pytest.mark.parametrize(
    ("batch", "group", "message"),
    [
        (12, None, "batch_size must be a multiple of the 8 devices, got 12"),
        (144, 48, "of the 3 statistics groups .* and the 8 devices one must divide the other"),
    ],
)
def test_batches_that_do_not_fit_the_devices_are_refused(batch, group, message):
    with pytest.raises(ConfigError, match=message):
        check_mesh("batch_size", batch, group, make_mesh())


def test_batches_that_fit():
    for batch, group in ((16, None), (128, 64), (128, 8), (64, 32)):
        check_mesh("batch_size", batch, group, make_mesh())
