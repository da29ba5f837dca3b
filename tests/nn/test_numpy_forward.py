"""The layers against plain NumPy, written from their definitions and summed in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflax.nn import BatchNorm, Conv, Head, average_pool, convolution, global_average_pool, max_pool


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def draw(seed, dtype, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def assert_equal(found, expected, dtype):
    assert found.dtype == dtype
    tolerance = {"float32": 1e-6, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def numpy_convolution(x, kernel, stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), groups=1):
    height, width, depth, features = kernel.shape
    x = np.pad(x.astype(np.float64), ((0, 0), *padding, (0, 0)))
    rows = (x.shape[1] - dilation[0] * (height - 1) - 1) // stride[0] + 1
    columns = (x.shape[2] - dilation[1] * (width - 1) - 1) // stride[1] + 1
    y = np.zeros((len(x), rows, columns, features))
    for row, column, feature in np.ndindex(rows, columns, features):
        first = feature // (features // groups) * depth
        for i, j in np.ndindex(height, width):
            pixels = x[:, row * stride[0] + i * dilation[0], column * stride[1] + j * dilation[1]]
            y[:, row, column, feature] += pixels[:, first : first + depth] @ kernel[i, j, :, feature]
    return y


def numpy_pool(x, window, stride, padding, reduce, fill):
    x = np.pad(x.astype(np.float64), ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=fill)
    rows, columns = ((extent - window) // stride + 1 for extent in x.shape[1:3])
    y = np.zeros((len(x), rows, columns, x.shape[-1]))
    for row, column in np.ndindex(rows, columns):
        top, left = row * stride, column * stride
        y[:, row, column] = reduce(x[:, top : top + window, left : left + window], axis=(1, 2))
    return y


def numpy_statistics(x, size):
    """Mean and biased variance of each group, and how many values they are taken over."""
    means, variances = [], []
    for start in range(0, len(x), size):
        values = x[start : start + size].astype(np.float64).reshape(-1, x.shape[-1])
        means.append(sum(values) / len(values))
        variances.append(sum((values - means[-1]) ** 2) / len(values))
    return means, variances, len(values)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": ((1, 1), (1, 1))},
        {"stride": (2, 2), "padding": ((1, 1), (1, 1))},
        {"stride": (2, 3), "padding": ((0, 2), (1, 0)), "dilation": (1, 2)},
        {"padding": ((2, 2), (2, 2)), "dilation": (2, 2), "groups": 2},
        {"stride": (2, 1), "groups": 4},
    ],
    ids=str,
)
@pytest.mark.parametrize("gradient", ["lax", "canonical"])
def test_convolution(options, gradient, dtype):
    x, kernel = draw(0, dtype, (2, 8, 9, 4), (3, 2, 4 // options.get("groups", 1), 8))
    found = convolution(x, kernel, **options, gradient=gradient)
    assert_equal(found, numpy_convolution(x, kernel, **options), dtype)


@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "dilation", "groups", "pixels"),
    [(1, 1, None, 1, 1, 0), (3, 2, None, 1, 1, 1), (3, 1, None, 2, 2, 2), (5, 1, 0, 1, 1, 0), (3, 1, 3, 1, 4, 3)],
)
@pytest.mark.parametrize("use_bias", [False, True])
def test_conv_layer(kernel_size, stride, padding, dilation, groups, pixels, use_bias, dtype):
    x, kernel, bias = draw(1, dtype, (2, 7, 6, 4), (kernel_size, kernel_size, 4 // groups, 8), (8,))
    layer = Conv(8, kernel_size, stride, padding, dilation, groups, use_bias)
    params = {"kernel": kernel, "bias": bias} if use_bias else {"kernel": kernel}
    pads = ((pixels, pixels), (pixels, pixels))
    expected = numpy_convolution(x, kernel, (stride, stride), pads, (dilation, dilation), groups) + use_bias * bias
    assert_equal(layer.apply({"params": params}, x), expected, dtype)


@pytest.mark.parametrize(("window", "stride", "padding"), [(2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 1, 1), (7, 1, 0)])
def test_pooling(window, stride, padding, dtype):
    (x,) = draw(2, dtype, (2, 9, 8, 3))
    x -= 4  # all negative: a maximum with zeros for padding would show
    expected = numpy_pool(x, window, stride, padding, np.max, -np.inf)
    np.testing.assert_array_equal(max_pool(x, window, stride, padding), expected)
    expected = numpy_pool(x, window, stride, padding, np.mean, 0.0)
    assert_equal(average_pool(x, window, stride, padding), expected, dtype)


def test_global_average_pool(dtype):
    (x,) = draw(3, dtype, (2, 5, 4, 3))
    expected = sum(x[:, i, j].astype(np.float64) for i, j in np.ndindex(5, 4)) / 20
    assert_equal(global_average_pool(x), expected, dtype)


@pytest.mark.parametrize("shape", [(8, 3, 4, 5), (8, 5)])
@pytest.mark.parametrize("group_size", [None, 2, 4, 16])
@pytest.mark.parametrize("running_variance", ["biased", "unbiased"])
def test_batch_norm_in_training(shape, group_size, running_variance, dtype):
    x, scale, bias, old_mean, old_var = draw(4, dtype, shape, *[(5,)] * 4)
    x, old_var = 3 * x + 1, old_var**2
    size = min(group_size or 8, 8)
    means, variances, count = numpy_statistics(x, size)
    expected = np.stack(
        [
            scale * (image - means[index // size]) / np.sqrt(variances[index // size] + 1e-3) + bias
            for index, image in enumerate(x.astype(np.float64))
        ]
    )
    correction = count / (count - 1) if running_variance == "unbiased" else 1
    layer = BatchNorm(False, group_size, momentum=0.7, epsilon=1e-3, running_variance=running_variance, param_dtype=dtype)
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": old_mean, "var": old_var}}
    found, updates = layer.apply(variables, x, mutable=["batch_stats"])
    assert_equal(found, expected, dtype)
    assert_equal(updates["batch_stats"]["mean"], 0.7 * old_mean + 0.3 * np.mean(means, 0), dtype)
    assert_equal(updates["batch_stats"]["var"], 0.7 * old_var + 0.3 * correction * np.mean(variances, 0), dtype)


@pytest.mark.parametrize("shape", [(6, 3, 4, 5), (6, 5)])
def test_batch_norm_in_inference(shape, dtype):
    x, scale, bias, mean, var = draw(5, dtype, shape, *[(5,)] * 4)
    var = var**2 + 0.1
    expected = scale * (x.astype(np.float64) - mean) / np.sqrt(var.astype(np.float64) + 1e-5) + bias
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": mean, "var": var}}
    found, updates = BatchNorm(True, group_size=4).apply(variables, x, mutable=["batch_stats"])
    assert_equal(found, expected, dtype)
    for name, before in (("mean", mean), ("var", var)):
        np.testing.assert_array_equal(updates["batch_stats"][name], before)


def test_head(dtype):
    x, kernel, bias = draw(6, dtype, (4, 64), (64, 10), (10,))
    expected = np.array(
        [[sum(row[i] * kernel[i, k] for i in range(64)) + bias[k] for k in range(10)] for row in x.astype(np.float64)]
    )
    params = {"dense": {"kernel": kernel, "bias": bias}}
    assert_equal(Head(10).apply({"params": params}, jnp.asarray(x)), expected, dtype)


def test_gradient_of_max_pools_that_do_not_overlap():
    """Reaches the largest pixel of each window alone; pixels past the last whole window have none."""
    x = np.random.default_rng(0).normal(size=(2, 7, 5, 3)).astype(np.float32)
    weights = np.random.default_rng(1).normal(size=(2, 3, 2, 3)).astype(np.float32)
    expected = np.zeros_like(x)
    for b, i, j, c in np.ndindex(weights.shape):
        tile = x[b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
        row, column = np.unravel_index(tile.argmax(), tile.shape)
        expected[b, 2 * i + row, 2 * j + column, c] = weights[b, i, j, c]
    found = jax.grad(lambda x: jnp.sum(max_pool(x, 2, 2) * weights))(jnp.asarray(x))
    np.testing.assert_array_equal(found, expected)
