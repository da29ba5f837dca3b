"""Mueller and Hutter 2021, TrivialAugment (arXiv:2103.10158), Table 2, TA (Wide): CIFAR-10 and CIFAR-100.

    python -m resflax.train --config=experiments/mueller2021_trivialaugment.py:wrn28_10     # needs CIFAR-10, see README
    python -m resflax.reproduce experiments/mueller2021_trivialaugment.py --rows=digits14_trivial_augment --seeds=3

The recipe of the authors' code (automl/trivialaugment,
confs/wresnet28x10_cifar100_b128_maxlr.1_ta_wide_nowarmup_200epochs.yaml): 200 epochs of batch 128 on one GPU, SGD with
Nesterov momentum 0.9, rate 0.1 with a cosine schedule, weight decay 5e-4 on every parameter; one of 14 operations at one of 31
strengths, then crop, flip and cutout of 16 pixels. Deviation: the padding of the crop is the mean, there it is black. The
published errors are quoted from memory: the authors' repository does not repeat them.

`digits14_trivial_augment` is a short run on 8x8 images, on which `equalize` does nothing; `digits14` of `zhang2018_mixup` is
the same without.
"""

import dataclasses

from resflax.config import BatchNormConfig, CheckpointConfig, Config, DataConfig, ModelConfig, OptimConfig
from resflax.config.files import choose_variant
from resflax.config.rows import digits14, with_data
from resflax.results.published import Published

MEMORY = "quoted from memory"
PUBLISHED = {
    "wrn40_2": Published(3.68, MEMORY),
    "wrn28_10": Published(2.54, MEMORY),
    "wrn40_2_cifar100": Published(20.14, MEMORY),
    "wrn28_10_cifar100": Published(15.67, MEMORY),
}

BASE = Config(
    total_epochs=200,
    log_every_steps=100,
    eval_every_steps=3_910,
    data=DataConfig(
        name="cifar10", batch_size=128, eval_batch_size=1000, augment=("trivial_augment", "pad_crop:4", "flip", "cutout:16")
    ),
    batch_norm=BatchNormConfig(group_size=128),
    optim=OptimConfig(learning_rate=0.1, nesterov=True, weight_decay=5e-4, schedule="cosine"),
    checkpoint=CheckpointConfig(every_steps=3_910),
)


def get_config(variant: str = "wrn28_10") -> Config:
    """`wrn40_2`, `wrn28_10`, both with `_cifar100` too, `digits14_trivial_augment`."""
    rows = {name: dataclasses.replace(BASE, model=ModelConfig(f"cifar_{name}")) for name in ("wrn40_2", "wrn28_10")}
    rows |= {f"{name}_cifar100": with_data(row, "cifar100") for name, row in rows.items()}
    return choose_variant(variant, {**rows, "digits14_trivial_augment": digits14(augment=("trivial_augment", "pad_crop:1"))})
