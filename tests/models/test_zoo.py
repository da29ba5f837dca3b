from typing import get_args

import jax
import jax.numpy as jnp
import pytest

import resflax
from resflax.errors import ConfigError
from resflax.models import builders
from resflax.models.profile import profile
from resflax.models.zoo import MODELS, model_options
from resflax.tree import parameter_count


def abstract_variables(name, **kwargs):
    row = MODELS[name]
    model = resflax.create_model(name, row.num_classes, **kwargs)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *row.input_shape)), train=False))


def test_projection_shortcuts_cost_what_they_should():
    # B: 1x1 convolutions 16 -> 32 and 32 -> 64 with normalisation. C: also one in each of the other seven blocks.
    base = MODELS["cifar_resnet20"].parameters
    b = base + 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    c = b + 3 * (16 * 16 + 2 * 16) + 2 * (32 * 32 + 2 * 32) + 2 * (64 * 64 + 2 * 64)
    assert parameter_count(abstract_variables("cifar_resnet20", shortcut="B")["params"]) == b
    assert parameter_count(abstract_variables("cifar_resnet20", shortcut="C")["params"]) == c


@pytest.mark.parametrize("name", ["cifar_plain20", "seresnext50_32x4d", "resnetv2_50x1_bit", "vgg11_bn", "tutorial_cnn"])
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
    with pytest.raises(ConfigError, match="no argument 'widht'; it has width, shortcut, squeeze_excite, stochastic_depth"):
        resflax.create_model("cifar_resnet20", 10, widht=3)


def test_list_models():
    assert resflax.list_models("cifar_plain*") == ["cifar_plain20", "cifar_plain32", "cifar_plain44", "cifar_plain56"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar_wrn27_2", "depth of cifar_wrn must be 6n\\+4 \\(10, 16, 22, ...\\), got 27; use cifar_wrn28_2"),
        ("cifar_wrn16_0", "widths of a network must be at least 1"),
        ("cifar_resnext30_2x64d", "must be 9n\\+2 .*use cifar_resnext29_2x64d"),
        ("cifar_preresnet9", "use cifar_preresnet8"),
    ],
)
def test_families_say_which_depths_they_have(name, message):
    with pytest.raises(ConfigError, match=message):
        resflax.create_model(name, 10)


def test_networks_between_the_published_ones():
    # WRN-22-2 by the arithmetic of Table 1: stem, 9 units of two 3x3, three projections, normalisations, head.
    expected, inputs = 9 * 3 * 16, 16
    for width in (32, 64, 128):
        for unit in range(3):
            before = inputs if unit == 0 else width
            expected += 2 * before + 9 * before * width + 2 * width + 9 * width * width
        expected += inputs * width
        inputs = width
    expected += 2 * 128 + 128 * 10 + 10
    model = resflax.create_model("cifar_wrn22_2", 10)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert parameter_count(variables["params"]) == expected


def test_options_are_those_a_name_leaves_open():
    assert set(model_options("resnet50d")) == {
        "width",
        "zero_gamma",
        "stochastic_depth",
        "head_dropout",
        "stem_form",
        "repeat",
    }
    assert set(model_options("cifar_preresnet164")) == {
        "width",
        "ordering",
        "shortcut",
        "squeeze_excite",
        "stochastic_depth",
        "repeat",
    }


@pytest.mark.parametrize("ordering", get_args(builders.Ordering))
@pytest.mark.parametrize("name", ["cifar_preresnet110", "cifar_preresnet164"])
def test_orderings_move_layers_without_adding_any(name, ordering):
    """He et al. 2016, Fig. 4: each unit has as many convolutions and normalisations in any order."""
    layers = profile(resflax.create_model(name, 10, ordering=ordering), (32, 32, 3))
    units = [layer.name for layer in layers if layer.name.startswith("stage2/block5/")]
    kinds = [unit.rsplit("/", 1)[1][:4] for unit in units]
    depth = 2 if name.endswith("110") else 3
    assert kinds == {"preactivation": ["norm", "conv"] * depth}.get(ordering, ["conv", "norm"] * depth)
