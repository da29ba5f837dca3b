"""Xie et al. 2017, Aggregated Residual Transformations for Deep Neural Networks, Table 7: CIFAR-10 and CIFAR-100.

    python -m resflax.train --config=experiments/xie2017_resnext.py:resnext29_8x64d     # needs CIFAR-10, see README
    python -m resflax.reproduce experiments/xie2017_resnext.py --rows=digits11_1x64d,digits11_8x14d --seeds=3

The recipe as printed (appendix A): 300 epochs of batch 128 on 8 GPUs, which means normalisation over 16 images; rate 0.1,
divided by 10 at epochs 150 and 225; momentum 0.9; weight decay 5e-4; zero-padded random crops and flips. Published errors are
means of ten runs.

From the authors' code (facebookresearch/ResNeXt): Nesterov momentum, the decay an L2 term of every parameter, pixels
normalised by mean and standard deviation of each channel. Deviation: the code divides the rate after 147 and 222 epochs (0.49
and 0.74 of the run), here it is at 150 and 225 as printed.

`resnext29_8x64d_782` is cut to two epochs. The rows `digits11_...` have 11 layers, which is one block a stage, on 8x8 images,
150 steps of batch 64 at a rate of 0.03: one group of 64 channels is a ResNet of bottlenecks, eight of 14 cost about as much
(Table 2).
"""

import dataclasses

from resflax.config import BatchNormConfig, CheckpointConfig, Config, DataConfig, ModelConfig, OptimConfig
from resflax.config.files import choose_variant, load_config
from resflax.config.rows import shortened, with_data
from resflax.results.published import Published

# Table 7, test error in percent.
PUBLISHED = {
    "resnext29_8x64d": Published(3.65),
    "resnext29_16x64d": Published(3.58),
    "resnext29_8x64d_cifar100": Published(17.77),
    "resnext29_16x64d_cifar100": Published(17.31),
}

BASE = Config(
    total_epochs=300,
    log_every_steps=100,
    eval_every_steps=3_910,
    data=DataConfig(
        name="cifar10", batch_size=128, eval_batch_size=1000, normalize="per_channel", augment=("pad_crop:4", "flip")
    ),
    batch_norm=BatchNormConfig(group_size=16),
    optim=OptimConfig(learning_rate=0.1, nesterov=True, weight_decay=5e-4, schedule="step", milestones=(0.5, 0.75)),
    checkpoint=CheckpointConfig(every_steps=3_910),
)


def get_config(variant: str = "resnext29_8x64d") -> Config:
    """The names in `PUBLISHED`; `resnext29_8x64d_782`; `digits11_1x64d`, `digits11_8x14d`."""
    rows = {name: dataclasses.replace(BASE, model=ModelConfig(f"cifar_{name}")) for name in list(PUBLISHED)[:2]}
    rows |= {f"{name}_cifar100": with_data(row, "cifar100") for name, row in rows.items()}
    rows["resnext29_8x64d_782"] = shortened(rows["resnext29_8x64d"])
    rows |= {f"digits11_{template}": digits_row(template) for template in ("1x64d", "8x14d")}
    return choose_variant(variant, rows)


def digits_row(template: str) -> Config:
    """A short run on the embedded digits."""
    base, _ = load_config("degradation:resnet20")
    return dataclasses.replace(base, model=ModelConfig(f"cifar_resnext11_{template}"))
