"""Batch normalisation of what has no spread, too much, or nothing to take statistics over stays finite, both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflax.nn.batch_norm import BatchNorm

NOISE = np.random.default_rng(0).normal(size=(8, 4, 4, 3)).astype(np.float32)
CASES = {
    "constant": np.full((8, 4, 4, 3), 5.0, np.float32),
    "zero": np.zeros((8, 4, 4, 3), np.float32),
    "huge offset": NOISE + np.float32(1e7),
    "huge": NOISE * np.float32(1e17),  # its square is near float32's largest number
    "tiny": NOISE * np.float32(1e-30),  # its square is 0 in float32
    "one pixel": NOISE[:, :1, :1],
    "batch of one": NOISE[:1],
    "one number": NOISE[:1, :1, :1],
    "one channel constant": NOISE * np.array([1, 0, 1], np.float32) + np.array([0, 3, 0], np.float32),
    "constant in bfloat16": np.full((8, 4, 4, 3), 3.0, jnp.bfloat16),
}
NO_SPREAD = ("constant", "zero", "tiny", "one number", "constant in bfloat16")


@pytest.mark.parametrize("group", [None, 1])
@pytest.mark.parametrize("gradient", ["autodiff", "closed_form"])
@pytest.mark.parametrize("case", CASES)
def test_values_gradients_and_statistics_are_finite(case, gradient, group):
    x = jnp.asarray(CASES[case])
    layer = BatchNorm(use_running_average=False, group_size=group, running_variance="unbiased", gradient=gradient)
    variables = layer.init(jax.random.key(0), x)
    params = {"scale": jnp.array([1.0, -2.0, 0.5]), "bias": jnp.array([0.25, 0.0, -1.0])}
    weights = jnp.asarray(np.random.default_rng(1).normal(size=x.shape), jnp.float32)

    def loss(params, x):
        y, changed = layer.apply({**variables, "params": params}, x, mutable=["batch_stats"])
        return jnp.sum(weights * y), (y, changed["batch_stats"])

    gradients, (y, statistics) = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, x)
    for leaf in jax.tree.leaves((gradients, y, statistics)):
        assert bool(jnp.isfinite(leaf).all())
    exact = CASES[case].astype(np.float64).reshape(-1, 3)
    np.testing.assert_allclose(statistics["mean"], 0.1 * exact.mean(0), rtol=1e-3, atol=1e-7)
    if case in NO_SPREAD:
        np.testing.assert_allclose(y, np.broadcast_to(params["bias"], y.shape), atol=1e-6)
        np.testing.assert_allclose(statistics["var"], 0.9, atol=1e-6)
    else:
        assert (statistics["var"] > 0).all()


@pytest.mark.parametrize("case", CASES)
def test_what_was_gathered_serves_an_evaluation(case):
    x = jnp.asarray(CASES[case])
    layer = BatchNorm(use_running_average=False)
    variables = layer.init(jax.random.key(0), x)
    _, changed = layer.apply(variables, x, mutable=["batch_stats"])
    y = BatchNorm(use_running_average=True).apply({**variables, **changed}, x)
    assert bool(jnp.isfinite(y).all())
