"""Every variant of every experiment is a valid configuration; recipes equal tables written down independently."""

import re

import pytest

from resflax.config import load_config, validate
from tests.conftest import ROOT

HE_2015 = (
    *(f"resnet{depth}" for depth in (20, 32, 44, 56, 110, 1202)),
    *(f"plain{depth}" for depth in (20, 32, 44, 56)),
)
GROUPS = (8, 16, 32, 64, 128)
ORDERINGS = ("original", "norm_after_addition", "relu_before_addition", "relu_only_preactivation", "preactivation")


def on_both(*rows):
    return (*rows, *(f"{row}_cifar100" for row in rows))


VARIANTS = {
    "quickstart": ("resnet", "cnn"),
    "tutorial": ("cnn", "resnet"),
    "imagenet": ("smoke",),
    "goyal2017": ("batch8192", "batch256"),
    "he2015_imagenet": ("resnet34", "resnet50", "resnet101", "resnet152", "smoke"),
    "he2019_bag_of_tricks": (
        *("baseline", "linear_scaling", "warmup", "zero_gamma", "no_bias_decay", "half_precision"),
        *("resnet50b", "resnet50c", "resnet50d", "cosine", "label_smoothing"),
        *("distillation", "mixup", "mixup_distillation", "teacher", "smoke"),
    ),
    "wightman2021_rsb": ("a1", "a2", "a3", "smoke"),
    "leclerc2023_ffcv": (*(f"{name}_{epochs}" for name in ("rn50", "rn18") for epochs in (16, 24, 32, 40, 56, 88)), "smoke"),
    "kolesnikov2020_bit": ("cifar10", "cifar100", "small", "medium", "large"),
    "finetune": ("full", "head_only", "scratch"),
    "cifar10_speedrun": ("gpu", "cpu", "cpu94"),
    "zhang2018_mixup": ("wrn28_10", "wrn28_10_cifar100", "resnet56_mixup", "digits14", "digits14_mixup"),
    "yun2019_cutmix": ("imagenet", "resnet56_cutmix", "digits14_cutmix"),
    "devries2017_cutout": ("wrn28_10", "wrn28_10_cifar100", "digits14_cutout"),
    "zhong2020_random_erasing": ("resnet20", "resnet32", "wrn28_10", "digits14_random_erasing"),
    "cubuk2019_autoaugment": ("wrn28_10", "wrn28_10_cifar100", "digits14_auto_augment"),
    "cubuk2020_randaugment": ("wrn28_10", "wrn28_10_cifar100", "digits14_rand_augment"),
    "mueller2021_trivialaugment": (
        *("wrn40_2", "wrn28_10", "wrn40_2_cifar100", "wrn28_10_cifar100"),
        "digits14_trivial_augment",
    ),
    "mueller2019_label_smoothing": ("resnet56_cifar100", "digits14_label_smoothing"),
    "degradation": tuple(f"{family}{depth}" for family in ("plain", "resnet") for depth in (8, 20, 56, 110)),
    "batch_norm_group": tuple(
        f"{network}_g{group}{kind}"
        for network, groups in (("resnet20", GROUPS), ("resnet56", GROUPS), ("digits14", GROUPS[:-1]))
        for group in groups
        for kind in ("", "_unbiased", "_reestimated")
    ),
    "he2016_cifar": (
        *(f"{ordering}{depth}" for ordering in ORDERINGS[:-1] for depth in (110, 164)),
        "preresnet110",
        "original1001",
        *on_both("preresnet164", "preresnet1001"),
        *(f"original{depth}_cifar100" for depth in (164, 1001)),
        *(f"preresnet{depth}_782" for depth in (20, 110)),
        *(f"digits{depth}_{ordering}" for depth in (56, 110, 164) for ordering in ORDERINGS),
    ),
    "zagoruyko2016_wrn": (
        *on_both("wrn40_4", "wrn16_8", "wrn28_10", "wrn28_10_dropout", "wrn16_4", "wrn16_4_dropout"),
        "wrn16_4_782",
        "digits_wrn10_2",
        "digits_wrn10_2_dropout",
    ),
    "xie2017_resnext": (
        *on_both("resnext29_8x64d", "resnext29_16x64d"),
        "resnext29_8x64d_782",
        "digits11_1x64d",
        "digits11_8x14d",
    ),
    "huang2016_stochastic_depth": (
        *on_both("constant_depth", "stochastic_depth"),
        "constant_depth1202",
        "stochastic_depth1202",
        "stochastic_depth_782",
        "digits110_constant",
        "digits110_stochastic",
    ),
    "hu2018_se": (
        *on_both("se_preresnet110", "se_preresnet164", "se_wrn16_8"),
        "se_preresnet110_782",
        "digits56_plain",
        "digits56_se",
    ),
    "izmailov2018_swa": (*on_both("preresnet164", "wrn28_10"), "digits14_sgd", "digits14_swa"),
    "foret2021_sam": (*on_both("wrn28_10"), "digits14_sgd", "digits14_sam"),
    "zhang2019_lookahead": ("resnet50", "digits14_sgd", "digits14_lookahead"),
    "you2017_lars": ("tpu32768", "digits14_sgd", "digits14_lars"),
    "you2020_lamb": ("batch32768", "digits14_sgd", "digits14_lamb"),
    "jordan2024_muon": ("resnet20", "digits14_sgd", "digits14_muon"),
    "hinton2015_distillation": (
        "resnet56", "resnet20_from_resnet56", "wrn40_2", "wrn16_2_from_wrn40_2",
        "digits14_teacher", "digits8_alone", "digits8_distilled",
    ),
    "he2015_cifar": (*HE_2015, *(f"{family}{depth}_782" for family in ("resnet", "plain") for depth in (20, 32, 44, 56))),
}  # fmt: skip


