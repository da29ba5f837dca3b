"""The closed-form gradient of batch normalisation against the one that JAX derives, and against NumPy in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflax.nn import BatchNorm
from resflax.nn.normalise import normalise, statistics
from resflax.tree import named_leaves

SHAPES = [(2, 3, 4, 5, 6), (1, 8, 3, 3, 2), (3, 4, 7), (4, 1, 1, 1, 3)]


def example(shape, dtype, mean=0.0, seed=0):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(mean, 1, shape), dtype)
    parameters = (jnp.asarray(rng.uniform(0.5, 1.5, shape[-1]), dtype) for _ in range(2))
    return x, *parameters


def relative(found, expected):
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)])
def test_outputs_statistics_and_gradients_are_those_of_autodiff(shape, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        arguments = example(shape, dtype)
        weights = jnp.asarray(np.random.default_rng(1).normal(size=shape), dtype)

        def loss(gradient, *arguments):
            y, mean, var = normalise(*arguments, 1e-3, gradient)
            return jnp.sum(weights * jnp.sin(y)), (y, mean, var)

        found, expected = (
            jax.jit(jax.grad(functools.partial(loss, gradient), argnums=(0, 1, 2), has_aux=True))(*arguments)
            for gradient in ("closed_form", "autodiff")
        )
        for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
            assert relative(ours, theirs) < tolerance


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mean", [100.0, -4000.0])
def test_a_mean_far_from_zero_costs_no_accuracy(dtype, mean):
    x, scale, bias = example((2, 16, 8, 8, 3), dtype, mean)
    scale, bias = scale.astype(jnp.float32), bias.astype(jnp.float32)
    exact = np.asarray(x, np.float64)  # what the input says after it was rounded
    expected_mean, expected_var = exact.mean((1, 2, 3)), exact.var((1, 2, 3))
    found_mean, found_var = statistics(x)
    assert found_mean.dtype == found_var.dtype == jnp.float32
    assert relative(found_mean[:, 0, 0, 0], expected_mean) < 1e-6
    assert relative(found_var[:, 0, 0, 0], expected_var) < 1e-5
    y, _, _ = normalise(x, scale, bias, 1e-5, "closed_form")
    centred = exact - expected_mean[:, None, None, None]
    expected = centred / np.sqrt(expected_var + 1e-5)[:, None, None, None] * np.asarray(scale) + np.asarray(bias)
    assert np.abs(y - expected).max() < 1e-4 * max(1, abs(mean) / 100)


def test_one_unlike_pixel_costs_no_accuracy():
    # The pixel in the middle is what sums are taken relative to.
    x = np.random.default_rng(0).normal(size=(1, 16, 9, 9, 2)).astype(np.float32)
    x[:, :, 4, 4] += 12
    found = statistics(jnp.asarray(x))
    for ours, theirs in zip(found, (x.astype(np.float64).mean((1, 2, 3)), x.astype(np.float64).var((1, 2, 3))), strict=True):
        assert relative(ours[:, 0, 0, 0], theirs) < 1e-5


def test_gradients_of_bfloat16_are_those_of_float32_rounded():
    x, scale, bias = example((2, 8, 4, 4, 8), "bfloat16", 10.0)
    scale, bias = scale.astype(jnp.float32), bias.astype(jnp.float32)
    weights = jnp.asarray(np.random.default_rng(2).normal(size=x.shape), jnp.float32)

    def loss(gradient, x, scale, bias):
        return jnp.sum(weights * normalise(x, scale, bias, 1e-5, gradient)[0] ** 2)

    found = jax.grad(functools.partial(loss, "closed_form"), argnums=(0, 1, 2))(x, scale, bias)
    expected = jax.grad(functools.partial(loss, "autodiff"), argnums=(0, 1, 2))(x.astype(jnp.float32), scale, bias)
    assert [leaf.dtype for leaf in found] == [jnp.bfloat16, jnp.float32, jnp.float32]
    assert relative(found[0], expected[0]) < 2**-8
    assert max(relative(*pair) for pair in zip(found[1:], expected[1:], strict=True)) < 1e-5


def test_only_the_input_is_kept_for_the_gradient():
    """Autodiff keeps float32 values as large as the layer; the closed form keeps the bfloat16 input and what has no pixels."""
    x, scale, bias = example((2, 8, 4, 4, 8), "bfloat16")

    def kept(gradient):
        _, pull = jax.vjp(lambda *arguments: normalise(*arguments, 1e-5, gradient)[0], x, scale, bias)
        return sorted(str(leaf.dtype) for leaf in jax.tree.leaves(pull) if leaf.shape == x.shape)

    assert kept("closed_form") == ["bfloat16"]
    assert "float32" in kept("autodiff")


def test_statistics_carry_their_gradients():
    x, scale, bias = example((2, 4, 2, 2, 3), "float32")
    weights = jnp.asarray(np.random.default_rng(4).normal(size=(2, 2, 3)), jnp.float32)

    def loss(gradient, x):
        _, mean, var = normalise(x, scale, bias, 1e-5, gradient)
        return jnp.sum(weights[0] * mean[:, 0, 0, 0] + weights[1] * var[:, 0, 0, 0] ** 2)

    found, expected = (jax.grad(functools.partial(loss, gradient))(x) for gradient in ("closed_form", "autodiff"))
    assert relative(found, expected) < 1e-5


@pytest.mark.parametrize("group", [None, 4])
@pytest.mark.parametrize("running_variance", ["biased", "unbiased"])
def test_the_layer_is_the_same_layer(group, running_variance):
    x = jax.random.normal(jax.random.key(0), (8, 3, 3, 2)) * 3 + 5
    results = []
    for gradient in ("autodiff", "closed_form"):
        layer = BatchNorm(use_running_average=False, group_size=group, running_variance=running_variance, gradient=gradient)
        variables = layer.init(jax.random.key(1), x)

        def loss(params, x, layer=layer, variables=variables):
            y, updates = layer.apply({**variables, "params": params}, x, mutable=["batch_stats"])
            return jnp.sum(jnp.cos(y)), (y, updates)

        results.append(jax.grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], x))
    for name, leaf in named_leaves(results[1]).items():
        assert relative(leaf, named_leaves(results[0])[name]) < 1e-5, name


@pytest.mark.parametrize("x", [jnp.full((4, 3, 3, 2), 5.0), jnp.ones((1, 1, 1, 2)), jnp.full((2, 2, 2, 1), 1e6) + 0.25])
def test_degenerate_input_stays_finite_forward_and_backward(x):
    layer = BatchNorm(use_running_average=False, gradient="closed_form", running_variance="unbiased")
    variables = layer.init(jax.random.key(0), x)

    def loss(x):
        y, updates = layer.apply(variables, x, mutable=["batch_stats"])
        return jnp.sum(y**2), (y, updates)

    for leaf in jax.tree.leaves(jax.grad(loss, has_aux=True)(x)):
        assert bool(jnp.all(jnp.isfinite(leaf)))
