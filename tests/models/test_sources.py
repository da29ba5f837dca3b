"""Every row of the table against figures that are not ours: `sources.py` says whose.

The rows are traced, never allocated. The parity tests repeat the exact counts with the libraries they came from, where these
are installed (`make test-parity` does).
"""

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict
from jax.extend import core

import resflax
from resflax.models.zoo import MODELS, model_options
from resflax.tree import parameter_count
from tests.models.sources import SOURCES
from tests.parity.origin import import_timm


def counted_by(program):
    return [name for name, source in SOURCES.items() if source.counted_by == program]


# What our networks hold and cost, by tracing them.


def jaxprs_in(value) -> Iterator[core.Jaxpr]:
    if isinstance(value, core.ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, core.Jaxpr):
        yield value
    elif isinstance(value, tuple | list):
        for element in value:
            yield from jaxprs_in(element)


def multiply_adds(jaxpr: core.Jaxpr) -> int:
    """Those of convolutions and matrix products from their shapes, as fvcore counts them; of a loop, as often as it runs."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            left, right = (variable.aval.shape for variable in equation.invars)
            dimensions = equation.params["dimension_numbers"]
            if equation.primitive.name == "conv_general_dilated":
                terms = math.prod(right) // right[dimensions.rhs_spec[0]]  # of the sum that makes one output
            else:
                terms = math.prod(left[axis] for axis in dimensions[0][0])
            total += terms * math.prod(equation.outvars[0].aval.shape)
        elif platforms := equation.params.get("branches_platforms"):  # of `lax.platform_dependent`
            counts = [multiply_adds(branch.jaxpr) for branch in equation.params["branches"]]
            count = counts[platforms.index(None)]
            # Every platform does the same, but for pairs of outputs: their kernel is a stride wider, by zeros.
            assert all(one == count or one * 3 in (count * 4, count * 5) or one * 7 == count * 9 for one in counts), counts
            total += count
        else:
            inner = [multiply_adds(jaxpr) for value in equation.params.values() for jaxpr in jaxprs_in(value)]
            assert equation.primitive.name not in ("cond", "while") or not any(inner), "which branch, how often?"
            total += sum(inner) * equation.params.get("length", 1)
    return total


@dataclass(frozen=True)
class Traced:
    parameters: int
    normalisation: int  # of the parameters: scales and biases
    statistics: int
    multiply_adds: int


def trace(name: str, image_size: int) -> Traced:
    repeat = {"repeat": "scan"} if "repeat" in model_options(name) else {}  # the same leaves, stacked: depth costs no time
    model = resflax.create_model(name, MODELS[name].num_classes, **repeat)
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    jaxpr = jax.make_jaxpr(functools.partial(model.apply, train=False))(variables, images)
    leaves = flatten_dict(variables["params"])
    norms = {path[:-1] for path in leaves if path[-1] == "scale"}
    return Traced(
        parameter_count(variables["params"]),
        sum(math.prod(leaf.shape) for path, leaf in leaves.items() if path[:-1] in norms),
        parameter_count(variables.get("batch_stats", {})),
        multiply_adds(jaxpr.jaxpr),
    )


def half_a_digit(printed: str) -> float:
    return 0.5 * 10.0 ** -len(printed.partition(".")[2])


def test_every_row_has_a_source():
    assert set(MODELS) == set(SOURCES)


# One test a row, not one a figure: a trace is what costs time, and the workers of pytest-xdist share no cache.
# Deep networks take longer to trace; of each kind the default lane has a shallow one.
DEEP = re.compile(r"(?!cifar_preresnet164).*(?:101|110|152|164|200|270|350|420|1001|1202).*")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if DEEP.fullmatch(name) else ()) for name in MODELS]
)
def test_row_equals_its_source(name):
    row, source = MODELS[name], SOURCES[name]
    traced = trace(name, row.input_shape[0])
    assert traced.parameters == row.parameters == source.parameters
    if source.millions:
        millions = {
            "parameters": traced.parameters,
            "weights": traced.parameters - traced.normalisation,
            "parameters and statistics": traced.parameters + traced.statistics,
        }[source.millions_of] / 1e6
        assert abs(millions - float(source.millions)) <= half_a_digit(source.millions)

    assert traced.multiply_adds == row.multiply_adds
    if source.image_size != row.input_shape[0]:
        traced = trace(name, source.image_size)
    assert traced.multiply_adds == source.multiply_adds
    if source.giga:
        giga = traced.multiply_adds / 1e9
        bound = max(0.01 * giga, half_a_digit(source.giga))
        if source.excess:
            assert bound < float(source.giga) - giga < 0.05 * giga
        else:
            assert abs(float(source.giga) - giga) <= bound


# With pencil and paper, from the papers' descriptions of the small networks.


@dataclass
class Tally:
    parameters: int = 0
    multiply_adds: int = 0

    def conv(self, size: int, inputs: int, outputs: int, side: int, groups: int = 1, bias: bool = False) -> None:
        """size x size, onto an image of side x side pixels."""
        kernel = size * size * (inputs // groups) * outputs
        self.parameters += kernel + bias * outputs
        self.multiply_adds += kernel * side * side

    def norm(self, channels: int) -> None:
        self.parameters += 2 * channels

    def dense(self, inputs: int, outputs: int) -> None:
        self.conv(1, inputs, outputs, 1, bias=True)

    def squeeze_excite(self, channels: int, reduction: int = 16) -> None:
        """Hu et al. 2018, Eq. 3."""
        self.dense(channels, channels // reduction)
        self.dense(channels // reduction, channels)


def he_2015(tally, depth):
    """Sec. 4.2: 6n+2 layers, 2n at each of 16, 32, 64 filters, normalised; shortcuts, if any, without parameters."""
    tally.conv(3, 3, 16, 32)
    tally.norm(16)
    inputs = 16
    for filters, side in ((16, 32), (32, 16), (64, 8)):
        for _ in range((depth - 2) // 3):
            tally.conv(3, inputs, filters, side)
            tally.norm(filters)
            inputs = filters
    tally.dense(64, 10)


def preactivation(tally, widths, units, project, gated=False):
    """He et al. 2016 and Zagoruyko and Komodakis 2016: units of two 3x3, each after a normalisation, and one at the end."""
    tally.conv(3, 3, 16, 32)
    inputs = 16
    for filters, side in zip(widths, (32, 16, 8), strict=True):
        for _ in range(units):
            tally.norm(inputs)
            tally.conv(3, inputs, filters, side)
            tally.norm(filters)
            tally.conv(3, filters, filters, side)
            if gated:
                tally.squeeze_excite(filters)
            if project and inputs != filters:
                tally.conv(1, inputs, filters, side)
            inputs = filters
    tally.norm(inputs)
    tally.dense(inputs, 10)


def he_2016_bottleneck(tally, depth, gated=False):
    """9n+2 layers; the first 1x1 has the stride, as in the authors' resnet-pre-act.lua."""
    tally.conv(3, 3, 16, 32)
    inputs = 16
    for outputs, side in ((64, 32), (128, 16), (256, 8)):
        for _ in range((depth - 2) // 9):
            width = outputs // 4
            for size, before, after in ((1, inputs, width), (3, width, width), (1, width, outputs)):
                tally.norm(before)
                tally.conv(size, before, after, side)
            if gated:
                tally.squeeze_excite(outputs)
            if inputs != outputs:
                tally.conv(1, inputs, outputs, side)
            inputs = outputs
    tally.norm(256)
    tally.dense(256, 10)


def xie_2017(tally, groups, base_width):
    """Sec. 5.3: three stages of three bottlenecks, the stride on the 3x3; projections normalised."""
    tally.conv(3, 3, 64, 32)
    tally.norm(64)
    inputs, before = 64, 32
    for stage, side in enumerate((32, 16, 8)):
        width, outputs = groups * base_width * 2**stage, 256 * 2**stage
        for _ in range(3):
            tally.conv(1, inputs, width, before)
            tally.conv(3, width, width, side, groups)
            tally.conv(1, width, outputs, side)
            tally.norm(width + width + outputs)
            if inputs != outputs:
                tally.conv(1, inputs, outputs, side)
                tally.norm(outputs)
            inputs, before = outputs, side
    tally.dense(1024, 10)


def vgg(tally, *counts):
    """Simonyan and Zisserman 2015, Table 1, at 32x32: 3x3 with biases, normalised, one dense layer on the 512 features."""
    inputs = 3
    for filters, side, count in zip((64, 128, 256, 512, 512), (32, 16, 8, 4, 2), counts, strict=True):
        for _ in range(count):
            tally.conv(3, inputs, filters, side, bias=True)
            tally.norm(filters)
            inputs = filters
    tally.dense(512, 10)


def speedrun(tally, *widths):
    """airbench94: 2x2 whitening with a bias alone to train, then 3x3 / pool / bias / 3x3 / bias, no padding in the pools."""
    tally.parameters += 24
    tally.multiply_adds += 31 * 31 * 2 * 2 * 3 * 24
    inputs, side = 24, 31
    for width in widths:
        tally.conv(3, inputs, width, side)
        inputs, side = width, side // 2
        tally.conv(3, width, width, side)
        tally.parameters += 2 * width
    tally.conv(1, inputs, 10, 1)


def tutorial_cnn(tally):
    tally.conv(3, 3, 32, 30, bias=True)
    tally.conv(3, 32, 64, 13, bias=True)
    tally.dense(6 * 6 * 64, 10)


def tutorial_resnet(tally):
    inputs = 3
    for filters, side in zip((64, 128, 256, 512, 1024), (224, 111, 55, 27, 13), strict=True):
        for size, before in ((1, inputs), (3, filters), (1, inputs)):
            tally.conv(size, before, filters, side)
            tally.norm(filters)
        inputs = filters
    tally.dense(7 * 7 * 1024, 1000)


ARITHMETIC = {
    **{f"cifar_resnet{depth}": (he_2015, depth) for depth in (20, 32, 44, 56, 110, 1202)},
    **{f"cifar_plain{depth}": (he_2015, depth) for depth in (20, 32, 44, 56)},
    "cifar_preresnet110": (preactivation, (16, 32, 64), 18, False),
    "cifar_preresnet164": (he_2016_bottleneck, 164),
    "cifar_preresnet1001": (he_2016_bottleneck, 1001),
    "cifar_wrn16_8": (preactivation, (128, 256, 512), 2, True),
    "cifar_wrn28_10": (preactivation, (160, 320, 640), 4, True),
    "cifar_wrn40_4": (preactivation, (64, 128, 256), 6, True),
    "cifar_resnext29_8x64d": (xie_2017, 8, 64),
    "cifar_resnext29_16x64d": (xie_2017, 16, 64),
    "cifar_sepreresnet110": (preactivation, (16, 32, 64), 18, False, True),
    "cifar_sepreresnet164": (he_2016_bottleneck, 164, True),
    "cifar_sewrn16_8": (preactivation, (128, 256, 512), 2, True, True),
    "cifar_vgg11": (vgg, 1, 1, 2, 2, 2),
    "cifar_vgg13": (vgg, 2, 2, 2, 2, 2),
    "cifar_vgg16": (vgg, 2, 2, 3, 3, 3),
    "cifar_vgg19": (vgg, 2, 2, 4, 4, 4),
    "cifar_speedrun": (speedrun, 64, 256, 256),
    "tutorial_cnn": (tutorial_cnn,),
    "tutorial_resnet": (tutorial_resnet,),
}


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("cifar_") or name in counted_by("arithmetic")])
def test_arithmetic(name):
    tally = Tally()
    walk, *arguments = ARITHMETIC[name]
    walk(tally, *arguments)
    assert (tally.parameters, tally.multiply_adds) == (SOURCES[name].parameters, SOURCES[name].multiply_adds)


