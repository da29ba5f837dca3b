"""Where the size of each model of the table is published, and what a program or a pencil other than ours counts for it.

`test_sources.py` holds the table (`resflax.models.zoo.MODELS`) to these figures. None of them was computed with `resflax`.
"""

from dataclasses import dataclass
from typing import Literal

Program = Literal["timm", "torchvision", "keras", "pytorchcv", "arithmetic"]


@dataclass(frozen=True)
class Source:
    """One row's independent counts, and the rounded figures that are in print.

    Multiply-adds are those of convolutions and dense layers, for one image. Printed figures of them are within 1 % of that
    (or of half a unit in their last digit) unless `excess` says why they are larger.
    """

    where: str
    counted_by: Program  # the exact numbers below; `test_sources.py` repeats the count
    parameters: int
    multiply_adds: int
    image_size: int = 224  # pixels on a side that `multiply_adds` and `giga` are for
    millions: str | None = None  # of parameters, as printed; None where the exact number is printed, or nothing
    millions_of: Literal["parameters", "weights", "parameters and statistics"] = "parameters"  # weights: no normalisations
    giga: str | None = None  # of multiply-adds, as printed
    excess: str = ""


_TORCHVISION = "torchvision 0.29.1, num_params and _ops of the weights in torchvision/models/{resnet,vgg}.py"
_TIMM = "huggingface/pytorch-image-models, results/benchmark-infer-amp-*.csv; the exact numbers by timm 1.0.31"
_IMGCLSMOB = "osmr/imgclsmob, gluon/README.md"
_HE_2015 = "He et al. 2015, Table 6"
_WRN = "Zagoruyko and Komodakis 2016"
_SE = "Hu et al. 2018, Eqs. 2 to 5 with biases, added to the network without"
_KERAS = "https://keras.io/api/applications; the exact numbers by keras 3.15, less the running statistics"
_TUTORIAL = "built in Keras by tests/parity/test_keras.py"

# fvcore, with which timm counts, adds 4 for each standardised weight and 5 for each value that a group norm sees. At 50x1 that
# is 4 * 23.45 M + 5 * 9.01 M = 0.139 G, and 4.089 + 0.139 rounds to the 4.23 in print.
_STANDARDISED = "also counts the standardisation of weights and the group norms"


def _torchvision(parameters: int, multiply_adds: int, giga: str) -> Source:
    return Source(_TORCHVISION, "torchvision", parameters, multiply_adds, giga=giga)


def _timm(parameters: int, millions: str, multiply_adds: int, giga: str, image_size: int = 224, excess: str = "") -> Source:
    return Source(_TIMM, "timm", parameters, multiply_adds, image_size, millions, giga=giga, excess=excess)


def _version_1(parameters: int, multiply_adds: int, giga: str) -> Source:
    # Both parameters and multiply-adds are also those of keras.applications' ResNets, less the biases of their convolutions.
    return Source(_IMGCLSMOB, "keras", parameters, multiply_adds, giga=giga)


def _keras(parameters: int, millions: str, multiply_adds: int) -> Source:
    return Source(_KERAS, "keras", parameters, multiply_adds, millions=millions, millions_of="parameters and statistics")


def _small(
    where: str, parameters: int, millions: str | None, multiply_adds: int, giga: str | None = None, by: Program = "arithmetic"
) -> Source:
    return Source(where, by, parameters, multiply_adds, 32, millions, giga=giga)


def _plain(parameters: int, multiply_adds: int) -> Source:
    return _small(f"{_HE_2015}: shortcuts of option A have no parameters", parameters, None, multiply_adds)


