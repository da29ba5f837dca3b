"""ImageNet recipes.

    python -m resflax.train --config=experiments/imagenet.py:goyal2017 --config.data.name=/data/imagenet
    python -m resflax.train --config=experiments/imagenet.py:smoke --config.data.name=FOLDER

`goyal2017`: ResNet-50 as in Goyal et al. 2017, Accurate, Large Minibatch SGD, Sec. 2 and 5.1: 90 epochs, rate 0.1 for each
256 images with linear scaling, a linear warm-up over 5 epochs from 0.1, divided by 10 at epochs 30, 60 and 80; Nesterov
momentum 0.9; decay 1e-4 on convolutions and the dense layer alone; normalisation over the 32 images of a worker; the last
scale of each block starts at zero; random resized crop and flip; one 224-pixel central crop of the image at 256. The
batch here is 8192; with `--config.data.batch_size=256` the rate follows. Not followed: colour jitter and PCA lighting;
activations are bfloat16 for float32. Accuracy: not run.

`smoke`: the same network for 20 small steps on any folder of images.
"""

import dataclasses

from resflax.config import BatchNormConfig, CheckpointConfig, Config, DataConfig, ModelConfig, OptimConfig, PrecisionConfig
from resflax.config.files import choose_variant
from resflax.results.published import Published

# Table 1, top-1 error of one central crop in percent.
PUBLISHED = {
    "goyal2017": Published(23.74, "the mean of five runs, whose standard deviation is 0.09; 23.60 with batches of 256")
}

GOYAL = Config(
    total_epochs=90,
    log_every_steps=100,
    eval_every_steps=2_000,
    data=DataConfig(
        name="imagenet",
        train_split="train",
        eval_split="val",
        batch_size=8192,
        eval_batch_size=2048,
        image_size=224,
        crop_ratio=224 / 256,
        augment=("random_resized_crop", "flip"),
    ),
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

SMOKE = dataclasses.replace(
    GOYAL,
    total_epochs=None,
    total_steps=20,
    log_every_steps=1,
    eval_every_steps=0,
    data=dataclasses.replace(GOYAL.data, batch_size=8, eval_batch_size=8, eval_split="test"),
    batch_norm=BatchNormConfig(group_size=8),
    precision=PrecisionConfig("float32"),
    checkpoint=CheckpointConfig(every_steps=5),
)


def get_config(variant: str = "goyal2017") -> Config:
    """`goyal2017` or `smoke`, see above."""
    return choose_variant(variant, {"goyal2017": GOYAL, "smoke": SMOKE})
