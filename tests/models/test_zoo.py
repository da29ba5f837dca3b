import functools

import jax
import jax.numpy as jnp
import pytest

import resflax
from resflax.errors import ConfigError
from resflax.models.profile import profile
from resflax.models.zoo import MODELS
from resflax.tree import parameter_count


def abstract_variables(name, **kwargs):
    row = MODELS[name]
    model = resflax.create_model(name, row.num_classes, **kwargs)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *row.input_shape)), train=False))


def cifar_parameters(depth):
    """He et al. 2015, Table 6's architecture, Sec. 4.2: 2n layers at each of 16, 32, 64 filters, then 10-way dense.

    A 3x3 convolution without bias has 9 * inputs * outputs weights, its normalisation 2 * outputs. Option A adds none.
    """
    n = (depth - 2) // 6
    total = 9 * 3 * 16 + 2 * 16
    inputs = 16
    for filters in (16, 32, 64):
        for layer in range(2 * n):
            total += 9 * (inputs if layer == 0 else filters) * filters + 2 * filters
        inputs = filters
    return total + 64 * 10 + 10


def cifar_multiply_adds(depth):
    """The same walk: a 3x3 convolution costs 9 * inputs * outputs for each of its output pixels (32^2, 16^2, 8^2)."""
    n = (depth - 2) // 6
    total = 9 * 3 * 16 * 32**2
    inputs = 16
    for filters, side in ((16, 32), (32, 16), (64, 8)):
        for layer in range(2 * n):
            total += 9 * (inputs if layer == 0 else filters) * filters * side**2
        inputs = filters
    return total + 64 * 10


# Millions of parameters as He et al. 2015 print them, Table 6 (plain nets have none of their own: the shortcuts are free).
PAPER = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7, 1202: 19.4}


@pytest.mark.parametrize("depth", PAPER)
@pytest.mark.parametrize("family", ["cifar_resnet", "cifar_plain"])
def test_cifar_parameters_equal_the_papers_arithmetic(family, depth):
    expected = cifar_parameters(depth)
    assert round(expected / 1e6, 2 if depth < 110 else 1) == PAPER[depth]
    name = f"{family}{depth}"
    model = resflax.create_model(name, 10, repeat="scan")  # the same leaves, stacked: 1,202 layers trace in a second
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert parameter_count(variables["params"]) == expected
    if name in MODELS:
        assert MODELS[name].parameters == expected
        assert MODELS[name].multiply_adds == cifar_multiply_adds(depth)


@pytest.mark.parametrize("depth", [20, 56])
def test_unrolled_and_looped_networks_have_the_same_parameters(depth):
    assert parameter_count(abstract_variables(f"cifar_resnet{depth}")["params"]) == cifar_parameters(depth)


def test_projection_shortcuts_cost_what_they_should():
    # B: 1x1 convolutions 16 -> 32 and 32 -> 64 with normalisation. C: also one in each of the other seven blocks.
    base = cifar_parameters(20)
    b = base + 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    c = b + 3 * (16 * 16 + 2 * 16) + 2 * (32 * 32 + 2 * 32) + 2 * (64 * 64 + 2 * 64)
    assert parameter_count(abstract_variables("cifar_resnet20", shortcut="B")["params"]) == b
    assert parameter_count(abstract_variables("cifar_resnet20", shortcut="C")["params"]) == c


def test_tutorial_networks():
    # Conv: 9 * in * out + out. Dense: 6 * 6 * 64 inputs.
    assert MODELS["tutorial_cnn"].parameters == 9 * 3 * 32 + 32 + 9 * 32 * 64 + 64 + 6 * 6 * 64 * 10 + 10 == 42_442
    total, inputs = 0, 3
    for width in (64, 128, 256, 512, 1024):
        total += inputs * width + 2 * width  # 1x1
        total += 9 * width * width + 2 * width  # 3x3
        total += inputs * width + 2 * width  # 1x1 on the shortcut
        inputs = width
    # 224 -> 111 -> 55 -> 27 -> 13 by 3x3/2 max-pools, -> 7 by the 7x7/1 average pool.
    total += 7 * 7 * 1024 * 1000 + 1000
    assert MODELS["tutorial_resnet"].parameters == total
    for name in ("tutorial_cnn", "tutorial_resnet"):
        assert parameter_count(abstract_variables(name)["params"]) == MODELS[name].parameters


@pytest.mark.parametrize("name", [name for name in MODELS if "1202" not in name])
def test_profile_agrees_with_the_table(name):
    row = MODELS[name]
    layers = profile(resflax.create_model(name, row.num_classes), row.input_shape)
    assert sum(layer.parameters for layer in layers) == row.parameters
    assert sum(layer.multiply_adds for layer in layers) == row.multiply_adds


def test_receptive_field():
    layers = {layer.name: layer for layer in profile(resflax.create_model("cifar_resnet8", 10), (32, 32, 3))}
    # 1 + 2 for each 3x3 at stride 1, + 4 and + 8 once the image was halved and quartered.
    assert layers["stage1/block1/conv2"].receptive_field == 7
    assert layers["stage3/block1/conv2"].receptive_field == 1 + 2 * 4 + 4 * 2 + 8


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar_resnet21", "must be 6n\\+2 .* got 21; use cifar_resnet20"),
        ("cifar_resnet2", "got 2; use cifar_resnet8"),
        ("resnet20", "did you mean cifar_resnet20"),
        ("cifar_resne20", "did you mean cifar_resnet20"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name, message):
    with pytest.raises(ConfigError, match=message):
        resflax.create_model(name, 10)


def test_unknown_arguments_are_refused():
    with pytest.raises(ConfigError, match="no argument 'widht'; it has width, shortcut, repeat"):
        resflax.create_model("cifar_resnet20", 10, widht=3)


def test_list_models():
    assert resflax.list_models("cifar_plain*") == ["cifar_plain20", "cifar_plain32", "cifar_plain44", "cifar_plain56"]


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_plain8", "tutorial_cnn"])
def test_jit_equals_eager(name):
    model = resflax.create_model(name, 7)
    images = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(1), images)
    logits = model.apply(variables, images, train=False)
    assert jnp.allclose(jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images), logits, atol=1e-5)


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_plain8", "tutorial_cnn"])
@pytest.mark.parametrize("size", [(16, 16), (17, 13)])
def test_forward_and_backward_are_finite(name, size):
    model = resflax.create_model(name, 7)
    images = jax.random.normal(jax.random.key(0), (4, *size, 3))
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(1), images)
    logits = jax.jit(functools.partial(model.apply, train=False))(variables, images)
    assert logits.shape == (4, 7)
    assert logits.dtype == jnp.float32

    def loss(params):
        return jnp.sum(model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])[0] ** 2)

    gradients = jax.tree.leaves(jax.jit(jax.grad(loss))(variables["params"]))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in gradients)
    assert all(bool(jnp.any(leaf != 0)) for leaf in gradients)


def test_bfloat16_stays_near_float32():
    images = jax.random.normal(jax.random.key(0), (8, 16, 16, 3))
    variables = resflax.create_model("cifar_resnet20", 10).init(jax.random.key(1), images, train=False)
    exact = resflax.create_model("cifar_resnet20", 10).apply(variables, images, train=False)
    rough = resflax.create_model("cifar_resnet20", 10, dtype=jnp.bfloat16).apply(variables, images, train=False)
    assert rough.dtype == jnp.float32
    assert float(jnp.max(jnp.abs(rough - exact))) < 0.05 * float(jnp.max(jnp.abs(exact)))
