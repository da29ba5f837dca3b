"""Goyal et al. 2017, Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour (arXiv:1706.02677), Sec. 2 and 5.1, Table 1.

    python -m resflax.train --config=experiments/goyal2017.py:batch8192 --config.data.name=/data/imagenet

ResNet-50 for 90 epochs; rate 0.1 for each 256 images (linear scaling), a linear warm-up over 5 epochs from 0.1, divided by 10
at epochs 30, 60 and 80; Nesterov momentum 0.9; decay 1e-4 on convolutions and the dense layer alone; normalisation over the
32 images of a worker; the last scale of each block starts at zero; random resized crop and flip; one 224-pixel central crop
of the image at 256. `batch8192`: 256 workers; `batch256`: 8, without warm-up. Colours are not changed, of which the paper
says nothing (fb.resnet.torch, whose pipeline it takes, does).

Otherwise than printed: bfloat16 for float32; biases of the dense layer do not decay either. The published errors, means of
five runs, are quoted from memory: the paper was not at hand to be checked.
"""

import dataclasses

from resflax.config import BatchNormConfig, CheckpointConfig, Config, ModelConfig, OptimConfig, PrecisionConfig
from resflax.config.files import choose_variant
from resflax.config.rows import imagenet
from resflax.results.published import Published

# Table 1, top-1 error on the validation images in percent.
PUBLISHED = {
    "batch8192": Published(23.74, "the mean of five runs, standard deviation 0.09; quoted from memory"),
    "batch256": Published(23.60, "the mean of five runs, standard deviation 0.12; quoted from memory"),
}

LARGE = Config(
    total_epochs=90,
    log_every_steps=100,
    eval_every_steps=2_000,
    data=imagenet(batch_size=8192),
    model=ModelConfig("resnet50", {"zero_gamma": True}),
    batch_norm=BatchNormConfig(group_size=32),
    optim=OptimConfig(
        learning_rate=0.1,
        base_batch_size=256,
        momentum=0.9,
        nesterov=True,
        weight_decay=1e-4,
        decay_mask="kernels",
        schedule="step",
        milestones=(30 / 90, 60 / 90, 80 / 90),
        warmup_fraction=5 / 90,
        warmup_factor=256 / 8192,  # the warm-up starts from a rate of 0.1
    ),
    precision=PrecisionConfig("bfloat16"),
    checkpoint=CheckpointConfig(every_steps=1_000),
)


def get_config(variant: str = "batch8192") -> Config:
    """`batch8192` or `batch256`, see above."""
    small = dataclasses.replace(
        LARGE,
        data=dataclasses.replace(LARGE.data, batch_size=256),
        optim=dataclasses.replace(LARGE.optim, warmup_fraction=0.0, warmup_factor=0.0),
    )
    return choose_variant(variant, {"batch8192": LARGE, "batch256": small})
