"""Averages along a run equal the mean, or the recursion, of the networks written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath
from flax import linen as nn

from resflax.build import make_schedule
from resflax.build.parts import make_average
from resflax.config import BatchNormConfig, Config, EmaConfig, OptimConfig, SwaConfig
from resflax.optim.lookahead import lookahead
from resflax.training.averaging import average, exponential, uniform
from resflax.training.checkpoints import Checkpoints, open_checkpoint
from resflax.training.losses import cross_entropy
from resflax.training.state import init_state, snapshot
from resflax.training.steps import make_train_step
from resflax.tree import digest, named_leaves


class Network(nn.Module):
    """The smallest with statistics."""

    @nn.compact
    def __call__(self, images, train):
        x = nn.Dense(6, name="hidden")(images)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.8, name="norm")(x)
        return nn.Dense(3, name="head")(nn.relu(x))


def materialise(batch, resident):
    return {**batch, "mask": jnp.ones(batch["label"].shape, bool)}


def host_batch(step):
    rng = np.random.default_rng(step)
    images = rng.normal(size=(8, 4)).astype(np.float32)
    return {"id": np.arange(8), "image": images, "label": (images[:, 0] > 0).astype(np.int32)}


def states(optimizer, steps, ema=False, **parts):
    """The state before the first step and after each, and what the steps reported."""
    model = Network()
    variables = model.init(jax.random.key(0), jnp.zeros((1, 4)), train=False)
    state = init_state(variables, optimizer, ema)
    step = jax.jit(make_train_step(model, optimizer, cross_entropy, materialise, **parts))
    found, reports = [state], []
    for index in range(steps):
        state, report = step(state, host_batch(index), {"seed": jnp.uint32(0)})
        found.append(state)
        reports.append(report)
    return found, reports


def assert_equal(found, expected, **tolerance):
    found, expected = named_leaves(found), named_leaves(expected)
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_allclose(found[name], leaf, err_msg=name, **tolerance)


def mean(trees):
    return jax.tree.map(lambda *leaves: np.mean([np.asarray(leaf, np.float64) for leaf in leaves], axis=0), *trees)


@pytest.mark.parametrize(("start", "every"), [(4, 3), (0, 1), (5, 5)])
def test_the_uniform_average_is_the_mean_of_the_networks_it_names(start, every):
    found, _ = states(optax.sgd(0.1, momentum=0.9), 14, ema=True, keep=uniform(start, every))
    values = [(state.params, state.batch_stats) for state in found]
    for count, state in enumerate(found):
        now = (state.ema.params, state.ema.batch_stats)
        if count <= start:
            assert digest(now) == digest(values[count])
        else:
            assert_equal(now, mean(values[start : count + 1 : every]), rtol=1e-5, atol=1e-6)
        assert state.variables()["params"] is state.ema.params


def test_the_exponential_average_in_numpy():
    found, _ = states(optax.sgd(0.1), 6, ema=True, keep=exponential(0.7))
    expected = jax.device_get(found[0].params)
    for state in found[1:]:
        expected = jax.tree.map(lambda old, new: 0.7 * old + 0.3 * np.asarray(new), expected, state.params)
        assert_equal(state.ema.params, expected, rtol=1e-5, atol=1e-6)


def test_what_does_not_change_keeps_its_bits_in_any_average():
    value = jnp.float32(1 / 3)
    assert all(float(average(share, value, value)) == float(value) for share in (0.1, 0.9, 6 / 7))


def test_a_step_that_is_left_out_does_not_count_for_the_average():
    """The mean of 2, 4, 6, ... updates, whichever batches they were of."""
    model, optimizer = Network(), optax.sgd(0.1)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 4)), train=False)
    step = jax.jit(make_train_step(model, optimizer, cross_entropy, materialise, keep=uniform(2, 2)))
    ends = []
    for broken in (False, True):
        state = init_state(variables, optimizer, ema=True)
        for index in range(7):
            if broken and index == 3:
                bad = host_batch(index) | {"image": np.full((8, 4), np.nan, np.float32)}
                state, report = step(state, bad, {"seed": jnp.uint32(0)})
                assert not report.finite
            state, _ = step(state, host_batch(index), {"seed": jnp.uint32(0)})
        ends.append(digest(state))
    assert ends[0] == ends[1]


def test_slow_weights_are_evaluated_and_averages_before_them():
    optimizer = lookahead(optax.sgd(0.1), 4, 0.5)
    found, _ = states(optimizer, 6)
    assert found[-1].variables()["params"] is found[-1].opt_state.slow
    assert found[-1].variables()["batch_stats"] is found[-1].batch_stats
    assert digest(found[-1].opt_state.slow) == digest(found[4].params) != digest(found[-1].params)
    both, _ = states(optimizer, 2, ema=True, keep=exponential(0.5))
    assert both[-1].variables()["params"] is both[-1].ema.params


def config(**swa):
    return Config(
        total_steps=100,
        batch_norm=BatchNormConfig(reestimate=True),
        optim=OptimConfig(learning_rate=1.0, base_batch_size=64, schedule="cosine"),  # the batch is 128: all rates are doubled
        swa=SwaConfig(**swa),
    )


def test_start_and_distance_follow_from_the_configuration():
    shares = {
        "epochs": make_average(config(start=0.75, every_epochs=0.5), 100, 10.0),
        "steps": make_average(config(start=0.75, every_steps=5), 100, 10.0),
        "written out": uniform(75, 5),
    }
    found = {name: [float(keep(jnp.int32(count))) for count in range(1, 101)] for name, keep in shares.items()}
    assert found["epochs"] == found["steps"] == found["written out"]
    assert found["steps"][73:81] == pytest.approx([0, 0, 1, 1, 1, 1, 1 / 2, 1])
    assert make_average(Config(), 100, 10.0) is None
    assert make_average(Config(ema=EmaConfig(0.9)), 100, 10.0)(jnp.int32(3)) == 0.9


def test_rates_of_the_averaged_part():
    """Izmailov et al. 2018, Sec. 3.1: `(1 - t) a1 + t a2` with `t = (mod(i - 1, c) + 1) / c`."""
    cosine = [1.0 * (1 + np.cos(np.pi * step / 100)) for step in range(80)]
    constant = make_schedule(config(start=0.8, learning_rate=0.05), 100, 10.0)
    cyclic = make_schedule(config(start=0.8, every_steps=4, learning_rate=0.05, final_learning_rate=0.01), 100, 10.0)
    t = np.tile([1 / 4, 2 / 4, 3 / 4, 1], 5)
    for schedule, after in ((constant, np.full(20, 0.1)), (cyclic, 2 * ((1 - t) * 0.05 + t * 0.01))):
        np.testing.assert_allclose([float(schedule(step)) for step in range(100)], [*cosine, *after], rtol=1e-5, atol=1e-6)
    going_on = make_schedule(config(start=0.8), 100, 10.0)
    assert float(going_on(90)) == pytest.approx(1 + np.cos(np.pi * 0.9), rel=1e-4)


def test_a_polynomial_schedule_is_its_formula():
    optim = OptimConfig(learning_rate=0.3, schedule="polynomial", power=2.0, final_factor=0.1, warmup_steps=4)
    found = [float(make_schedule(Config(total_steps=20, optim=optim), 20, 8.0)(step)) for step in range(20)]
    steps = np.arange(20)
    expected = 0.3 * (0.9 * (1 - steps / 20) ** 2 + 0.1) * np.minimum(steps / 4, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)


def test_a_piecewise_schedule_is_numpys_interpolation():
    optim = OptimConfig(
        learning_rate=0.1, schedule="piecewise", milestones=(0.25, 0.5, 1.0), milestone_factors=(1.0, 0.2, 0.0), warmup_steps=10
    )
    found = [float(make_schedule(Config(total_steps=80, optim=optim), 80, 8.0)(step)) for step in range(80)]
    steps = np.arange(80)
    expected = 0.1 * np.interp(steps, (20, 40, 80), (1.0, 0.2, 0.0)) * np.minimum(steps / 10, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)


def sharpness_aware(rho, steps):
    return states(optax.sgd(0.1, momentum=0.9), steps, sharpness=rho)


def test_ten_steps_of_sharpness_aware_minimisation_are_those_of_optax():
    """`optax.contrib.sam` in its opaque mode, for the network's loss without its statistics."""
    found, reports = sharpness_aware(0.3, 10)
    model = Network()

    def loss(params, index, batch_stats):
        batch = host_batch(index)
        variables = {"params": params, "batch_stats": batch_stats}
        logits, changed = model.apply(variables, batch["image"], train=True, mutable=["batch_stats"])
        return cross_entropy(logits, batch["label"]).mean(), changed["batch_stats"]

    optimizer = optax.contrib.sam(
        optax.sgd(0.1, momentum=0.9), optax.chain(optax.contrib.normalize(), optax.sgd(0.3)), opaque_mode=True
    )
    params, batch_stats = found[0].params, found[0].batch_stats
    state = optimizer.init(params)
    for index in range(10):
        (value, statistics), gradient = jax.value_and_grad(loss, has_aux=True)(params, index, batch_stats)

        def at(params, _, index=index, batch_stats=batch_stats):
            return jax.grad(loss, has_aux=True)(params, index, batch_stats)[0]

        updates, state = optimizer.update(gradient, state, params, grad_fn=at)
        params, batch_stats = optax.apply_updates(params, updates), statistics
        assert float(reports[index].loss) == pytest.approx(float(value), rel=1e-4)  # at the weights themselves
        assert_equal((found[index + 1].params, found[index + 1].batch_stats), (params, batch_stats), rtol=1e-3, atol=1e-5)
    plain, _ = states(optax.sgd(0.1, momentum=0.9), 10)
    assert not np.allclose(plain[-1].params["head"]["kernel"], params["head"]["kernel"], atol=1e-3)


