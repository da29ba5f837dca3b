"""The table of models: name -> builder, paper, size of input, parameters and multiply-adds. Importing it does not import JAX.

Glossary of names. `cifar_...` are networks for small images, with a 3x3 stem and three stages; they are not the ImageNet
networks of the same depth (`cifar_resnet20` has 0.27 M parameters, `resnet18` has 11 M). ImageNet networks keep timm's and
torchvision's names.

  resnetN        version 1.5: the stride of a bottleneck is on its 3x3 convolution (torchvision's and timm's `resnetN`)
  resnetN_v1     the paper: the stride is on the first 1x1 (Caffe, keras.applications)
  resnetv2_N     version 2: normalisation and ReLU before each convolution, none after the sum
  keras_resnetNv2  version 2 with keras.applications' deviations
  resnetNc, d, s, t  He et al. 2019: c, three 3x3 convolutions in the stem; d, also a pool before the projection of a shortcut;
                 s, the stem of c twice as wide; t, d with a stem of 24, 32, 64
  resnextN_GxWd  G groups of W channels in the 3x3 of the first stage
  wide_resnetN_2 the 3x3 twice as wide
  se...          squeeze-and-excitation on each branch
  resnetrsN      ResNet-RS: d, a convolution for the stem's pool, squeeze-and-excitation of ratio 1/4
  resnetv2_NxF_bit  BiT: version 2, F times as wide, group normalisation, standardised kernels
  cifar_plainN   `cifar_resnetN` without shortcuts
  cifar_preresnetN  pre-activation units, and the other orderings of He et al. 2016, Fig. 4
  cifar_wrnN_K   the wide residual network WRN-N-K
  cifar_seresnetN, cifar_sepreresnetN, cifar_sewrnN_K  these with squeeze-and-excitation of ratio 1/16
  cifar_vggN, vggN_bn  VGG with batch normalisation, without and with hidden dense layers
  cifar_speedrun  airbench94: a whitening layer and three groups of two convolutions
  tutorial_...   the two networks of the classic Keras tutorial
"""

from __future__ import annotations

import fnmatch
import functools
import re
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

from resflax.errors import ConfigError, nearest
from resflax.models import builders

if TYPE_CHECKING:
    from flax import linen as nn

    from resflax.types import DType, NormFactory

HE_2015 = "He et al. 2015, Deep Residual Learning for Image Recognition, Sec. 4.2"
HE_2015_IMAGENET = "He et al. 2015, Deep Residual Learning for Image Recognition, Table 1"
HE_2016 = "He et al. 2016, Identity Mappings in Deep Residual Networks"
GROSS_2016 = f"{HE_2015_IMAGENET}; v1.5: Gross and Wilber 2016, Training and investigating Residual Nets"
ZAGORUYKO_2016 = "Zagoruyko and Komodakis 2016, Wide Residual Networks"
XIE_2017 = "Xie et al. 2017, Aggregated Residual Transformations for Deep Neural Networks"
HU_2018 = "Hu et al. 2018, Squeeze-and-Excitation Networks"
HE_2019 = "He et al. 2019, Bag of Tricks for Image Classification with Convolutional Neural Networks"
KOLESNIKOV_2020 = "Kolesnikov et al. 2020, Big Transfer (BiT): General Visual Representation Learning"
BELLO_2021 = "Bello et al. 2021, Revisiting ResNets: Improved Training and Scaling Strategies"
SIMONYAN_2015 = "Simonyan and Zisserman 2015, Very Deep Convolutional Networks for Large-Scale Image Recognition"
JORDAN_2024 = "Jordan 2024, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU"
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


def _row(
    input_shape: tuple[int, int, int],
    num_classes: int,
    paper: str,
    parameters: int,
    multiply_adds: int,
    builder: Callable[..., nn.Module],
    *name: int,
    **parts: Any,
) -> Model:
    bound = functools.partial(builder, *name, **parts)
    return Model(bound, paper, input_shape, num_classes, parameters, multiply_adds)


_SE: dict[str, Any] = {"squeeze_excite": 1 / 16}
_small = functools.partial(_row, (32, 32, 3), 10)
_large = functools.partial(_row, (224, 224, 3), 1000)
# ResNet v1.5; the rows below say in what they differ.
_PARTS: dict[str, Any] = {
    "stem": "7x7", "shortcut": "B", "strided": "conv2", "groups": 1, "base_width": 64, "squeeze_excite": None,
}  # fmt: skip