SOURCES: dict[str, Source] = {
    "cifar_resnet20": _small(_HE_2015, 269_722, "0.27", 40_551_040),
    "cifar_resnet32": _small(_HE_2015, 464_154, "0.46", 68_862_592),
    "cifar_resnet44": _small(_HE_2015, 658_586, "0.66", 97_174_144),
    "cifar_resnet56": _small(f"{_HE_2015}; Lin et al. 2020, HRank, the baseline", 853_018, "0.85", 125_485_696, "0.12549"),
    "cifar_resnet110": _small(f"{_HE_2015}; Lin et al. 2020, HRank, the baseline", 1_727_962, "1.7", 252_887_680, "0.25289"),
    "cifar_resnet1202": _small(_HE_2015, 19_421_274, "19.4", 2_829_238_912),
    "cifar_plain20": _plain(269_722, 40_551_040),
    "cifar_plain32": _plain(464_154, 68_862_592),
    "cifar_plain44": _plain(658_586, 97_174_144),
    "cifar_plain56": _plain(853_018, 125_485_696),
    "cifar_preresnet110": _small(f"{_WRN}, Table 5", 1_727_962, "1.7", 252_887_680),
    # imgclsmob prints exactly these parameters; its strides are on the 3x3 convolutions, the authors' on the first 1x1.
    "cifar_preresnet164": _small(f"{_WRN}, Table 5; {_IMGCLSMOB}", 1_703_258, "1.7", 244_500_992),
    "cifar_preresnet1001": Source(
        f"{_WRN}, Table 5; {_IMGCLSMOB}", "arithmetic", 10_327_706, 1_487_849_984, 32, "10.2", millions_of="weights"
    ),
    "cifar_wrn16_8": _small(f"{_WRN}, Table 5", 10_961_370, "11.0", 1_548_145_664, by="pytorchcv"),
    "cifar_wrn28_10": _small(f"{_WRN}, Table 5; {_IMGCLSMOB}", 36_479_194, "36.5", 5_243_328_768, "5.24698", "pytorchcv"),
    "cifar_wrn40_4": _small(f"{_WRN}, Table 5", 8_949_210, "8.9", 1_298_582_016, by="pytorchcv"),
    # Xie et al. 2017, Table 7, print 34.4 and 68.1: it is 68.05 without the normalisations.
    "cifar_resnext29_8x64d": _small(
        "bearpaw/pytorch-classification, README.md", 34_426_698, "34.43", 5_387_266_048, by="pytorchcv"
    ),
    "cifar_resnext29_16x64d": _small(
        f"bearpaw/pytorch-classification, README.md; {_IMGCLSMOB}", 68_155_210, "68.16", 10_688_866_304, "10.70934", "pytorchcv"
    ),
    # imgclsmob prints 1,744,664 and 1,904,882: it normalises after the stem (32 more) and not at the end (128 and 512 less),
    # and has projections where the first has none (2,560 more).
    "cifar_sepreresnet110": _small(_SE, 1_742_200, None, 252_899_776),
    "cifar_sepreresnet164": _small(_SE, 1_905_362, None, 244_694_528),
    "cifar_sewrn16_8": _small(_SE, 11_049_290, None, 1_548_231_680),
    "cifar_vgg11": _small("kuangliu/pytorch-cifar, models/vgg.py", 9_231_114, None, 152_769_536),
    "cifar_vgg13": _small("kuangliu/pytorch-cifar, models/vgg.py", 9_416_010, None, 228_267_008),
    "cifar_vgg16": _small("da2so/DA2Lite, model_zoo/README.md", 14_728_266, "14.73", 313_201_664, "0.31"),
    "cifar_vgg19": _small("da2so/DA2Lite, model_zoo/README.md", 20_040_522, "20.04", 398_136_320, "0.40"),
    "resnet18": _torchvision(11_689_512, 1_814_073_344, "1.814"),
    "resnet34": _torchvision(21_797_672, 3_663_761_408, "3.664"),
    "resnet50": _torchvision(25_557_032, 4_089_184_256, "4.089"),
    "resnet101": _torchvision(44_549_160, 7_801_405_440, "7.801"),
    "resnet152": _torchvision(60_192_808, 11_513_626_624, "11.514"),
    "resnet200": _timm(64_673_832, "64.67", 15_007_481_856, "15.07"),
    "resnet50_v1": _version_1(25_557_032, 3_857_973_248, "3.87795"),
    "resnet101_v1": _version_1(44_549_160, 7_570_194_432, "7.59795"),
    "resnet152_v1": _version_1(60_192_808, 11_282_415_616, "11.32185"),
    # Strides change no parameter; the multiply-adds by timm 1.0.31 after exchanging those of conv1 and conv2.
    "resnet200_v1": Source(_TIMM, "timm", 64_673_832, 14_776_270_848, millions="64.67"),
    "resnetv2_18": _timm(11_687_720, "11.69", 1_814_073_344, "1.82"),
    "resnetv2_34": _timm(21_795_880, "21.8", 3_663_761_408, "3.67"),
    "resnetv2_50": _timm(25_549_352, "25.55", 4_089_184_256, "4.11"),
    "resnetv2_101": _timm(44_541_480, "44.54", 7_801_405_440, "7.83"),
    "resnetv2_152": _timm(60_185_128, "60.19", 11_513_626_624, "11.55"),
    # timm has the class and no such row. imgclsmob's PreResNet-200b also normalises after the stem: 128 parameters more.
    "resnetv2_200": Source(
        f"{_WRN}, Table 8; {_IMGCLSMOB}", "timm", 64_666_152, 15_007_481_856, millions="64.7", giga="15.06863"
    ),
    "keras_resnet50v2": _keras(25_568_360, "25.6", 3_482_255_360),
    "keras_resnet101v2": _keras(44_577_896, "44.7", 7_194_476_544),
    "keras_resnet152v2": _keras(60_236_904, "60.4", 10_906_697_728),
    "resnet50c": _timm(25_576_264, "25.58", 4_328_824_832, "4.35"),
    "resnet101c": _timm(44_568_392, "44.57", 8_041_046_016, "8.08"),
    "resnet152c": _timm(60_212_040, "60.21", 11_753_267_200, "11.8"),
    "resnet18d": _timm(11_708_744, "11.71", 2_053_713_920, "2.06"),
    "resnet34d": _timm(21_816_904, "21.82", 3_903_401_984, "3.91"),
    "resnet50d": _timm(25_576_264, "25.58", 4_328_824_832, "4.35"),
    "resnet101d": _timm(44_568_392, "44.57", 8_041_046_016, "8.08"),
    "resnet152d": _timm(60_212_040, "60.21", 11_753_267_200, "11.8"),
    "resnet200d": _timm(64_693_064, "64.69", 19_913_981_952, "20.0", 256),
    "resnet50s": _timm(25_680_808, "25.68", 5_444_337_664, "5.47"),
    "resnet101s": _timm(44_672_936, "44.67", 9_156_558_848, "9.19"),
    "resnet152s": _timm(60_316_584, "60.32", 12_868_780_032, "12.92"),
    "resnet50t": _timm(25_573_728, "25.57", 4_297_213_952, "4.32"),
    "seresnet18": _timm(11_779_624, "11.78", 1_814_161_408, "1.82"),
    "seresnet34": _timm(21_960_416, "21.96", 3_663_920_128, "3.67"),
    "seresnet50": _timm(28_088_024, "28.09", 4_091_699_200, "4.11"),
    "seresnet101": _timm(49_326_872, "49.33", 7_806_148_608, "7.84"),
    "seresnet152": _timm(66_821_848, "66.82", 11_520_204_800, "11.57"),
    "resnext50_32x4d": _torchvision(25_028_904, 4_230_479_872, "4.23"),
    "resnext101_32x4d": _timm(44_177_704, "44.18", 7_969_996_800, "8.01"),
    "resnext101_32x8d": _torchvision(88_791_336, 16_414_015_488, "16.414"),
    "resnext101_64x4d": _torchvision(83_455_272, 15_460_270_080, "15.46"),
    "seresnext50_32x4d": _timm(27_559_896, "27.56", 4_232_994_816, "4.26"),
    "seresnext101_32x4d": _timm(48_955_416, "48.96", 7_974_739_968, "8.02"),
    "wide_resnet50_2": _torchvision(68_883_240, 11_398_021_120, "11.398"),
    "wide_resnet101_2": _torchvision(126_886_696, 22_753_050_624, "22.753"),
    # timm prints the larger ones at their training sizes only.
    "resnetrs50": _timm(35_691_912, "35.69", 4_454_490_112, "4.48"),
    "resnetrs101": _timm(63_618_696, "63.62", 6_012_157_952, "6.04", 192),
    "resnetrs152": _timm(86_621_576, "86.62", 15_527_886_848, "15.59", 256),
    "resnetrs200": _timm(93_209_992, "93.21", 20_093_386_752, "20.18", 256),
    "resnetrs270": _timm(129_861_448, "129.86", 26_950_189_056, "27.06", 256),
    "resnetrs350": _timm(163_956_168, "163.96", 43_493_793_792, "43.67", 288),
    "resnetrs420": _timm(191_891_656, "191.89", 63_942_344_704, "64.2", 320),
    "resnetv2_50x1_bit": _timm(25_549_352, "25.55", 4_089_184_256, "4.23", excess=_STANDARDISED),
    "resnetv2_50x3_bit": _timm(217_319_080, "217.32", 36_082_286_592, "37.06", excess=_STANDARDISED),
    "resnetv2_101x1_bit": _timm(44_541_480, "44.54", 7_801_405_440, "8.04", excess=_STANDARDISED),
    "resnetv2_101x3_bit": _timm(387_934_888, "387.93", 69_492_277_248, "71.23", excess=_STANDARDISED),
    "resnetv2_152x2_bit": _timm(236_335_208, "236.34", 45_814_382_592, "46.95", excess=_STANDARDISED),
    "resnetv2_152x4_bit": _timm(936_533_224, "936.53", 182_777_282_560, "186.9", excess=_STANDARDISED),
    "vgg11_bn": _torchvision(132_868_840, 7_609_090_048, "7.609"),
    "vgg13_bn": _torchvision(133_053_736, 11_308_466_176, "11.308"),
    "vgg16_bn": _torchvision(138_365_992, 15_470_264_320, "15.47"),
    "vgg19_bn": _torchvision(143_678_248, 19_632_062_464, "19.632"),
    "cifar_speedrun": Source(
        "KellerJordan/cifar10-airbench, airbench94_muon.py: the code alone", "arithmetic", 1_971_352, 118_147_360, 32
    ),
    "tutorial_cnn": _small(_TUTORIAL, 42_442, None, 3_915_648),
    "tutorial_resnet": Source(_TUTORIAL, "arithmetic", 64_152_552, 9_603_391_488),
}
