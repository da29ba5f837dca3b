"""The table of models: name -> builder, paper, size of input, parameters and multiply-adds.

Importing this module does not import JAX: the configuration is checked against the builders' signatures before any
device is touched, so a builder imports its network when it is called.

Glossary. `cifar_resnetN` and `cifar_plainN` are the 6n+2 layer networks of He et al. 2015, Sec. 4.2 (16-32-64 channels,
0.27 M parameters at 20 layers), with and without shortcuts; they are not the ImageNet networks of the same depth
(`resnet18` has 11 M). `resnetN` are those, under timm's and torchvision's names: version 1.5, with the stride of a
bottleneck on its 3x3 convolution; version 1 has it on the first 1x1. `tutorial_cnn` and `tutorial_resnet` are the two
networks of the classic Keras tutorial.
"""

from __future__ import annotations

import fnmatch
import functools
import re
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from resflax.errors import ConfigError, nearest
from resflax.ranges import Count

if TYPE_CHECKING:
    from flax import linen as nn

    from resflax.types import DType, NormFactory

Shortcut = Literal["A", "B", "C"]
Repeat = Literal["loop", "scan", "scan_remat"]

HE_2015 = "He et al. 2015, Deep Residual Learning for Image Recognition, Sec. 4.2"
HE_2015_IMAGENET = "He et al. 2015, Deep Residual Learning for Image Recognition, Table 1 (v1.5)"
TUTORIAL = "the classic Keras tutorial"


@dataclass(frozen=True)
class Model:
    """A row of the table."""

    builder: Callable[..., nn.Module]
    paper: str
    input_shape: tuple[int, int, int]  # height, width, channels that the counts below are for
    num_classes: int
    parameters: int
    multiply_adds: int  # of convolutions and dense layers, one image


def _cifar(depth: int, **parts: Any) -> nn.Module:
    from resflax.models import cifar

    return cifar.cifar_net(depth, **parts)


def cifar_resnet(
    depth: int,
    *,
    num_classes: int,
    norm: NormFactory | None = None,
    dtype: DType = None,
    width: Count = 16,
    shortcut: Shortcut = "A",
    repeat: Repeat = "loop",
) -> nn.Module:
    """The residual network of `depth` = 6n + 2 layers for small images."""
    return _cifar(depth, num_classes=num_classes, norm=norm, dtype=dtype, width=width, shortcut=shortcut, repeat=repeat)


def cifar_plain(
    depth: int,
    *,
    num_classes: int,
    norm: NormFactory | None = None,
    dtype: DType = None,
    width: Count = 16,
    repeat: Repeat = "loop",
) -> nn.Module:
    """`cifar_resnet` without its shortcuts."""
    return _cifar(depth, num_classes=num_classes, norm=norm, dtype=dtype, width=width, shortcut=None, repeat=repeat)


def tutorial_cnn(*, num_classes: int, norm: NormFactory | None = None, dtype: DType = None) -> nn.Module:
    """Two convolutions with max pooling, then a dense layer; it has nothing to normalise and ignores `norm`."""
    from resflax.models import tutorial

    return tutorial.TutorialCnn(num_classes=num_classes, dtype=dtype)


def tutorial_resnet(*, num_classes: int, norm: NormFactory | None = None, dtype: DType = None) -> nn.Module:
    """Five blocks of 1x1 and 3x3 convolutions, 64 to 1024 channels."""
    from resflax.models import tutorial

    return tutorial.TutorialResNet(num_classes=num_classes, norm=norm, dtype=dtype)


def resnet(
    depth: int,
    *,
    num_classes: int,
    norm: NormFactory | None = None,
    dtype: DType = None,
    width: Count = 64,
    repeat: Repeat = "loop",
    zero_gamma: bool = True,
) -> nn.Module:
    """The ImageNet residual network of 18, 34, 50, 101 or 152 layers, version 1.5."""
    from resflax.models import resnet as networks

    return networks.resnet(
        depth, num_classes=num_classes, norm=norm, dtype=dtype, width=width, repeat=repeat, zero_gamma=zero_gamma
    )


def _imagenet(depth: int, parameters: int, multiply_adds: int) -> Model:
    return Model(functools.partial(resnet, depth), HE_2015_IMAGENET, (224, 224, 3), 1000, parameters, multiply_adds)


def _row(builder: Callable[..., nn.Module], depth: int, parameters: int, multiply_adds: int) -> Model:
    return Model(functools.partial(builder, depth), HE_2015, (32, 32, 3), 10, parameters, multiply_adds)


