"""Zagoruyko and Komodakis 2016, Wide Residual Networks, Tables 5 and 6: CIFAR-10 and CIFAR-100.

    python -m resflax.train --config=experiments/zagoruyko2016_wrn.py:wrn28_10     # needs CIFAR-10, see README
    python -m resflax.reproduce experiments/zagoruyko2016_wrn.py --rows=digits_wrn10_2,digits_wrn10_2_dropout --seeds=3

The recipe as printed: SGD with Nesterov momentum 0.9 and dampening 0, batch 128, 200 epochs, rate 0.1, multiplied by 0.2 at
60, 120 and 160 epochs, weight decay 5e-4; pixels are normalised by mean and standard deviation of each channel, images are
flipped and cropped after padding by 4 pixels of their reflection. Dropout of 0.3 stands between the convolutions of a unit.
Published errors are medians of five runs.

From the authors' code (train.lua, models/wide-resnet.lua): the decay is an L2 term of every parameter; one GPU, so that
statistics are those of all 128 images; the linear layer's bias starts at zero. Deviations: the code drops the last,
incomplete batch of an epoch and changes the rate as epochs 60, 120 and 160 begin, here batches go on into the next epoch and
the rate changes as they end; kernels are drawn with the fan-out, not the fan-in, and the scales of normalisations start at 1,
not uniform in 0..1, which was Torch's default.

`wrn16_4_782` is cut to two epochs. The rows `digits_...` are short runs on 8x8 images: 150 steps of batch 64, this schedule
and decay, a rate of 0.05, without augmentation.
"""

import dataclasses
from typing import Any

from resflax.config import BatchNormConfig, CheckpointConfig, Config, DataConfig, ModelConfig, OptimConfig
from resflax.config.files import choose_variant
from resflax.config.rows import shortened, with_data
from resflax.results.published import Published

# Tables 5 and 6, test error in percent.
PUBLISHED = {
    "wrn40_4": Published(4.53),
    "wrn16_8": Published(4.27),
    "wrn28_10": Published(4.00),
    "wrn28_10_dropout": Published(3.89),
    "wrn16_4": Published(5.02),
    "wrn16_4_dropout": Published(5.24),
    "wrn40_4_cifar100": Published(21.18),
    "wrn16_8_cifar100": Published(20.43),
    "wrn28_10_cifar100": Published(19.25),
    "wrn28_10_dropout_cifar100": Published(18.85),
    "wrn16_4_cifar100": Published(24.03),
    "wrn16_4_dropout_cifar100": Published(23.91),
}

BASE = Config(
    total_epochs=200,
    log_every_steps=100,
    eval_every_steps=3_910,
    data=DataConfig(
        name="cifar10", batch_size=128, eval_batch_size=1000, normalize="per_channel", augment=("reflect_crop:4", "flip")
    ),
    batch_norm=BatchNormConfig(group_size=128),
    optim=OptimConfig(
        learning_rate=0.1, nesterov=True, weight_decay=5e-4, schedule="step", milestones=(0.3, 0.6, 0.8), step_factor=0.2
    ),
    checkpoint=CheckpointConfig(every_steps=3_910),
)
DROPOUT: dict[str, Any] = {"dropout": 0.3}


def get_config(variant: str = "wrn16_8") -> Config:
    """The names in `PUBLISHED`; `wrn16_4_782`; `digits_wrn10_2`, `digits_wrn10_2_dropout`."""
    rows = {}
    for name in ("wrn40_4", "wrn16_8", "wrn28_10", "wrn16_4"):
        for suffix, kwargs in (("", {}), ("_dropout", DROPOUT)):
            rows[name + suffix] = dataclasses.replace(BASE, model=ModelConfig(f"cifar_{name}", kwargs))
    rows |= {f"{name}_cifar100": with_data(row, "cifar100") for name, row in rows.items()}
    rows = {name: rows[name] for name in PUBLISHED}
    return choose_variant(
        variant,
        {
            **rows,
            "wrn16_4_782": shortened(rows["wrn16_4"]),
            "digits_wrn10_2": digits_row({}),
            "digits_wrn10_2_dropout": digits_row(DROPOUT),
        },
    )


def digits_row(kwargs: dict[str, Any]) -> Config:
    """A short run on the embedded digits."""
    return dataclasses.replace(
        BASE,
        total_epochs=None,
        total_steps=150,
        log_every_steps=10,
        eval_every_steps=50,
        data=DataConfig(name="digits", batch_size=64, eval_batch_size=360),
        model=ModelConfig("cifar_wrn10_2", kwargs),
        batch_norm=BatchNormConfig(group_size=64),
        optim=dataclasses.replace(BASE.optim, learning_rate=0.05),
        checkpoint=CheckpointConfig(every_steps=75),
    )