def _resnet(paper: str, parameters: int, multiply_adds: int, depth: int, **parts: Any) -> Model:
    return _large(paper, parameters, multiply_adds, builders.resnet, depth, **{**_PARTS, **parts})


MODELS: dict[str, Model] = {
    "cifar_resnet20": _small(HE_2015, 269_722, 40_551_040, builders.cifar_resnet, 20),
    "cifar_resnet32": _small(HE_2015, 464_154, 68_862_592, builders.cifar_resnet, 32),
    "cifar_resnet44": _small(HE_2015, 658_586, 97_174_144, builders.cifar_resnet, 44),
    "cifar_resnet56": _small(HE_2015, 853_018, 125_485_696, builders.cifar_resnet, 56),
    "cifar_resnet110": _small(HE_2015, 1_727_962, 252_887_680, builders.cifar_resnet, 110),
    "cifar_resnet1202": _small(HE_2015, 19_421_274, 2_829_238_912, builders.cifar_resnet, 1202),
    "cifar_plain20": _small(HE_2015, 269_722, 40_551_040, builders.cifar_plain, 20),
    "cifar_plain32": _small(HE_2015, 464_154, 68_862_592, builders.cifar_plain, 32),
    "cifar_plain44": _small(HE_2015, 658_586, 97_174_144, builders.cifar_plain, 44),
    "cifar_plain56": _small(HE_2015, 853_018, 125_485_696, builders.cifar_plain, 56),
    "cifar_preresnet110": _small(HE_2016, 1_727_962, 252_887_680, builders.cifar_preresnet, 110, block="basic"),
    "cifar_preresnet164": _small(HE_2016, 1_703_258, 244_500_992, builders.cifar_preresnet, 164, block="bottleneck"),
    "cifar_preresnet1001": _small(HE_2016, 10_327_706, 1_487_849_984, builders.cifar_preresnet, 1001, block="bottleneck"),
    "cifar_wrn16_8": _small(ZAGORUYKO_2016, 10_961_370, 1_548_145_664, builders.cifar_wrn, 16, 8),
    "cifar_wrn28_10": _small(ZAGORUYKO_2016, 36_479_194, 5_243_328_768, builders.cifar_wrn, 28, 10),
    "cifar_wrn40_4": _small(ZAGORUYKO_2016, 8_949_210, 1_298_582_016, builders.cifar_wrn, 40, 4),
    "cifar_resnext29_8x64d": _small(XIE_2017, 34_426_698, 5_387_266_048, builders.cifar_resnext, 29, 8, 64),
    "cifar_resnext29_16x64d": _small(XIE_2017, 68_155_210, 10_688_866_304, builders.cifar_resnext, 29, 16, 64),
    "cifar_sepreresnet110": _small(HU_2018, 1_742_200, 252_899_776, builders.cifar_preresnet, 110, block="basic", **_SE),
    "cifar_sepreresnet164": _small(HU_2018, 1_905_362, 244_694_528, builders.cifar_preresnet, 164, block="bottleneck", **_SE),
    "cifar_sewrn16_8": _small(HU_2018, 11_049_290, 1_548_231_680, builders.cifar_wrn, 16, 8, **_SE),
    "cifar_vgg11": _small(SIMONYAN_2015, 9_231_114, 152_769_536, builders.cifar_vgg, 11),
    "cifar_vgg13": _small(SIMONYAN_2015, 9_416_010, 228_267_008, builders.cifar_vgg, 13),
    "cifar_vgg16": _small(SIMONYAN_2015, 14_728_266, 313_201_664, builders.cifar_vgg, 16),
    "cifar_vgg19": _small(SIMONYAN_2015, 20_040_522, 398_136_320, builders.cifar_vgg, 19),
    "resnet18": _resnet(HE_2015_IMAGENET, 11_689_512, 1_814_073_344, 18),
    "resnet34": _resnet(HE_2015_IMAGENET, 21_797_672, 3_663_761_408, 34),
    "resnet50": _resnet(GROSS_2016, 25_557_032, 4_089_184_256, 50),
    "resnet101": _resnet(GROSS_2016, 44_549_160, 7_801_405_440, 101),
    "resnet152": _resnet(GROSS_2016, 60_192_808, 11_513_626_624, 152),
    "resnet200": _resnet(GROSS_2016, 64_673_832, 15_007_481_856, 200),
    "resnet50_v1": _resnet(HE_2015_IMAGENET, 25_557_032, 3_857_973_248, 50, strided="conv1"),
    "resnet101_v1": _resnet(HE_2015_IMAGENET, 44_549_160, 7_570_194_432, 101, strided="conv1"),
    "resnet152_v1": _resnet(HE_2015_IMAGENET, 60_192_808, 11_282_415_616, 152, strided="conv1"),
    "resnet200_v1": _resnet(HE_2015_IMAGENET, 64_673_832, 14_776_270_848, 200, strided="conv1"),
    "resnetv2_18": _large(HE_2016, 11_687_720, 1_814_073_344, builders.resnetv2, 18),
    "resnetv2_34": _large(HE_2016, 21_795_880, 3_663_761_408, builders.resnetv2, 34),
    "resnetv2_50": _large(HE_2016, 25_549_352, 4_089_184_256, builders.resnetv2, 50),
    "resnetv2_101": _large(HE_2016, 44_541_480, 7_801_405_440, builders.resnetv2, 101),
    "resnetv2_152": _large(HE_2016, 60_185_128, 11_513_626_624, builders.resnetv2, 152),
    "resnetv2_200": _large(HE_2016, 64_666_152, 15_007_481_856, builders.resnetv2, 200),
    "keras_resnet50v2": _large(HE_2016, 25_568_360, 3_482_255_360, builders.keras_resnetv2, 50),
    "keras_resnet101v2": _large(HE_2016, 44_577_896, 7_194_476_544, builders.keras_resnetv2, 101),
    "keras_resnet152v2": _large(HE_2016, 60_236_904, 10_906_697_728, builders.keras_resnetv2, 152),
    "resnet50c": _resnet(HE_2019, 25_576_264, 4_328_824_832, 50, stem="deep"),
    "resnet101c": _resnet(HE_2019, 44_568_392, 8_041_046_016, 101, stem="deep"),
    "resnet152c": _resnet(HE_2019, 60_212_040, 11_753_267_200, 152, stem="deep"),
    "resnet18d": _resnet(HE_2019, 11_708_744, 2_053_713_920, 18, stem="deep", shortcut="D"),
    "resnet34d": _resnet(HE_2019, 21_816_904, 3_903_401_984, 34, stem="deep", shortcut="D"),
    "resnet50d": _resnet(HE_2019, 25_576_264, 4_328_824_832, 50, stem="deep", shortcut="D"),
    "resnet101d": _resnet(HE_2019, 44_568_392, 8_041_046_016, 101, stem="deep", shortcut="D"),
    "resnet152d": _resnet(HE_2019, 60_212_040, 11_753_267_200, 152, stem="deep", shortcut="D"),
    "resnet200d": _resnet(HE_2019, 64_693_064, 15_247_122_432, 200, stem="deep", shortcut="D"),
    "resnet50s": _resnet(HE_2019, 25_680_808, 5_444_337_664, 50, stem="deep_wide"),
    "resnet101s": _resnet(HE_2019, 44_672_936, 9_156_558_848, 101, stem="deep_wide"),
    "resnet152s": _resnet(HE_2019, 60_316_584, 12_868_780_032, 152, stem="deep_wide"),
    "resnet50t": _resnet(HE_2019, 25_573_728, 4_297_213_952, 50, stem="deep_tiered", shortcut="D"),
    "seresnet18": _resnet(HU_2018, 11_779_624, 1_814_161_408, 18, squeeze_excite=1 / 16),
    "seresnet34": _resnet(HU_2018, 21_960_416, 3_663_920_128, 34, squeeze_excite=1 / 16),
    "seresnet50": _resnet(HU_2018, 28_088_024, 4_091_699_200, 50, squeeze_excite=1 / 16),
    "seresnet101": _resnet(HU_2018, 49_326_872, 7_806_148_608, 101, squeeze_excite=1 / 16),
    "seresnet152": _resnet(HU_2018, 66_821_848, 11_520_204_800, 152, squeeze_excite=1 / 16),
    "resnext50_32x4d": _resnet(XIE_2017, 25_028_904, 4_230_479_872, 50, groups=32, base_width=4),
    "resnext101_32x4d": _resnet(XIE_2017, 44_177_704, 7_969_996_800, 101, groups=32, base_width=4),
    "resnext101_32x8d": _resnet(XIE_2017, 88_791_336, 16_414_015_488, 101, groups=32, base_width=8),
    "resnext101_64x4d": _resnet(XIE_2017, 83_455_272, 15_460_270_080, 101, groups=64, base_width=4),
    "seresnext50_32x4d": _resnet(HU_2018, 27_559_896, 4_232_994_816, 50, groups=32, base_width=4, squeeze_excite=1 / 16),
    "seresnext101_32x4d": _resnet(HU_2018, 48_955_416, 7_974_739_968, 101, groups=32, base_width=4, squeeze_excite=1 / 16),
    "wide_resnet50_2": _resnet(ZAGORUYKO_2016, 68_883_240, 11_398_021_120, 50, base_width=128),
    "wide_resnet101_2": _resnet(ZAGORUYKO_2016, 126_886_696, 22_753_050_624, 101, base_width=128),
    "resnetrs50": _resnet(BELLO_2021, 35_691_912, 4_454_490_112, 50, stem="deep_unpooled", shortcut="D", squeeze_excite=1 / 4),
    "resnetrs101": _resnet(
        BELLO_2021, 63_618_696, 8_175_624_192, 101, stem="deep_unpooled", shortcut="D", squeeze_excite=1 / 4
    ),
    "resnetrs152": _resnet(
        BELLO_2021, 86_621_576, 11_895_185_408, 152, stem="deep_unpooled", shortcut="D", squeeze_excite=1 / 4
    ),
    "resnetrs200": _resnet(
        BELLO_2021, 93_209_992, 15_391_137_792, 200, stem="deep_unpooled", shortcut="D", squeeze_excite=1 / 4
    ),
    "resnetrs270": _resnet(
        BELLO_2021, 129_861_448, 20_643_618_816, 270, stem="deep_unpooled", shortcut="D", squeeze_excite=1 / 4
    ),
    "resnetrs350": _resnet(
        BELLO_2021, 163_956_168, 26_332_012_544, 350, stem="deep_unpooled", shortcut="D", squeeze_excite=1 / 4
    ),
    "resnetrs420": _resnet(
        BELLO_2021, 191_891_656, 31_363_342_336, 420, stem="deep_unpooled", shortcut="D", squeeze_excite=1 / 4
    ),
    "resnetv2_50x1_bit": _large(KOLESNIKOV_2020, 25_549_352, 4_089_184_256, builders.bit, 50, 1),
    "resnetv2_50x3_bit": _large(KOLESNIKOV_2020, 217_319_080, 36_082_286_592, builders.bit, 50, 3),
    "resnetv2_101x1_bit": _large(KOLESNIKOV_2020, 44_541_480, 7_801_405_440, builders.bit, 101, 1),
    "resnetv2_101x3_bit": _large(KOLESNIKOV_2020, 387_934_888, 69_492_277_248, builders.bit, 101, 3),
    "resnetv2_152x2_bit": _large(KOLESNIKOV_2020, 236_335_208, 45_814_382_592, builders.bit, 152, 2),
    "resnetv2_152x4_bit": _large(KOLESNIKOV_2020, 936_533_224, 182_777_282_560, builders.bit, 152, 4),
    "vgg11_bn": _large(SIMONYAN_2015, 132_868_840, 7_609_090_048, builders.vgg, 11),
    "vgg13_bn": _large(SIMONYAN_2015, 133_053_736, 11_308_466_176, builders.vgg, 13),
    "vgg16_bn": _large(SIMONYAN_2015, 138_365_992, 15_470_264_320, builders.vgg, 16),
    "vgg19_bn": _large(SIMONYAN_2015, 143_678_248, 19_632_062_464, builders.vgg, 19),
    "cifar_speedrun": _small(JORDAN_2024, 1_971_352, 118_147_360, builders.cifar_speedrun),
    "tutorial_cnn": _small(TUTORIAL, 42_442, 3_915_648, builders.tutorial_cnn),
    "tutorial_resnet": _large(TUTORIAL, 64_152_552, 9_603_391_488, builders.tutorial_resnet),
}
# Networks of these families can be built at any depth and width that fits; only published ones have a row.
_FAMILIES: dict[str, tuple[Callable[..., nn.Module], int, int]] = {  # name: builder, and k, r of the depth kn + r
    r"cifar_resnet(\d{1,4})": (builders.cifar_resnet, 6, 2),
    r"cifar_plain(\d{1,4})": (builders.cifar_plain, 6, 2),
    r"cifar_preresnet(\d{1,4})": (functools.partial(builders.cifar_preresnet, block="basic"), 6, 2),
    r"cifar_wrn(\d{1,4})_(\d{1,4})": (builders.cifar_wrn, 6, 4),
    r"cifar_resnext(\d{1,4})_(\d{1,4})x(\d{1,4})d": (builders.cifar_resnext, 9, 2),
    r"cifar_seresnet(\d{1,4})": (functools.partial(builders.cifar_resnet, **_SE), 6, 2),
    r"cifar_sepreresnet(\d{1,4})": (functools.partial(builders.cifar_preresnet, block="basic", **_SE), 6, 2),
    r"cifar_sewrn(\d{1,4})_(\d{1,4})": (functools.partial(builders.cifar_wrn, **_SE), 6, 4),
}