def test_without_a_slope_there_is_no_perturbation():
    """Where the gradient is zero its direction is none, and no number becomes NaN."""
    model, optimizer = Network(), optax.sgd(0.1)
    state = init_state(model.init(jax.random.key(0), jnp.zeros((1, 4)), train=False), optimizer, ema=False)
    step = make_train_step(model, optimizer, lambda logits, labels: 0 * logits[:, 0], materialise, sharpness=0.1)
    after, report = jax.jit(step)(state, host_batch(0), {"seed": jnp.uint32(0)})
    assert report.finite
    assert digest(after.params) == digest(state.params)


@pytest.mark.parametrize("where", ["first", "second"])
def test_a_pass_that_is_not_finite_changes_nothing(where):
    """The loss is infinite from a certain distance from the first weights on, or everywhere; its gradient is finite."""
    model, optimizer = Network(), optax.sgd(0.1)
    state = init_state(model.init(jax.random.key(0), jnp.zeros((1, 4)), train=False), optimizer, ema=False)
    here, _ = model.apply(state.variables(), host_batch(0)["image"], train=True, mutable=["batch_stats"])

    def loss(logits, labels):
        away = jnp.max(jnp.abs(jax.lax.stop_gradient(logits) - here)) > 1e-3
        return cross_entropy(logits, labels) + jnp.where(away == (where == "second"), jnp.inf, 0.0)

    step = jax.jit(make_train_step(model, optimizer, loss, materialise, sharpness=0.5))
    after, report = step(state, host_batch(0), {"seed": jnp.uint32(0)})
    assert report.checks.tolist() == [False, *[True] * 5]
    assert digest(after) == digest(state)


