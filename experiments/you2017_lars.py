"""You et al. 2017, Large Batch Training of Convolutional Networks: LARS, as Ying et al. 2018 used it for ResNet-50.

    python -m resflax.train --config=experiments/you2017_lars.py:tpu32768 --config.data.name=/data/imagenet
    python -m resflax.reproduce experiments/you2017_lars.py --rows=digits14_sgd,digits14_lars --seeds=3

`tpu32768`: ResNet-50 on ImageNet with batches of 32,768 for 90 epochs (Ying et al. 2018, Image Classification at
Supercomputer Scale, and tensorflow/tpu, lars_util.py and resnet_config.py): LARS with a trust coefficient of 0.001,
momentum 0.9 and decay 1e-4 of kernels alone; a linear warm-up over 12 epochs to a rate of 34, from there on the square of
what is left; label smoothing 0.1. Their batches are normalised over several cores together; here over 64 images. Accuracy:
not run.

Deviations: their decay of the rate begins where the warm-up ends, here it lies under it and counts from the start of the
run. LARS divides by the norm of gradient and decay together, see `resflax.optim.layerwise.trust_ratio`. The numbers of You
et al. themselves, for batches of 8,192 to 32,768, could not be confirmed here and have no row.

`digits14_sgd` and `digits14_lars` are short runs on the embedded digits: 300 steps with batches of 64, at a trust
coefficient of 0.01 and a rate of 1.
"""

import dataclasses

from resflax.config import (
    BatchNormConfig,
    CheckpointConfig,
    Config,
    LossConfig,
    ModelConfig,
    OptimConfig,
    PrecisionConfig,
)
from resflax.config.files import choose_variant
from resflax.config.rows import digits14, imagenet
from resflax.results.published import Published

PUBLISHED = {"tpu32768": Published(23.7, "76.3 % in 2.2 minutes on 1024 TPU v3 chips, Ying et al. 2018, abstract")}

TPU = Config(
    total_epochs=90,
    log_every_steps=10,
    eval_every_steps=500,
    data=imagenet(batch_size=32_768),
    model=ModelConfig("resnet50", {"zero_gamma": True}),
    batch_norm=BatchNormConfig(group_size=64),
    optim=OptimConfig(
        name="lars",
        learning_rate=34.0,
        weight_decay=1e-4,
        decay_mask="kernels",
        schedule="polynomial",
        power=2.0,
        warmup_epochs=12,
    ),
    loss=LossConfig(label_smoothing=0.1),
    precision=PrecisionConfig("bfloat16"),
    checkpoint=CheckpointConfig(every_steps=500),
)


def get_config(variant: str = "tpu32768") -> Config:
    """`tpu32768`; `digits14_sgd`, `digits14_lars`."""
    digits = digits14()
    optim = dataclasses.replace(digits.optim, name="lars", learning_rate=1.0, trust_coefficient=0.01)
    return choose_variant(
        variant, {"tpu32768": TPU, "digits14_sgd": digits, "digits14_lars": dataclasses.replace(digits, optim=optim)}
    )
