"""Every row of every experiment is what its paper says, as `tests/recipes/*.toml` has it, or says what it does otherwise."""

import inspect
import re

import pytest

from resflax.config import load_config
from resflax.config.files import load_experiment
from tests.recipe_table import differences, papers, recipe
from tests.test_experiments import VARIANTS

# {experiment: file of the table}; a row is called as there, but for `NAMES`.
FOLLOWS = {
    "he2015_cifar": "he2015_cifar",
    "he2016_cifar": "he2016",
    "zagoruyko2016_wrn": "wide_resnet",
    "xie2017_resnext": "resnext",
    "huang2016_stochastic_depth": "stochastic_depth",
    "hu2018_se": "squeeze_excitation",
    "goyal2017": "goyal2017",
    "he2015_imagenet": "he2015_imagenet",
    "he2019_bag_of_tricks": "bag_of_tricks",
    "wightman2021_rsb": "resnet_strikes_back",
    "leclerc2023_ffcv": "ffcv",
    "kolesnikov2020_bit": "bit",
    "cifar10_speedrun": "muon",
    "zhang2018_mixup": "mixup",
    "yun2019_cutmix": "cutmix",
    "devries2017_cutout": "cutout",
    "zhong2020_random_erasing": "random_erasing",
    "cubuk2019_autoaugment": "autoaugment",
    "cubuk2020_randaugment": "randaugment",
    "mueller2021_trivialaugment": "trivialaugment",
    "mueller2019_label_smoothing": "label_smoothing",
    "izmailov2018_swa": "swa",
    "foret2021_sam": "sam",
    "zhang2019_lookahead": "lookahead",
    "you2017_lars": "lars",
    "you2020_lamb": "lamb",
    "hinton2015_distillation": "distillation",
}
NAMES = {
    "zhang2019_lookahead": {"resnet50": "imagenet"},
    "cifar10_speedrun": {"gpu": "airbench94"},
}
# Rows of our own, by a pattern, and why no paper has them.
OURS = {
    "jordan2024_muon:resnet20": "the recipe of He et al. 2015, by Muon",
    "quickstart:.*": "digits",
    "tutorial:.*": "digits; the notebook's networks",
    "degradation:.*": "digits",
    ".*:digits.*": "digits",
    ".*:.*_782": "two epochs of a row",
    ".*:resnet56_(mixup|cutmix)": "the rule on the recipe of He et al. 2015",
    "finetune:.*": "the reader's photographs",
    "batch_norm_group:resnet.*": "a study of our own on the recipe of He et al. 2015",
    "cifar10_speedrun:cpu.*": "for two CPU cores",
    "kolesnikov2020_bit:(medium|large)": "the rule of the other rows on the reader's photographs",
    "he2019_bag_of_tricks:teacher": "of two rows; it has no number of its own",
    ".*:smoke": "twenty steps on any folder",
}
# {experiment:row, as a pattern: {key: (what it has instead, words of its docstring that say so)}}
DEVIATIONS = {
    "zhang2019_lookahead:resnet50": {"half_precision": (True, "bfloat16 for float32")},
    "cifar10_speedrun:gpu": {
        "optim.decay_mask": ("kernels", "biases do not decay"),
        "optim.weight_decay": (4e-5, "the head at less than half their rate"),
    },
    "kolesnikov2020_bit:.*": {"init.weights": ("bit.safetensors", "--config.init.weights=bit.safetensors")},
    "kolesnikov2020_bit:cifar.*": {"data.augment": (["pad_crop:16", "flip"], "moved by up to 16 of them")},
    "kolesnikov2020_bit:small": {
        "data.augment": (["scale_jitter_crop:512:512", "flip"], "after their shorter side has become 512 pixels"),
        "data.image_size": (480, "larger ones at 480 pixels"),
        "data.name": ("photos", "--config.data.name=PHOTOS"),
    },
    "leclerc2023_ffcv:.*": {
        "blur_pool": ("no such field", "Not followed: blurred pooling"),
    },
    "he2019_bag_of_tricks:.*distillation": {
        "distill.weights": ("runs/he2019_bag_of_tricks-teacher", "the row `teacher`"),
    },
    "goyal2017:.*": {"half_precision": (True, "bfloat16 for float32")},
}
# Recipes that no experiment follows, by a pattern, and why.
NOT_HERE = {
    "swa/preresnet110": "PreResNet-110 of bottlenecks",
    "sam/wrn28_10_cutout": "one augmentation of three",
    "lookahead/resnet18.*": "ResNet-18 with a 3x3 stem is not in the zoo",
    "lars/batch.*": "numbers that could not be confirmed",
    "lars/tpu16384": "one batch of two, and no number",
    "lamb/batch(512|4096|8192)": "numbers that could not be confirmed",
    "distillation/(resnet20_from_resnet110|resnet32_from_resnet110|wrn40_1_from_wrn40_2)": "two pairs of five",
    "wide_resnet/wrn16_8_dropout_svhn": "604,388 images",
    "cutout/wrn16_8_svhn": "604,388 images",
    "(mixup/preactresnet18|cutout/resnet18)": "no networks of 11 million parameters in 18 layers for small images",
    "cutmix/(pyramidnet200|resnet110)_cifar100": "no pyramids and no such bottlenecks in the zoo",
    "random_erasing/resnet(56|110)": "no such bottlenecks in the zoo",
    "(mixup|randaugment)/imagenet": "the rules are the same on any data; CutMix has a row on ImageNet",
    "he2015_imagenet/(plain.*|resnet18|resnet34_A)": "no plain ImageNet networks, none with shortcuts of option A",
    "bit/imagenet": "the row `large` with the names of ImageNet's classes",
}