def test_all_experiments_are_listed():
    assert {path.stem for path in (ROOT / "experiments").glob("*.py")} == VARIANTS.keys()


@pytest.mark.parametrize(("name", "variant"), [(name, one) for name, variants in VARIANTS.items() for one in variants])
def test_variant_is_valid(name, variant):
    config, label = load_config(f"{name}:{variant}")
    validate(config)
    assert label == f"{name}-{variant}"


@pytest.mark.parametrize("variant", HE_2015)
def test_he_2015_recipe(variant):
    """He et al. 2015, Sec. 4.2, read from the paper."""
    config, _ = load_config(f"he2015_cifar:{variant}")
    assert config.model.name == "cifar_" + variant
    assert config.model.kwargs.get("shortcut", "A") == "A"
    assert (config.total_steps, config.data.batch_size) == (64_000, 128)
    optim = config.optim
    assert (optim.name, optim.learning_rate, optim.momentum, optim.nesterov, optim.dampening) == ("sgd", 0.1, 0.9, False, 0)
    assert (optim.weight_decay, optim.decay, optim.decay_mask) == (1e-4, "coupled", "all")
    assert optim.schedule == "step"
    assert [int(point * config.total_steps) for point in optim.milestones] == [32_000, 48_000]
    assert optim.step_factor == 0.1
    assert config.batch_norm.group_size == 128 // 2  # two GPUs
    assert config.data.augment == ("pad_crop:4", "flip")
    assert config.data.normalize == "per_pixel_mean"
    assert (config.data.train_split, config.data.eval_split) == ("train", "test")
    warm = (optim.warmup_steps, optim.warmup, optim.learning_rate * optim.warmup_factor)
    assert warm == ((400, "constant", pytest.approx(0.01)) if variant == "resnet110" else (0, "linear", 0))
    assert config.loss.label_smoothing == 0
    assert config.precision.compute == "float32"


@pytest.mark.parametrize("variant", ["resnet20", "plain56"])
def test_a_shortened_row_differs_in_its_length_alone(variant):
    full, short = (load_config(f"he2015_cifar:{name}")[0] for name in (variant, f"{variant}_782"))
    assert (short.total_steps, short.model, short.data, short.optim) == (782, full.model, full.data, full.optim)
    assert short.batch_norm == full.batch_norm


def test_goyal_2017_recipe():
    """Goyal et al. 2017, Sec. 2.2, 5.1, read from the paper."""
    config, _ = load_config("goyal2017:batch8192")
    optim = config.optim
    assert (config.total_epochs, config.model.name, config.model.kwargs["zero_gamma"]) == (90, "resnet50", True)
    assert optim.learning_rate * config.data.batch_size / optim.base_batch_size == pytest.approx(3.2)
    assert [round(90 * point) for point in optim.milestones] == [30, 60, 80]
    assert (optim.nesterov, optim.momentum, optim.weight_decay, optim.decay_mask) == (True, 0.9, 1e-4, "kernels")
    assert (optim.warmup_fraction * 90, optim.warmup) == (pytest.approx(5), "linear")
    assert 3.2 * optim.warmup_factor == pytest.approx(0.1)
    assert config.batch_norm.group_size == 32
    assert (config.data.image_size, config.data.crop_ratio) == (224, 224 / 256)
    assert config.data.augment == ("random_resized_crop", "flip")


def test_docstrings_show_commands_that_parse():
    for path in (ROOT / "experiments").glob("*.py"):
        for specification in re.findall(r"--config=(\S+)", path.read_text()):
            validate(load_config(specification)[0])