def list_models(pattern: str = "*") -> list[str]:
    """The names of the table that match a shell pattern, in alphabetical order."""
    return sorted(fnmatch.filter(MODELS, pattern))


def _builder(name: str) -> Callable[..., nn.Module]:
    if name in MODELS:
        return MODELS[name].builder
    for pattern, (builder, step, rest) in _FAMILIES.items():
        match = re.fullmatch(pattern, name)
        if not match:
            continue
        numbers = [int(number) for number in match.groups()]
        depth = numbers[0]
        if depth < step + rest or depth % step != rest:
            near = step * max(1, round((depth - rest) / step)) + rest
            family = name[: match.start(1)]
            allowed = ", ".join(str(step * n + rest) for n in (1, 2, 3))
            raise ConfigError(
                f"the depth of {family} must be {step}n+{rest} ({allowed}, ...), got {depth}; "
                f"use {family}{near}{name[match.end(1) :]}"
            )
        if 0 in numbers:
            raise ConfigError(f"the widths of a network must be at least 1, got {name}; use {name[: match.end(1)]}_1")
        return functools.partial(builder, *numbers)
    # The ImageNet names without their prefix are what people type for the CIFAR networks.
    likely = [f"cifar_{name}"] if f"cifar_{name}" in MODELS else nearest(name, MODELS, 3)
    raise ConfigError(f"there is no model {name!r}; did you mean {', '.join(likely)}?")


def check_model(name: str) -> None:
    """Raises `ConfigError` unless `name` can be built."""
    _builder(name)


def model_options(name: str) -> dict[str, Any]:
    """`{argument: type}` of what a user may choose for model `name`, from its builder's signature."""
    builder = _builder(name)
    function, bound = (builder.func, builder.keywords) if isinstance(builder, functools.partial) else (builder, {})
    chosen = [option for option in function.__kwdefaults__ or {} if option not in ("norm", "dtype") and option not in bound]
    options = {option: function.__annotations__[option] for option in chosen}
    # Only these are resolved: the types of the others (NormFactory, DType) live in modules that import JAX.
    return get_type_hints(types.SimpleNamespace(__annotations__=options), globalns=function.__globals__, include_extras=True)


def create_model(
    name: str, num_classes: int | None, *, norm: NormFactory | None = None, dtype: DType = None, **kwargs: Any
) -> nn.Module:
    """Builds a linen module by name.

    Args:
      name: a name of `list_models()`, or a family with any valid numbers (`cifar_resnet14`, `cifar_wrn22_2`).
      num_classes: the length of the logits; None: the module returns features instead, a backbone.
      norm: makes a batch normalisation; None is the model's own default, `resflax.nn.BatchNorm` in most.
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