MODELS: dict[str, Model] = {
    "cifar_resnet20": _row(cifar_resnet, 20, 269_722, 40_551_040),
    "cifar_resnet32": _row(cifar_resnet, 32, 464_154, 68_862_592),
    "cifar_resnet44": _row(cifar_resnet, 44, 658_586, 97_174_144),
    "cifar_resnet56": _row(cifar_resnet, 56, 853_018, 125_485_696),
    "cifar_resnet110": _row(cifar_resnet, 110, 1_727_962, 252_887_680),
    "cifar_resnet1202": _row(cifar_resnet, 1202, 19_421_274, 2_829_238_912),
    "cifar_plain20": _row(cifar_plain, 20, 269_722, 40_551_040),
    "cifar_plain32": _row(cifar_plain, 32, 464_154, 68_862_592),
    "cifar_plain44": _row(cifar_plain, 44, 658_586, 97_174_144),
    "cifar_plain56": _row(cifar_plain, 56, 853_018, 125_485_696),
    "resnet18": _imagenet(18, 11_689_512, 1_814_073_344),
    "resnet34": _imagenet(34, 21_797_672, 3_663_761_408),
    "resnet50": _imagenet(50, 25_557_032, 4_089_184_256),
    "resnet101": _imagenet(101, 44_549_160, 7_801_405_440),
    "resnet152": _imagenet(152, 60_192_808, 11_513_626_624),
    "tutorial_cnn": Model(tutorial_cnn, TUTORIAL, (32, 32, 3), 10, 42_442, 3_915_648),
    "tutorial_resnet": Model(tutorial_resnet, TUTORIAL, (224, 224, 3), 1000, 64_152_552, 9_603_391_488),
}

# Any depth of these families can be built; only the published depths have a row.
_FAMILIES: dict[str, Callable[..., nn.Module]] = {"cifar_resnet": cifar_resnet, "cifar_plain": cifar_plain}
_PROVIDED = ("depth", "num_classes", "norm", "dtype", "return")


def list_models(pattern: str = "*") -> list[str]:
    """The names of the table that match a shell pattern, in alphabetical order."""
    return sorted(fnmatch.filter(MODELS, pattern))


def _builder(name: str) -> Callable[..., nn.Module]:
    if name in MODELS:
        return MODELS[name].builder
    family = re.fullmatch(r"(cifar_[a-z]+)(\d+)", name)
    if family and family[1] in _FAMILIES:
        depth = int(family[2])
        if depth >= 8 and (depth - 2) % 6 == 0:
            return functools.partial(_FAMILIES[family[1]], depth)
        near = max(8, 6 * round((depth - 2) / 6) + 2)
        raise ConfigError(f"the depth of {family[1]} must be 6n+2 (8, 14, 20, ...), got {depth}; use {family[1]}{near}")
    raise ConfigError(f"there is no model {name!r}; did you mean {', '.join(nearest(name, MODELS, 3))}?")


def check_model(name: str) -> None:
    """Raises `ConfigError` unless `name` can be built."""
    _builder(name)


def model_options(name: str) -> dict[str, Any]:
    """`{argument: type}` of what a user may choose for model `name`, from its builder's signature."""
    builder = _builder(name)
    function = builder.func if isinstance(builder, functools.partial) else builder
    options = {name: hint for name, hint in function.__annotations__.items() if name not in _PROVIDED}
    # Only these are resolved: the types of the others (NormFactory, DType) live in modules that import JAX.
    return get_type_hints(types.SimpleNamespace(__annotations__=options), globalns=function.__globals__, include_extras=True)


def create_model(
    name: str, num_classes: int, *, norm: NormFactory | None = None, dtype: DType = None, **kwargs: Any
) -> nn.Module:
    """Builds a linen module by name.

    Args:
      name: a name of `list_models()`, or a family with any valid depth (`cifar_resnet14`).
      num_classes: the length of the logits.
      norm: makes a normalisation layer; None is the model's own default, `resflax.nn.BatchNorm` in most.
      dtype: of activations; None is float32. Parameters and logits stay at least float32.
      **kwargs: the builder's own arguments (`width`, `shortcut`, `repeat`, ...).

    Returns:
      A module with `init(key, images, train=False)` and `apply(variables, images, train=False)`, from float
      images [B, H, W, C] to logits [B, num_classes].

    Raises:
      ConfigError: there is no such model or argument.
    """
    builder = _builder(name)
    options = model_options(name)
    for option in kwargs:
        if option not in options:
            raise ConfigError(f"model {name} has no argument {option!r}; it has {', '.join(options) or 'none'}")
    return builder(num_classes=num_classes, norm=norm, dtype=dtype, **kwargs)