ROWS = [(name, row) for name, rows in VARIANTS.items() for row in rows]
THEIRS = [(name, row) for name, row in ROWS if not any(re.fullmatch(ours, f"{name}:{row}") for ours in OURS)]
FROM_PAPERS = [(name, row) for name, row in THEIRS if name in FOLLOWS]


def followed(experiment, row):
    """The recipe of a row, `file/row`."""
    return f"{FOLLOWS[experiment]}/{NAMES.get(experiment, {}).get(row, row)}"


def said(experiment):
    """The docstring of an experiment in one line."""
    return " ".join(inspect.getdoc(load_experiment(experiment)[0]).split())


def deviations(experiment, row):
    found = {}
    for pattern, named in DEVIATIONS.items():
        if re.fullmatch(pattern, f"{experiment}:{row}"):
            found |= named
    return found


def test_every_row_follows_a_recipe_or_is_our_own():
    """Otherwise write the recipe down from the paper and name it in `FOLLOWS`, or say in `OURS` why there is none."""
    assert sorted({f"{name}:{row}" for name, row in {*THEIRS} - {*FROM_PAPERS}}) == []


@pytest.mark.parametrize(("experiment", "row"), FROM_PAPERS)
def test_a_row_is_what_its_paper_says(experiment, row):
    config, _ = load_config(f"{experiment}:{row}")
    named = deviations(experiment, row)
    found = differences(config, followed(experiment, row))
    assert {key: pair for key, pair in found.items() if key not in named} == {}
    assert {key: has for key, (_, has) in found.items()} == {key: has for key, (has, _) in named.items()}  # none is outdated


@pytest.mark.parametrize(("pattern", "key"), [(pattern, key) for pattern, named in DEVIATIONS.items() for key in named])
def test_a_deviation_is_named_where_the_row_is(pattern, key):
    assert DEVIATIONS[pattern][key][1] in said(pattern.partition(":")[0])


@pytest.mark.parametrize(("experiment", "row"), FROM_PAPERS)
def test_the_published_number_is_the_papers(experiment, row):
    published = getattr(load_experiment(experiment)[0], "PUBLISHED", {})
    ours = published[row].error if row in published else None
    assert ours == recipe(followed(experiment, row)).get("published")


def test_every_pattern_fits_a_row():
    names = [f"{name}:{row}" for name, row in ROWS]
    unused = [pattern for pattern in (*OURS, *DEVIATIONS) if not any(re.fullmatch(pattern, name) for name in names)]
    assert unused == []


def test_every_recipe_is_followed_or_missing_for_a_reason():
    recipes = {f"{paper}/{row}" for paper, content in papers().items() for row in content["rows"]}
    used = {followed(experiment, row) for experiment, row in FROM_PAPERS}
    missing = {one for one in recipes if any(re.fullmatch(pattern, one) for pattern in NOT_HERE)}
    assert recipes - used - missing == set()
    assert used & missing == set()
