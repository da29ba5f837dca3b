"""Lookahead against the algorithm in NumPy and against optax, whose slow weights lie beside the fast ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resflax.optim.lookahead import lookahead
from resflax.tree import named_leaves

SHAPES = {"kernel": (3, 4), "bias": (4,)}


@pytest.fixture(scope="module", autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def leaves(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape) for name, shape in SHAPES.items()}


def trajectory(optimizer, steps):
    """`[(fast, slow)]` after each step."""
    fast = jax.tree.map(jnp.asarray, leaves(0))
    state, found = optimizer.init(fast), []
    update = jax.jit(optimizer.update)
    for step in range(steps):
        updates, state = update(leaves(1 + step), state, fast)
        fast = optax.apply_updates(fast, updates)
        found.append(jax.device_get((fast, state.slow)))
    return found


@pytest.mark.parametrize(("steps", "rate"), [(5, 0.5), (3, 0.8), (1, 0.25)])
def test_ten_steps_in_numpy(steps, rate):
    """Zhang et al. 2019, Algorithm 1, around SGD with momentum, whose velocity goes on."""
    found = trajectory(lookahead(optax.sgd(0.1, momentum=0.9), steps, rate), 10)
    fast, slow = leaves(0), leaves(0)
    velocity = {name: 0.0 for name in SHAPES}
    for step, (found_fast, found_slow) in enumerate(found):
        gradient = leaves(1 + step)
        for name in SHAPES:
            velocity[name] = 0.9 * velocity[name] + gradient[name]
            fast[name] = fast[name] - 0.1 * velocity[name]
            if (step + 1) % steps == 0:
                fast[name] = slow[name] = slow[name] + rate * (fast[name] - slow[name])
            np.testing.assert_allclose(found_fast[name], fast[name], rtol=1e-12, err_msg=name)
            np.testing.assert_allclose(found_slow[name], slow[name], rtol=1e-12, err_msg=name)


def test_ten_steps_are_those_of_optax():
    fast = optax.adam(0.05)
    theirs, params = optax.lookahead(fast, 4, 0.5), optax.LookaheadParams.init_synced(jax.tree.map(jnp.asarray, leaves(0)))
    state = theirs.init(params)
    for step, (found_fast, found_slow) in enumerate(trajectory(lookahead(fast, 4, 0.5), 10)):
        updates, state = theirs.update(leaves(1 + step), state, params)
        params = optax.apply_updates(params, updates)
        for name in SHAPES:
            np.testing.assert_allclose(found_fast[name], params.fast[name], rtol=1e-12)
            np.testing.assert_allclose(found_slow[name], params.slow[name], rtol=1e-12)


def test_after_a_step_of_the_slow_weights_both_are_the_same_to_the_bit():
    with jax.enable_x64(False):
        for step, (fast, slow) in enumerate(trajectory(lookahead(optax.sgd(0.1), 3, 0.3), 9)):
            same = {name: np.array_equal(leaf, slow[name]) for name, leaf in named_leaves(fast).items()}
            assert same == dict.fromkeys(SHAPES, (step + 1) % 3 == 0)
