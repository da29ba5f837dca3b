"""He et al. 2015, Deep Residual Learning for Image Recognition, Sec. 4.2 and Table 6: CIFAR-10.

    python -m resflax.train --config=experiments/he2015_cifar.py:resnet56     # needs CIFAR-10, see README
    python -m resflax.train --config=experiments/he2015_cifar.py:resnet20_782  # two epochs, eight minutes on two CPU cores
    python -m resflax.reproduce experiments/he2015_cifar.py --seeds=5         # all rows of the paper

The recipe as printed: 64k iterations of batch 128; rate 0.1, divided by 10 at 32k and 48k; momentum 0.9; weight decay 1e-4
on every parameter, as an L2 term; no dropout; He initialisation; option A shortcuts; the mean image is subtracted;
4 pixels of padding, a random crop, a random flip; the test scores the single view. "Two GPUs" with a batch of 128 means
normalisation over 64 images. ResNet-110 starts at a rate of 0.01 until its training error is below 80 % (about 400
iterations); here for exactly 400.

Not printed, chosen here: pixels are scaled to 0..1 before the mean image is subtracted; the velocity is multiplied by the
rate (PyTorch's form; Caffe's differs when the rate changes); running statistics have momentum 0.9 and are biased.

The rows `..._782` are not the paper's: the same recipe cut to 782 iterations, two epochs, divided at 391 and 586 of them.
"""

import dataclasses

from resflax.config import BatchNormConfig, CheckpointConfig, Config, DataConfig, ModelConfig, OptimConfig
from resflax.config.files import choose_variant
from resflax.config.rows import shortened
from resflax.results.published import Published

CURVE = "the paper shows its curve (Fig. 6) and no number"
# Table 6, CIFAR-10 test error in percent.
PUBLISHED = {
    "resnet20": Published(8.75),
    "plain20": Published(None, CURVE),
    "resnet32": Published(7.51),
    "plain32": Published(None, CURVE),
    "resnet44": Published(7.17),
    "plain44": Published(None, CURVE),
    "resnet56": Published(6.97),
    "plain56": Published(None, CURVE),
    "resnet110": Published(6.43, "the best of five runs, whose mean is 6.61 and whose standard deviation is 0.16"),
    "resnet1202": Published(7.93),
}

BASE = Config(
    total_steps=64_000,
    log_every_steps=100,
    eval_every_steps=2_000,
    data=DataConfig(
        name="cifar10", batch_size=128, eval_batch_size=1000, normalize="per_pixel_mean", augment=("pad_crop:4", "flip")
    ),
    batch_norm=BatchNormConfig(group_size=64),
    optim=OptimConfig(learning_rate=0.1, momentum=0.9, weight_decay=1e-4, decay="coupled", decay_mask="all", schedule="step"),
    checkpoint=CheckpointConfig(every_steps=2_000),
)


def get_config(variant: str = "resnet20") -> Config:
    """`resnet20` ... `resnet1202`, `plain20` ... `plain56`; cut short, `resnet20_782` ... `plain56_782`."""
    both = [f"{family}{depth}" for family in ("resnet", "plain") for depth in (20, 32, 44, 56)]
    rows = {name: dataclasses.replace(BASE, model=ModelConfig(f"cifar_{name}")) for name in (*both, "resnet110", "resnet1202")}
    slow_start = dataclasses.replace(BASE.optim, warmup_steps=400, warmup="constant", warmup_factor=0.1)
    rows["resnet110"] = dataclasses.replace(rows["resnet110"], optim=slow_start)
    looped = ModelConfig("cifar_resnet1202", {"repeat": "scan_remat"})  # unrolled it would compile for minutes
    rows["resnet1202"] = dataclasses.replace(rows["resnet1202"], model=looped)
    return choose_variant(variant, rows | {f"{name}_782": shortened(rows[name]) for name in both})