def test_a_state_that_was_saved_goes_on_as_if_it_had_not_been(tmp_path):
    """Slow weights, the mean and all, on a donated state; with a perturbation, which keeps nothing."""
    model = Network()
    optimizer = lookahead(optax.sgd(0.1, momentum=0.9), 4, 0.5)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 4)), train=False)
    train_step = make_train_step(model, optimizer, cross_entropy, materialise, keep=uniform(3, 2), sharpness=0.1)
    step = jax.jit(train_step, donate_argnums=0)
    resident = {"seed": jnp.uint32(0)}

    def go_on(state, start, stop, checkpoints=None):
        ends = []
        for index in range(start, stop):
            state, _ = step(state, host_batch(index), resident)
            ends.append(digest(state))
            if checkpoints is not None and index + 1 in (2, 5):
                checkpoints.save(index + 1, state, {}, {})
        return ends

    unbroken = go_on(snapshot(init_state(variables, optimizer, ema=True)), 0, 9)
    with Checkpoints(epath.Path(tmp_path / "checkpoints"), keep_last=2) as checkpoints:
        assert go_on(snapshot(init_state(variables, optimizer, ema=True)), 0, 6, checkpoints) == unbroken[:6]
    everywhere = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.eval_shape(lambda: init_state(variables, optimizer, ema=True))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), shapes)
    for saved in (2, 5):
        state = open_checkpoint(epath.Path(tmp_path / "checkpoints") / str(saved)).restore(shapes)
        assert go_on(state, saved, 9) == unbroken[saved:]
