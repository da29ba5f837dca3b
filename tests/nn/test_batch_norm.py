import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflax.nn import BatchNorm


def normalise(x, **options):
    layer = BatchNorm(use_running_average=False, **options)
    variables = layer.init(jax.random.key(0), x)
    return layer.apply(variables, x, mutable=["batch_stats"])


def test_a_group_sees_nothing_of_the_others():
    x = jax.random.normal(jax.random.key(0), (8, 3, 3, 2))
    whole, _ = normalise(x, group_size=4)
    for start in (0, 4):
        alone, _ = normalise(x[start : start + 4])
        np.testing.assert_allclose(whole[start : start + 4], alone, atol=1e-6)


def test_running_statistics_are_means_over_groups():
    x = jax.random.normal(jax.random.key(1), (8, 3, 3, 2)) * 3 + 1
    _, together = normalise(x, group_size=4, momentum=0.9)
    parts = [normalise(x[start : start + 4], momentum=0.9)[1]["batch_stats"] for start in (0, 4)]
    for name in ("mean", "var"):
        mean = (parts[0][name] + parts[1][name]) / 2
        np.testing.assert_allclose(together["batch_stats"][name], mean, atol=1e-6)


@pytest.mark.parametrize("x", [jnp.full((4, 3, 3, 2), 5.0), jnp.ones((1, 1, 1, 2)), jnp.full((2, 2, 2, 1), 1e6) + 0.25])
def test_degenerate_input_stays_finite_forward_and_backward(x):
    layer = BatchNorm(use_running_average=False, running_variance="unbiased")
    variables = layer.init(jax.random.key(0), x)

    def loss(x):
        y, updates = layer.apply(variables, x, mutable=["batch_stats"])
        return jnp.sum(y**2), (y, updates)

    gradient, (y, updates) = jax.grad(loss, has_aux=True)(x)
    for leaf in jax.tree.leaves((gradient, y, updates)):
        assert bool(jnp.all(jnp.isfinite(leaf)))


def test_a_large_offset_costs_no_accuracy():
    # E[x^2] - E[x]^2 in float32 would lose every digit here.
    x = jax.random.normal(jax.random.key(2), (64, 4, 4, 1))
    plain, _ = normalise(x)
    shifted, _ = normalise(x + 4096)
    np.testing.assert_allclose(plain, shifted, atol=2e-3)


def test_statistics_of_bfloat16_are_float32():
    x = (jax.random.normal(jax.random.key(3), (32, 8, 8, 4)) + 10).astype(jnp.bfloat16)
    y, updates = normalise(x)
    assert y.dtype == jnp.bfloat16
    assert updates["batch_stats"]["mean"].dtype == jnp.float32
    expected = 0.1 * np.asarray(x, np.float32).mean((0, 1, 2))
    np.testing.assert_allclose(updates["batch_stats"]["mean"], expected, rtol=1e-5)


def test_a_batch_that_is_no_multiple_of_the_group_is_refused():
    layer = BatchNorm(use_running_average=False, group_size=4)
    variables = layer.init(jax.random.key(0), jnp.zeros((4, 2, 2, 1)))
    with pytest.raises(ValueError, match="multiple of group_size, got 6 and 4"):
        layer.apply(variables, jnp.zeros((6, 2, 2, 1)), mutable=["batch_stats"])


def test_inference_does_not_depend_on_the_rest_of_the_batch():
    layer = BatchNorm(use_running_average=True)
    x = jax.random.normal(jax.random.key(4), (4, 2, 2, 3))
    variables = layer.init(jax.random.key(0), x)
    noisy = x.at[1:].set(1e3)
    np.testing.assert_array_equal(layer.apply(variables, x)[0], layer.apply(variables, noisy)[0])


def test_without_a_scale_it_is_one():
    x = jax.random.normal(jax.random.key(0), (8, 4, 4, 3))
    plain, scaled = (BatchNorm(use_running_average=False, use_scale=use) for use in (False, True))
    variables = plain.init(jax.random.key(1), x)
    assert variables["params"].keys() == {"bias"}
    expected = scaled.apply(scaled.init(jax.random.key(1), x), x, mutable=["batch_stats"])[0]
    np.testing.assert_array_equal(plain.apply(variables, x, mutable=["batch_stats"])[0], expected)