# The libraries' own.


def timm_network(name):
    timm = import_timm()
    if name == "resnetv2_200":
        from timm.models import resnetv2

        return resnetv2.ResNetV2(layers=[3, 24, 36, 3], conv_layer=resnetv2.create_conv2d, norm_layer=resnetv2.BatchNormAct2d)
    network = timm.create_model(name.removesuffix("_v1"))
    if name.endswith("_v1"):
        for block in network.modules():
            if isinstance(block, timm.models.resnet.Bottleneck):
                block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    return network


def pytorchcv_network(name):
    pytest.importorskip("pytorchcv", reason="counts by pytorchcv")
    from pytorchcv.models import resnext_cifar, wrn_cifar

    family, *numbers = re.findall(r"[a-z]+|\d+", name.removeprefix("cifar_").removesuffix("d"))
    build = {"wrn": wrn_cifar.get_wrn_cifar, "resnext": resnext_cifar.get_resnext_cifar}[family]
    return build(10, *(int(number) for number in numbers if number.isdigit()))


# torchvision may not be importable beside this torch; timm has the same networks, so its count confirms torchvision's figures.
NETWORKS = {"timm": timm_network, "torchvision": timm_network, "pytorchcv": pytorchcv_network}


@pytest.mark.parity
@pytest.mark.parametrize("name", [name for program in NETWORKS for name in counted_by(program)])
def test_torch_libraries_count_the_same(name):
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode  # two operations for each multiply-add

    source = SOURCES[name]
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network = NETWORKS[source.counted_by](name).eval()
        network(torch.zeros(1, 3, source.image_size, source.image_size))
    assert sum(parameter.numel() for parameter in network.parameters()) == source.parameters
    assert counter.get_total_flops() == 2 * source.multiply_adds


@pytest.mark.parity
@pytest.mark.parametrize("name", counted_by("keras"))
def test_keras_counts_the_same(name, monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    keras = pytest.importorskip("keras")
    names = {"keras_resnet": "ResNet{}V2", "resnet": "ResNet{}"}
    family, depth = re.match(r"([a-z_]+)(\d+)", name).groups()
    network = getattr(keras.applications, names[family].format(depth))(weights=None)
    convolutions = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    parameters = sum(math.prod(weight.shape) for weight in network.trainable_weights)
    if name.endswith("_v1"):  # a bias before a normalisation does nothing, and ours has none
        parameters -= sum(layer.filters for layer in convolutions if layer.use_bias)
    total = sum(math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:3]) for layer in convolutions)
    total += sum(math.prod(layer.kernel.shape) for layer in network.layers if isinstance(layer, keras.layers.Dense))
    assert (parameters, total) == (SOURCES[name].parameters, SOURCES[name].multiply_adds)
