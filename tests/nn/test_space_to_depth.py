"""The stem as space to depth is the same function of the same parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from resflax import create_model
from resflax.errors import ConfigError
from resflax.models.profile import profile
from resflax.nn import Conv, SpaceToDepthConv
from resflax.nn.space_to_depth import space_to_depth, space_to_depth_convolution
from resflax.tree import named_leaves


def plain(x, kernel, padding):
    pads = [(padding, padding)] * 2
    return lax.conv_general_dilated(x, kernel, (2, 2), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def test_squares_become_channels():
    x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    y = space_to_depth(jnp.asarray(x))
    assert y.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(y[1, 1, 2], x[1, 2:4, 4:6].reshape(-1))


@pytest.mark.parametrize(
    ("k", "padding", "side"), [(7, 3, 16), (7, 3, 17), (7, 0, 16), (7, 2, 15), (8, 3, 16), (5, 2, 12), (3, 1, 11)]
)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)])
def test_outputs_and_gradients_are_those_of_lax(k, padding, side, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        rng = np.random.default_rng(k * padding + side)
        x = jnp.asarray(rng.normal(size=(2, side, side + 3, 3)), dtype)
        kernel = jnp.asarray(rng.normal(size=(k, k, 3, 4)) / k, dtype)
        expected, pull = jax.vjp(functools.partial(plain, padding=padding), x, kernel)
        found, pull_ours = jax.vjp(functools.partial(space_to_depth_convolution, padding=padding), x, kernel)
        assert found.dtype == dtype
        dy = jnp.asarray(rng.normal(size=expected.shape), dtype)
        for ours, theirs in zip((found, *pull_ours(dy)), (expected, *pull(dy)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def test_the_layer_has_the_parameters_of_a_convolution():
    x = jax.random.normal(jax.random.key(0), (1, 12, 12, 3))
    one, other = Conv(8, 7, stride=2, use_bias=True), SpaceToDepthConv(8, 7, use_bias=True)
    variables = one.init(jax.random.key(1), x)
    for expected, found in zip(jax.tree.leaves(variables), jax.tree.leaves(other.init(jax.random.key(1), x)), strict=True):
        np.testing.assert_array_equal(found, expected)
    variables["params"]["bias"] = jnp.arange(8.0)
    np.testing.assert_allclose(other.apply(variables, x), one.apply(variables, x), atol=1e-5)
    assert (
        SpaceToDepthConv(8, 7, dtype=jnp.bfloat16).apply({"params": {"kernel": jnp.ones((7, 7, 3, 8))}}, x).dtype
        == jnp.bfloat16
    )


@pytest.mark.parametrize("name", ["resnet18", pytest.param("resnetv2_18", marks=pytest.mark.long)])
def test_networks_differ_in_nothing_but_the_arithmetic_of_their_stem(name):
    networks = [create_model(name, 10, width=8, stem_form=form) for form in ("convolution", "space_to_depth")]
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    plain, rearranged = (jax.jit(functools.partial(one.init, train=False))(jax.random.key(1), x) for one in networks)
    assert named_leaves(plain).keys() == named_leaves(rearranged).keys()
    for leaf, other in zip(jax.tree.leaves(plain), jax.tree.leaves(rearranged), strict=True):
        np.testing.assert_array_equal(leaf, other)
    logits = [jax.jit(functools.partial(one.apply, train=False))(plain, x) for one in networks]
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-4 * float(jnp.abs(logits[0]).max()))
    text = jax.jit(functools.partial(networks[1].apply, train=False)).lower(plain, x).as_text()
    assert "tensor<4x4x12x8xf32>" in text  # it is what runs
    assert profile(networks[0], (32, 32, 3)) == profile(networks[1], (32, 32, 3))


def test_a_stem_without_a_7x7_is_refused():
    with pytest.raises(ConfigError, match="stem_form=space_to_depth needs a 7x7 stem, got the stem deep; leave"):
        create_model("resnet50d", 10, stem_form="space_to_depth")
