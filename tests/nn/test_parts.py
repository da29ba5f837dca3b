"""The smaller parts against NumPy, from their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflax import nn as layers
from resflax.nn import stem as stems

RNG = np.random.default_rng(0)


def test_group_norm():
    x = RNG.normal(2.0, 3.0, (3, 5, 4, 12)).astype(np.float32)
    scale, bias = RNG.normal(size=(2, 12)).astype(np.float32)
    layer = layers.GroupNorm(groups=4, epsilon=1e-3)
    ours = layer.apply({"params": {"scale": scale, "bias": bias}}, x)
    expected = np.empty_like(x)
    for image in range(3):
        for group in range(4):
            part = x[image, :, :, 3 * group : 3 * group + 3]
            expected[image, :, :, 3 * group : 3 * group + 3] = (part - part.mean()) / np.sqrt(part.var() + 1e-3)
    np.testing.assert_allclose(ours, expected * scale + bias, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="multiple of the groups, got 12 and 5"):
        layers.GroupNorm(groups=5).init(jax.random.key(0), x)


def test_standardised_convolution():
    x = RNG.normal(size=(2, 6, 6, 4)).astype(np.float32)
    kernel = RNG.normal(1.0, 2.0, (3, 3, 2, 6)).astype(np.float32)
    standardised = np.stack([(one - one.mean()) / np.sqrt(one.var() + 1e-8) for one in np.moveaxis(kernel, -1, 0)], axis=-1)
    ours = layers.StandardizedConv(6, 3, groups=2).apply({"params": {"kernel": kernel}}, x)
    plain = layers.Conv(6, 3, groups=2).apply({"params": {"kernel": standardised}}, x)
    np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels", "reduced"), [(64, 8), (128, 8), (256, 16), (200, 16), (2048, 128)])
def test_squeeze_excite(channels, reduced):
    """timm's rule for the width: C / 16 to the nearest multiple of 8, at least 8."""
    x = RNG.normal(size=(2, 3, 5, channels)).astype(np.float32)
    params = layers.SqueezeExcite().init(jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    assert params["reduce"]["kernel"].shape == (channels, reduced)
    hidden = np.maximum(x.mean((1, 2)) @ params["reduce"]["kernel"] + params["reduce"]["bias"], 0)
    gate = 1 / (1 + np.exp(-(hidden @ params["expand"]["kernel"] + params["expand"]["bias"])))
    np.testing.assert_allclose(
        layers.SqueezeExcite().apply({"params": params}, x), x * gate[:, None, None], rtol=1e-4, atol=1e-5
    )


def test_dropout_and_stochastic_depth():
    x = jnp.ones((2000, 2, 2, 3))
    dropped = layers.dropout(jax.random.key(0), x, 0.3)
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1) / np.float32(0.7)}
    assert float(jnp.mean(dropped == 0)) == pytest.approx(0.3, abs=0.02)
    omitted = layers.stochastic_depth(jax.random.key(0), x, 0.3)
    whole = np.asarray(omitted).reshape(2000, -1)
    assert np.all(whole == whole[:, :1])  # an image goes as a whole
    assert np.mean(whole[:, 0] == 0) == pytest.approx(0.3, abs=0.05)
    for function in (layers.dropout, layers.stochastic_depth):
        assert function(None, x, 0.3) is x
        np.testing.assert_array_equal(function(jax.random.key(0), x, 0.0), x)


def test_linear_rates():
    assert layers.linear_rates(0.5, 3) == (0.0, 0.25, 0.5)
    assert layers.linear_rates(0.5, 1) == (0.0,)


@pytest.mark.parametrize("side", [14, 7, 10, 5])
def test_adaptive_average_pool(side):
    x = RNG.normal(size=(2, side, 9, 3)).astype(np.float32)
    expected = np.empty((2, 7, 7, 3), np.float32)
    for i in range(7):
        for j in range(7):
            rows = slice(i * side // 7, -(-(i + 1) * side // 7))
            columns = slice(j * 9 // 7, -(-(j + 1) * 9 // 7))
            expected[:, i, j] = x[:, rows, columns].mean((1, 2))
    np.testing.assert_allclose(layers.adaptive_average_pool(x, 7), expected, rtol=1e-5, atol=1e-6)


def test_pooled_shortcut_averages_the_pixels_there_are():
    x = RNG.normal(size=(1, 5, 4, 2)).astype(np.float32)
    conv = layers.Conv
    identity = np.eye(2, dtype=np.float32)[None, None]
    shortcut = layers.PooledShortcut(2, 2, conv, lambda name: lambda y: y)
    ours = np.asarray(shortcut.apply({"params": {"conv": {"kernel": identity}}}, x))
    assert ours.shape == (1, 3, 2, 2)
    np.testing.assert_allclose(ours[0, 0, 0], x[0, :2, :2].mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(ours[0, 2, 1], x[0, 4:, 2:].mean((0, 1)), rtol=1e-5)  # one row is left


def test_the_zero_padded_pool_sees_zeros():
    def conv(*_, **__):
        return lambda x: -jnp.ones((1, 4, 4, 1))

    norm = lambda name: lambda y: y  # noqa: E731
    assert float(stems.large_linear_stem(jnp.ones(()), conv, norm).max()) == -1.0
    pooled = np.asarray(stems.zero_padded_linear_stem(jnp.ones(()), conv, norm))[0, :, :, 0]
    np.testing.assert_array_equal(pooled, [[0, 0], [0, -1]])
