"""Cubuk et al. 2020, RandAugment (arXiv:1909.13719), Table 2: CIFAR-10 and CIFAR-100.

    python -m resflax.train --config=experiments/cubuk2020_randaugment.py:wrn28_10     # needs CIFAR-10, see README
    python -m resflax.reproduce experiments/cubuk2020_randaugment.py --rows=digits14_rand_augment --seeds=3

The recipe of App. A.1, as the configurations of automl/trivialaugment have it too: 200 epochs of batch 128, SGD with Nesterov
momentum 0.9, rate 0.1 with a cosine schedule, weight decay 5e-4 on every parameter; N = 3 operations at level M = 5
(CIFAR-10), 2 at 14 (CIFAR-100), then crop, flip and cutout of 16 pixels. M is on AutoAugment's scale, on which 10 is the
strongest and can be exceeded; some libraries divide by 30. Magnitudes are those of automl/trivialaugment (`fixed`), which all
grow with M. Chosen here: statistics of all 128 images; what comes in from outside of an image is grey (128).

`digits14_rand_augment` is a short run on 8x8 images with N = 2 and M = 9, on which `equalize` does nothing; `digits14` of
`zhang2018_mixup` is the same without.
"""

import dataclasses

from resflax.config import BatchNormConfig, CheckpointConfig, Config, DataConfig, ModelConfig, OptimConfig
from resflax.config.files import choose_variant
from resflax.config.rows import digits14
from resflax.results.published import Published

# Table 2 has accuracies, 97.3 and 83.3; ildoonet/pytorch-randaugment repeats them.
PUBLISHED = {"wrn28_10": Published(2.7), "wrn28_10_cifar100": Published(16.7)}

WRN = Config(
    total_epochs=200,
    log_every_steps=100,
    eval_every_steps=3_910,
    data=DataConfig(
        name="cifar10", batch_size=128, eval_batch_size=1000, augment=("rand_augment:3:5", "pad_crop:4", "flip", "cutout:16")
    ),
    model=ModelConfig("cifar_wrn28_10"),
    batch_norm=BatchNormConfig(group_size=128),
    optim=OptimConfig(learning_rate=0.1, nesterov=True, weight_decay=5e-4, schedule="cosine"),
    checkpoint=CheckpointConfig(every_steps=3_910),
)


def get_config(variant: str = "wrn28_10") -> Config:
    """`wrn28_10`, `wrn28_10_cifar100`, `digits14_rand_augment`."""
    cifar100 = dataclasses.replace(WRN.data, name="cifar100", augment=("rand_augment:2:14", *WRN.data.augment[1:]))
    rows = {
        "wrn28_10": WRN,
        "wrn28_10_cifar100": dataclasses.replace(WRN, data=cifar100),
        "digits14_rand_augment": digits14(augment=("rand_augment:2:9", "pad_crop:1")),
    }
    return choose_variant(variant, rows)
