import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from resflax.nn import Conv, convolution

CASES = [
    (kernel, stride, dilation, groups, size)
    for kernel, stride, dilation, groups, size in itertools.product((1, 3, 7), (1, 2), (1, 2), (1, 2), ((8, 8), (9, 7)))
    if dilation == 1 or kernel > 1
]


@pytest.mark.parametrize(("kernel", "stride", "dilation", "groups", "size"), CASES)
@pytest.mark.parametrize("pad", ["same", "none"])
def test_canonical_gradients_equal_those_of_lax(kernel, stride, dilation, groups, size, pad):
    reach = (kernel - 1) * dilation + 1
    if pad == "none" and reach > min(size):
        size = (reach + size[0] % 2, reach + 1)
    amount = 0 if pad == "none" else dilation * (kernel - 1) // 2
    options = {
        "stride": (stride, stride),
        "padding": ((amount, amount), (amount, amount)),
        "dilation": (dilation, dilation),
        "groups": groups,
    }
    with jax.enable_x64(True):
        rng = np.random.default_rng(kernel * 100 + stride * 10 + dilation)
        x = jnp.asarray(rng.normal(size=(3, *size, 4)))
        w = jnp.asarray(rng.normal(size=(kernel, kernel, 4 // groups, 6)))
        y, canonical = jax.vjp(lambda x, w: convolution(x, w, **options, gradient="canonical"), x, w)
        expected, reference = jax.vjp(lambda x, w: convolution(x, w, **options, gradient="lax"), x, w)
        dy = jnp.asarray(rng.normal(size=y.shape))
        assert y.dtype == jnp.float64
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
        for ours, theirs in zip(canonical(dy), reference(dy), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


def test_uneven_padding_and_uneven_strides():
    options = {"stride": (2, 3), "padding": ((0, 2), (1, 0)), "dilation": (1, 2)}
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, w = jnp.asarray(rng.normal(size=(2, 10, 11, 2))), jnp.asarray(rng.normal(size=(3, 2, 2, 5)))
        y, canonical = jax.vjp(lambda x, w: convolution(x, w, **options, gradient="canonical"), x, w)
        _, reference = jax.vjp(lambda x, w: convolution(x, w, **options, gradient="lax"), x, w)
        for ours, theirs in zip(canonical(jnp.ones_like(y)), reference(jnp.ones_like(y)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


def test_canonical_convolutions_have_no_dilated_input_and_standard_layouts():
    # This is what XLA:CPU's fast path asks for; anything else is a naive loop nest inside a while body.
    def loss(x, w):
        return jnp.sum(convolution(x, w, stride=(2, 2), padding=((1, 1), (1, 1)), gradient="canonical") ** 2)

    text = jax.jit(jax.grad(loss, (0, 1))).lower(jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))).as_text()
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert len(convolutions) == 3
    for line in convolutions:
        assert "dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]" in line
        assert "lhs_dilate = [1, 1]" in line


def test_padding_defaults_to_pytorchs():
    x = jnp.ones((1, 7, 9, 2))
    for kernel, stride, dilation in itertools.product((1, 3, 5), (1, 2), (1, 2)):
        layer = Conv(3, kernel, stride=stride, dilation=dilation)
        y, _ = layer.init_with_output(jax.random.key(0), x)
        pad = dilation * (kernel - 1) // 2
        assert y.shape[1:3] == tuple((n + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1 for n in (7, 9))


def test_initialisation_is_kaiming_normal_over_the_fan_out():
    kernel = Conv(64, 3).init(jax.random.key(0), jnp.zeros((1, 8, 8, 32)))["params"]["kernel"]
    assert float(jnp.std(kernel)) == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)
    assert float(jnp.max(jnp.abs(kernel))) > 3 * np.sqrt(2 / (9 * 64))  # not truncated


def test_bfloat16_computes_in_bfloat16_with_float32_parameters():
    layer = Conv(4, 3, dtype=jnp.bfloat16)
    y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((1, 4, 4, 2)))
    assert y.dtype == jnp.bfloat16
    assert variables["params"]["kernel"].dtype == jnp.float32


def test_gradient_in_a_scan_uses_the_canonical_form_on_cpu_only():
    def lowered(platform):
        def loss(w, x):
            body = lambda x, w: (convolution(x, w, padding=((1, 1), (1, 1)), gradient="canonical"), None)  # noqa: E731
            return jnp.sum(lax.scan(body, x, w)[0])

        function = jax.jit(jax.grad(loss))
        shapes = (jax.ShapeDtypeStruct((2, 3, 3, 4, 4), jnp.float32), jax.ShapeDtypeStruct((1, 8, 8, 4), jnp.float32))
        return function.trace(*shapes).lower(lowering_platforms=(platform,)).as_text()

    assert "[f, 0, 1, b]" not in lowered("cpu")
    assert "[f, 0, 1, b]" in lowered("cuda")  # lax's own kernel gradient


@pytest.mark.parametrize(
    ("kernel", "options", "product"),
    [(1, {}, True), (1, {"stride": (2, 2)}, True), (1, {"groups": 2}, False), (3, {}, False)],
)
def test_a_pointwise_convolution_is_a_product_on_cpu_only(kernel, options, product):
    """Forward and both gradients; where padding is left out, a 1x1 kernel has none."""

    def lowered(platform):
        function = jax.jit(lambda x, w, dy: jax.vjp(lambda x, w: convolution(x, w, **options), x, w)[1](dy))
        x, w = jnp.ones((2, 8, 8, 4)), jnp.ones((kernel, kernel, 4 // options.get("groups", 1), 6))
        forward = jax.jit(lambda x, w: convolution(x, w, **options))
        texts = [one.trace(*arguments).lower(lowering_platforms=(platform,)).as_text() for one, arguments in (
            (forward, (x, w)), (function, (x, w, forward(x, w))),
        )]  # fmt: skip
        return ["stablehlo.convolution" in text for text in texts], ["stablehlo.dot_general" in text for text in texts]

    assert lowered("cpu") == ([not product] * 2, [product] * 2)
    assert lowered("cuda") == ([True] * 2, [False] * 2)


@pytest.mark.parametrize(
    ("channels", "features", "stride", "width", "window"),
    [
        (16, 16, 1, 8, "3x4"),  # few features
        (3, 64, 1, 8, "3x4"),  # few channels
        (3, 64, 2, 8, "3x5"),
        (16, 32, 1, 8, "3x3"),
        (16, 16, 2, 8, "3x3"),
        (16, 16, 1, 7, "3x3"),  # an odd number of outputs
    ],
)
def test_narrow_layers_are_computed_in_pairs_of_outputs_on_cpu_only(channels, features, stride, width, window):
    x, w = jnp.ones((1, 6, width, channels)), jnp.ones((3, 3, channels, features))
    forward = jax.jit(lambda x, w: convolution(x, w, stride=(stride, stride), padding=((1, 1), (1, 1))))

    def lowered(platform):
        return forward.trace(x, w).lower(lowering_platforms=(platform,)).as_text()

    assert f"(tensor<1x6x{width}x{channels}xf32>, tensor<{window}x{channels}x" in lowered("cpu")
    assert f"(tensor<1x6x{width}x{channels}xf32>, tensor<3x3x{channels}x" in lowered("cuda")


def test_the_gradient_of_a_strided_input_is_one_small_convolution():
    """The phases of the stride as features: 16 taps for each four inputs, where zeros between the outputs would take 36."""
    x, w = jnp.ones((1, 8, 8, 8)), jnp.ones((3, 3, 8, 32))

    def gradient(x, w):
        y, back = jax.vjp(lambda x: convolution(x, w, stride=(2, 2), padding=((1, 1), (1, 1))), x)
        return back(y)[0]

    text = jax.jit(gradient).lower(x, w).as_text()
    assert "(tensor<1x4x4x32xf32>, tensor<2x2x32x32xf32>) -> tensor<1x4x4x32xf32>" in text


@pytest.mark.parametrize("features", [1, 8])
@pytest.mark.parametrize("batch", [1, 3])
def test_statistics_behind_a_product_survive_compilation(batch, features):
    """XLA:CPU of jaxlib 0.10.2 computes `sum((a @ b)**2)` wrongly for some shapes (jax issue 39103)."""
    rng = np.random.default_rng(0)
    x, w = (rng.normal(size=shape).astype(np.float32) for shape in ((batch, 5, 5, 16), (1, 1, 16, features)))

    @jax.jit
    def statistics(x, w):
        y = convolution(x, w)
        return jnp.mean(y, (0, 1, 2)), jnp.mean(jnp.square(y), (0, 1, 2)), jnp.sum(jnp.square(y))

    y = x.astype(np.float64) @ w[0, 0].astype(np.float64)
    for found, expected in zip(statistics(x, w), (y.mean((0, 1, 2)), (y**2).mean((0, 1, 2)), (y**2).sum()), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
