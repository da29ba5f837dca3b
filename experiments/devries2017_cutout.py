"""DeVries and Taylor 2017, Improved Regularization of Convolutional Neural Networks with Cutout (arXiv:1708.04552): CIFAR.

    python -m resflax.train --config=experiments/devries2017_cutout.py:wrn28_10     # needs CIFAR-10, see README
    python -m resflax.reproduce experiments/devries2017_cutout.py --rows=digits14_cutout --seeds=3

The recipe as in the paper (Sec. 4.2) and the authors' code (uoguelph-mlrg/Cutout, train.py): 200 epochs of batch 128, SGD with
Nesterov momentum 0.9, rate 0.1 multiplied by 0.2 at epochs 60, 120 and 160, weight decay 5e-4 on every parameter, dropout of
0.3, mean and deviation of each channel, random crop after padding by 4 and flip, one GPU; then a square of 16 pixels
(CIFAR-10) or 8 (CIFAR-100) of each normalised image is set to zero. Deviation: the padding is the mean, there it is black. The
published errors are means of five runs.

`digits14_cutout` is a short run on 8x8 images with a square of 4; `digits14` of `zhang2018_mixup` is the same without.
"""

import dataclasses

from resflax.config import BatchNormConfig, CheckpointConfig, Config, DataConfig, ModelConfig, OptimConfig
from resflax.config.files import choose_variant
from resflax.config.rows import digits14
from resflax.results.published import Published

# README of the authors' code, test error in percent.
PUBLISHED = {
    "wrn28_10": Published(3.08, "3.87 without cutout"),
    "wrn28_10_cifar100": Published(18.41, "18.8 without cutout"),
}

WRN = Config(
    total_epochs=200,
    log_every_steps=100,
    eval_every_steps=3_910,
    data=DataConfig(name="cifar10", batch_size=128, eval_batch_size=1000, augment=("pad_crop:4", "flip", "cutout:16")),
    model=ModelConfig("cifar_wrn28_10", {"dropout": 0.3}),
    batch_norm=BatchNormConfig(group_size=128),
    optim=OptimConfig(
        learning_rate=0.1, nesterov=True, weight_decay=5e-4, schedule="step", milestones=(0.3, 0.6, 0.8), step_factor=0.2
    ),
    checkpoint=CheckpointConfig(every_steps=3_910),
)


def get_config(variant: str = "wrn28_10") -> Config:
    """`wrn28_10`, `wrn28_10_cifar100`, `digits14_cutout`."""
    cifar100 = dataclasses.replace(WRN.data, name="cifar100", augment=("pad_crop:4", "flip", "cutout:8"))
    rows = {
        "wrn28_10": WRN,
        "wrn28_10_cifar100": dataclasses.replace(WRN, data=cifar100),
        "digits14_cutout": digits14(augment=("pad_crop:1", "cutout:4")),
    }
    return choose_variant(variant, rows)
