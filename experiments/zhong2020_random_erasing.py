"""Zhong et al. 2020, Random Erasing Data Augmentation (arXiv:1708.04896), Table 1: CIFAR-10.

    python -m resflax.train --config=experiments/zhong2020_random_erasing.py:resnet20     # needs CIFAR-10, see README
    python -m resflax.reproduce experiments/zhong2020_random_erasing.py --rows=digits14_random_erasing --seeds=3

The recipe of the authors' code (zhunzhong07/Random-Erasing, cifar.py): 300 epochs of batch 128, SGD with momentum 0.9, rate
0.1 divided by 10 at epochs 150 and 225, weight decay 5e-4 on every parameter, mean and deviation of each channel, random crop
after padding by 4 and flip; then, with probability 0.5, a rectangle of 2 to 40 % of the area and an aspect ratio of 0.3 to
1/0.3 is erased; shortcuts are projections. Deviations: what is erased becomes the mean (zero); the code fills with 0.49, 0.48
and 0.45 after normalisation, the paper with random values. The padding is the mean, there it is black. The number of GPUs is
not said: statistics are those of all 128 images. The code's networks of 44, 56 and 110 layers are of bottlenecks, which the
zoo does not have.

`digits14_random_erasing` is a short run on 8x8 images; `digits14` of `zhang2018_mixup` is the same without.
"""

import dataclasses

from resflax.config import BatchNormConfig, CheckpointConfig, Config, DataConfig, ModelConfig, OptimConfig
from resflax.config.files import choose_variant
from resflax.config.rows import digits14
from resflax.results.published import Published

# README of the authors' code, test error in percent.
PUBLISHED = {
    "resnet20": Published(6.73, "7.21 without erasing"),
    "resnet32": Published(5.66, "6.41 without erasing"),
    "wrn28_10": Published(3.08, "3.80 without erasing"),
}

BASE = Config(
    total_epochs=300,
    log_every_steps=100,
    eval_every_steps=3_910,
    data=DataConfig(name="cifar10", batch_size=128, eval_batch_size=1000, augment=("pad_crop:4", "flip", "random_erasing:0.5")),
    batch_norm=BatchNormConfig(group_size=128),
    optim=OptimConfig(learning_rate=0.1, weight_decay=5e-4, schedule="step", milestones=(0.5, 0.75)),
    checkpoint=CheckpointConfig(every_steps=3_910),
)
NETWORKS = {
    "resnet20": ModelConfig("cifar_resnet20", {"shortcut": "B"}),
    "resnet32": ModelConfig("cifar_resnet32", {"shortcut": "B"}),
    "wrn28_10": ModelConfig("cifar_wrn28_10"),
}


def get_config(variant: str = "resnet20") -> Config:
    """`resnet20`, `resnet32`, `wrn28_10`, `digits14_random_erasing`."""
    rows = {name: dataclasses.replace(BASE, model=model) for name, model in NETWORKS.items()}
    return choose_variant(variant, {**rows, "digits14_random_erasing": digits14(augment=("pad_crop:1", "random_erasing:0.5"))})
