"""Keys and rates depend on the number of the update alone: the same whatever came before, and after any restart."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resflax.build.parts import make_optimizer, make_schedule
from resflax.config import Config, DataConfig, OptimConfig
from resflax.training.state import TrainState
from resflax.training.steps import make_train_step

STEPS, STEPS_PER_EPOCH, PROBES = 200, 20.0, (0, 1, 15, 16, 59, 60, 100, 149, 150, 199)
# Worked out in double precision from the formulas of the papers, without this package.
RATES = [
    (
        OptimConfig(learning_rate=0.1, schedule="step"),
        (0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001),
    ),
    (
        OptimConfig(learning_rate=0.4, schedule="cosine", final_factor=0.05),
        (0.4, 0.39997656, 0.39475028, 0.3940308, 0.32407984, 0.3216792, 0.21, 0.077776569, 0.075649712, 0.02002344),
    ),
    (
        OptimConfig(learning_rate=0.2, schedule="linear", final_factor=0.1),
        (0.2, 0.1991, 0.1865, 0.1856, 0.1469, 0.146, 0.11, 0.0659, 0.065, 0.0209),
    ),
    (
        OptimConfig(
            learning_rate=0.8, schedule="step", milestones=(3.0, 6.0), milestone_unit="epochs", step_factor=0.5,
            warmup_epochs=2.0, warmup_factor=0.25,
        ),
        (0.2, 0.215, 0.425, 0.44, 0.8, 0.4, 0.4, 0.2, 0.2, 0.2),
    ),
    (
        OptimConfig(learning_rate=0.1, warmup_steps=16, warmup="constant", warmup_factor=0.1),
        (0.01, 0.01, 0.01, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1),
    ),
    (
        OptimConfig(learning_rate=0.1, base_batch_size=4, schedule="cosine", warmup_fraction=0.1),
        (0.0, 0.15999013, 2.3668439, 2.5197864, 2.5606724, 2.5404564, 1.6, 0.48653953, 0.46862915, 0.00019738803),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("optim", "expected"), RATES, ids=range(len(RATES)))
def test_the_rate_of_an_update_is_the_schedule_at_its_number(optim, expected):
    """As it is applied, from the optimizer's own count, in one go and from a state that was put down at every probe."""
    config = Config(data=DataConfig(batch_size=128), optim=dataclasses.replace(optim, momentum=0.0))
    optimizer = make_optimizer(config, make_schedule(config, STEPS, STEPS_PER_EPOCH))
    one = {"kernel": jnp.ones(())}

    def applied(state, start, stop):
        def advance(state, _):
            updates, state = optimizer.update(one, state, one)
            return state, -updates["kernel"]

        return jax.lax.scan(advance, state, None, length=stop - start)

    state, rates = jax.jit(applied, static_argnums=(1, 2))(optimizer.init(one), 0, STEPS)
    np.testing.assert_allclose([float(rates[step]) for step in PROBES], expected, rtol=1e-5, atol=3e-7)  # 1 + cos in float32
    state, position, resumed = optimizer.init(one), 0, []
    for stop in (*PROBES[1:], STEPS):
        state, part = applied(jax.tree.map(lambda leaf: jnp.array(np.asarray(leaf)), state), position, stop)
        position, resumed = stop, [*resumed, *part]
    np.testing.assert_array_equal(resumed, rates)


class TellsKeys:
    """A network whose batch statistics are the dropout key it was called with."""

    def apply(self, variables, images, train, mutable, rngs):
        logits = images @ variables["params"]["kernel"]
        return logits, {"batch_stats": {"key": jax.random.key_data(rngs["dropout"])}}


@pytest.fixture(scope="module")
def advance():
    """`advance(state, batches) -> [key]`: one step a batch, [[]] of images; a NaN in it fails the step."""
    optimizer = optax.sgd(0.1)

    def losses(logits, labels):
        return jnp.sum(logits, axis=-1)

    step = jax.jit(make_train_step(TellsKeys(), optimizer, losses, lambda batch, resident: batch))
    resident = {"seed": jnp.uint32(7)}

    def keys(state, images):
        found = []
        for value in images:
            batch = {
                "image": jnp.full((2, 3), value),
                "label": jnp.zeros(2, int),
                "mask": jnp.ones(2, bool),
                "id": jnp.arange(2),
            }
            state, _ = step(state, batch, resident)
            found.append(np.asarray(state.batch_stats["key"]).tolist())
        return state, found

    params = {"kernel": jnp.ones((3, 4))}
    start = TrainState(jnp.int32(0), params, {"key": jnp.zeros(2, jnp.uint32)}, optimizer.init(params), None)
    return start, keys


def expected_keys(count):
    """fold_in(fold_in(key(seed), 2), update): the dropout stream is number 2, in every version."""
    base = jax.random.fold_in(jax.random.key(7), 2)
    return [np.asarray(jax.random.key_data(jax.random.fold_in(base, update))).tolist() for update in range(count)]


def test_the_dropout_key_of_an_update_is_its_number_folded_in(advance):
    start, keys = advance
    _, found = keys(start, [1.0] * 30)
    assert found == expected_keys(30)
    assert len({tuple(key) for key in found}) == 30
    state = start
    for begin, end in ((0, 1), (1, 7), (7, 29), (29, 30)):
        state, part = keys(jax.tree.map(lambda leaf: jnp.array(np.asarray(leaf)), state), [1.0] * (end - begin))
        assert part == expected_keys(30)[begin:end]


def test_a_step_that_was_left_out_takes_no_key(advance):
    start, keys = advance
    _, found = keys(start, [1.0, 1.0, np.nan, np.nan, 1.0, 1.0])
    first, second, third, fourth = expected_keys(4)
    assert found == [first, second, second, second, third, fourth]
