import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resflax.build import build, make_schedule
from resflax.config import BatchNormConfig, EmaConfig, OptimConfig
from resflax.errors import DataError
from resflax.training.losses import cross_entropy
from resflax.training.steps import branch, select
from resflax.tree import digest, named_leaves
from tests import micro


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return micro.write_npz(tmp_path_factory.mktemp("micro"))


def build_on_one_device(config):
    return build(config, jax.devices()[:1])


def run_steps(config, steps, fused=False):
    run = build_on_one_device(config)
    state = run.initial_state()
    return run.compile_chunk(state, fused)(state, 0, steps)


def test_a_fused_chunk_equals_single_steps(path):
    config = micro.config(path)
    single, single_reports = run_steps(config, 12)
    fused, fused_reports = run_steps(config, 12, fused=True)
    assert int(fused.step) == 12
    np.testing.assert_allclose(fused_reports.loss, single_reports.loss, rtol=1e-5)
    np.testing.assert_array_equal(fused_reports.correct, single_reports.correct)
    expected = named_leaves(single)
    for name, leaf in named_leaves(fused).items():
        np.testing.assert_allclose(leaf, expected[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_seeds_differ_in_their_numbers_and_share_one_program(path):
    programs, losses = [], []
    for seed in (0, 1):
        run = build_on_one_device(micro.config(path, seed=seed))
        state = run.initial_state()
        chunk = run.compile_chunk(state)
        programs.append(chunk.compiled.as_text())
        losses.append(float(chunk(state, 0, 1)[1].loss[0]))
    assert programs[0] == programs[1]
    assert losses[0] != losses[1]


def test_a_fused_chunk_is_the_same_however_it_is_cut(path):
    run = build_on_one_device(micro.config(path))
    whole = run.initial_state()
    chunk = run.compile_chunk(whole, fused=True)
    whole, reports = chunk(whole, 0, 12)
    parts, losses = run.initial_state(), []
    for start, stop in ((0, 1), (1, 7), (7, 12)):
        parts, report = chunk(parts, start, stop)
        losses += list(report.loss)
    assert digest(parts) == digest(whole)
    np.testing.assert_array_equal(losses, reports.loss)


def test_accumulation_equals_the_whole_batch(path):
    config = micro.config(path)
    whole = dataclasses.replace(config, optim=dataclasses.replace(config.optim, accumulate=1))
    accumulated, reports = run_steps(config, 1)
    once, expected = run_steps(whole, 1)
    assert float(reports.loss[0]) == pytest.approx(float(expected.loss[0]), rel=1e-6)
    for name, leaf in named_leaves(once).items():
        np.testing.assert_allclose(named_leaves(accumulated)[name], leaf, rtol=1e-4, atol=1e-6, err_msg=name)


def test_ema_is_the_average_of_the_states_it_saw(path):
    config = dataclasses.replace(micro.config(path), ema=EmaConfig(0.7))
    run = build_on_one_device(config)
    state = run.initial_state()
    step = jax.jit(run.train_step())
    resident = run.resident(run.train)
    average = jax.device_get((state.params, state.batch_stats))
    for index in range(4):
        state, _ = step(state, run.train.training_batches()(index), resident)
        now = (state.params, state.batch_stats)
        average = jax.tree.map(lambda old, new: 0.7 * old + 0.3 * np.asarray(new), average, now)
    for name, leaf in named_leaves((state.ema.params, state.ema.batch_stats)).items():
        np.testing.assert_allclose(leaf, named_leaves(average)[name], rtol=1e-5, atol=1e-6)
    assert state.variables()["params"] is state.ema.params


def test_reestimated_statistics_are_those_of_the_training_set(path):
    # Without augmentation, with one group and a batch that divides the 60 images, in plain terms: the first layer's
    # statistics are the mean over batches of each batch's mean and variance of the stem convolution.
    config = micro.config(path)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, augment=(), batch_size=12),
        batch_norm=BatchNormConfig(reestimate=True),
        optim=OptimConfig(),
        ema=EmaConfig(),
    )
    run = build_on_one_device(config)
    params = run.initial_state().params
    stats = run.reestimate(params)["stem_norm"]
    means, variances = [], []
    for step in range(5):
        images = run.train.preprocessing(run.train.arrays.images[run.train.training_batches()(step)["id"]])
        y = np.asarray(
            jax.lax.conv_general_dilated(
                images, params["stem_conv"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        )
        means.append(y.mean((0, 1, 2)))
        variances.append(y.var((0, 1, 2)))
    np.testing.assert_allclose(stats["mean"], np.mean(means, axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stats["var"], np.mean(variances, axis=0), rtol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_is_not_finite_changes_nothing(path, fused):
    run = build_on_one_device(micro.config(path))
    state = run.initial_state()
    chunk = run.compile_chunk(state, fused)
    state, _ = chunk(state, 0, 3)
    before = digest(state)
    kernel = state.params["head"]["dense"]["kernel"]
    broken = state.replace(
        params={**state.params, "head": {"dense": {**state.params["head"]["dense"], "kernel": kernel * jnp.inf}}}
    )
    broken = jax.device_put(broken, jax.tree.leaves(state)[0].sharding)
    marked = digest(broken)
    after, reports = chunk(broken, 3, 6)
    assert reports.finite.tolist() == [False] * 3
    assert digest(after) == marked != before


@pytest.mark.parametrize("choose", [select, branch])
def test_the_new_state_or_the_old_one_is_chosen_whole(choose):
    old = {"kernel": jnp.arange(6.0).reshape(2, 3), "count": (jnp.int32(4), jnp.zeros(0))}
    new = jax.tree.map(lambda x: x + 1, old)
    for condition, expected in ((True, new), (False, old)):
        assert digest(jax.jit(choose)(jnp.bool_(condition), new, old)) == digest(expected)


def test_training_stops_at_a_number_that_is_not_finite(path, tmp_path):
    from resflax.train import train_and_evaluate

    config = micro.config(path)
    config = dataclasses.replace(config, optim=OptimConfig(learning_rate=1e20))
    with pytest.raises(DataError, match=r"step \d+ is not finite \(loss.*\); lower config.optim.learning_rate"):
        train_and_evaluate(config, str(tmp_path / "run"))
    assert not (tmp_path / "run" / "result.json").exists()


def test_cross_entropy_in_numpy():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 5)).astype(np.float32) * 4, rng.integers(0, 5, 6)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    for smoothing in (0.0, 0.1):
        target = np.eye(5)[labels] * (1 - smoothing) + smoothing / 5
        expected = -(target * np.log(p)).sum(axis=1)
        np.testing.assert_allclose(cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing), expected, rtol=1e-5)


def rates(config, steps=100, steps_per_epoch=10.0):
    schedule = make_schedule(config, steps, steps_per_epoch)
    return np.array([float(schedule(step)) for step in range(steps)])


def with_optim(path, **changes):
    return dataclasses.replace(micro.config(path), optim=OptimConfig(**changes), total_steps=100)


def test_schedules_equal_their_formulas(path):
    t = np.arange(100)
    step = np.where(t < 50, 0.1, np.where(t < 75, 0.01, 0.001))
    np.testing.assert_allclose(rates(with_optim(path, schedule="step")), step, rtol=1e-5)
    for unit, milestones in (("steps", (50.0, 75.0)), ("epochs", (5.0, 7.5))):
        config = with_optim(path, schedule="step", milestones=milestones, milestone_unit=unit)
        np.testing.assert_allclose(rates(config), step, rtol=1e-5)
    cosine = 0.1 * (0.02 + 0.98 * (1 + np.cos(np.pi * t / 100)) / 2)
    np.testing.assert_allclose(rates(with_optim(path, schedule="cosine", final_factor=0.02)), cosine, rtol=1e-5)
    np.testing.assert_allclose(rates(with_optim(path, schedule="linear")), 0.1 * (1 - t / 100), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(rates(with_optim(path)), 0.1)
    ramp = np.minimum(0.2 + 0.8 * t / 20, 1)
    for changes in ({"warmup_steps": 20}, {"warmup_epochs": 2.0}, {"warmup_fraction": 0.2}):
        config = with_optim(path, schedule="step", warmup_factor=0.2, **changes)
        np.testing.assert_allclose(rates(config), step * ramp, rtol=1e-5)
    constant = with_optim(path, schedule="step", warmup_steps=20, warmup="constant", warmup_factor=0.1)
    np.testing.assert_allclose(rates(constant), np.where(t < 20, 0.01, step), rtol=1e-5)
    scaled = with_optim(path, base_batch_size=16)  # the batch is 8
    np.testing.assert_allclose(rates(scaled), 0.05)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", ["coupled", "decoupled"])
@pytest.mark.parametrize("mask", ["all", "kernels"])
def test_sgd_in_numpy(nesterov, decay, mask):
    from resflax.optim.optimizers import make_optimizer, sgd

    dampening = 0.0 if nesterov else 0.3
    tx = make_optimizer(
        sgd(0.9, nesterov, dampening), lambda step: 0.1 / (1 + step), weight_decay=0.05, decay=decay, mask=mask, clip_norm=1.0
    )
    rng = np.random.default_rng(1)
    params = {"conv": {"kernel": rng.normal(size=(2, 3))}, "norm": {"scale": rng.normal(size=3)}}
    ours = jax.tree.map(jnp.asarray, params)
    velocity = jax.tree.map(np.zeros_like, params)
    state = tx.init(ours)
    for step in range(5):
        gradient = jax.tree.map(lambda p: rng.normal(size=p.shape), params)
        updates, state = tx.update(jax.tree.map(jnp.asarray, gradient), state, ours)
        ours = optax.apply_updates(ours, updates)
        norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient)))
        rate = 0.1 / (1 + step)
        for module, name in (("conv", "kernel"), ("norm", "scale")):
            p, g = params[module][name], gradient[module][name] * min(1, 1 / norm)
            wd = 0.05 if mask == "all" or name == "kernel" else 0.0
            if decay == "coupled":
                g = g + wd * p
            g = g * (1 - dampening)
            velocity[module][name] = v = 0.9 * velocity[module][name] + g
            move = g + 0.9 * v if nesterov else v
            if decay == "decoupled":
                move = move + wd * p
            params[module][name] = p - rate * move
    for name, leaf in named_leaves(ours).items():
        np.testing.assert_allclose(leaf, named_leaves(params)[name], rtol=1e-5, atol=1e-6)


def test_decay_masks_go_by_name_in_a_loop_too():
    from resflax.optim.masks import decay_mask

    stacked = {"stage1": {"blocks": {"norm1": {"scale": np.ones((3, 4))}, "conv1": {"kernel": np.ones((3, 3, 3, 4, 4))}}}}
    found = named_leaves(decay_mask(stacked, "kernels"))
    assert found == {"stage1/blocks/norm1/scale": False, "stage1/blocks/conv1/kernel": True}
