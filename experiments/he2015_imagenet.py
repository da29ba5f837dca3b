"""He et al. 2015, Deep Residual Learning for Image Recognition, Sec. 3.4 and 4.1, Tables 3 and 4: ImageNet.

    python -m resflax.train --config=experiments/he2015_imagenet.py:resnet50 --config.data.name=/data/imagenet
    python -m resflax.train --config=experiments/he2015_imagenet.py:smoke --config.data.name=FOLDER

The recipe as printed: the shorter side is resized to a random length from 256 to 480, a random crop of 224 pixels or its
mirror image is taken, the per-pixel mean is subtracted, colours are changed as by Krizhevsky et al. 2012; batches of 256,
rate 0.1, momentum 0.9, weight decay 1e-4, no dropout, up to 600,000 iterations; projections where the shape changes (option
B); the stride of a bottleneck is on its first 1x1. Errors are those of ten crops of 224 pixels.

Not printed, chosen here: the rate is divided by 10 "when the error plateaus", here after 30, 60 and 90 of the 120 epochs that
600,000 iterations are; normalisation over the 32 images of each of 8 GPUs (of the released models); the shorter side is 256
pixels when it is tested; pixels are scaled to 0..1; the mean image is that of the central crops of 1000 training images,
spread evenly. The principal components of colours are those of fb.resnet.torch, and pixels are clipped after the change.
Logits of the crops are averaged.

Without a row: the plain networks of Table 2, and the residual ones with shortcuts of option A and C; ImageNet networks here
have option B. `smoke`: ResNet-34 for twenty small steps, with ten crops at the end.
"""

import dataclasses

from resflax.config import BatchNormConfig, CheckpointConfig, Config, ModelConfig, OptimConfig
from resflax.config.files import choose_variant
from resflax.config.rows import imagenet, smoke
from resflax.results.published import Published

# Tables 3 and 4, top-1 error of ten crops of the validation images in percent.
PUBLISHED = {
    "resnet34": Published(24.52, "quoted from memory, the others agree with the README of the released models"),
    "resnet50": Published(22.85),
    "resnet101": Published(21.75),
    "resnet152": Published(21.43),
}

BASE = Config(
    total_steps=600_000,
    log_every_steps=100,
    eval_every_steps=20_000,
    data=imagenet(
        batch_size=256,
        eval_batch_size=256,
        normalize="per_pixel_mean",
        augment=("scale_jitter_crop:256:480", "pca_lighting:0.1", "flip"),
        eval_views="ten_crop",
    ),
    batch_norm=BatchNormConfig(group_size=32),
    optim=OptimConfig(
        learning_rate=0.1, momentum=0.9, weight_decay=1e-4, decay_mask="all", schedule="step", milestones=(0.25, 0.5, 0.75)
    ),
    checkpoint=CheckpointConfig(every_steps=5_000),
)


def get_config(variant: str = "resnet50") -> Config:
    """`resnet34`, `resnet50`, `resnet101`, `resnet152` or `smoke`."""
    names = {"resnet34": "resnet34", **{f"resnet{depth}": f"resnet{depth}_v1" for depth in (50, 101, 152)}}
    rows = {row: dataclasses.replace(BASE, model=ModelConfig(name, {"zero_gamma": False})) for row, name in names.items()}
    return choose_variant(variant, rows | {"smoke": smoke(rows["resnet34"])})
