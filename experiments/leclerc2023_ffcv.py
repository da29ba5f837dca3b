"""Leclerc et al. 2023, FFCV: Accelerating Training by Removing Data Bottlenecks; the configurations of libffcv/ffcv-imagenet.

    python -m resflax.train --config=experiments/leclerc2023_ffcv.py:rn50_16 --config.data.name=/data/imagenet
    python -m resflax.train --config=experiments/leclerc2023_ffcv.py:smoke --config.data.name=FOLDER

ResNet-50 in batches of 4096 on 8 GPUs at a rate of 1.7 and decay 1e-4, ResNet-18 in batches of 1024 on one at 0.5 and 5e-5,
for 16 to 88 epochs: the rate rises for 2 epochs and falls linearly to 0; SGD with momentum 0.9, no decay in normalisations,
label smoothing 0.1; random resized crop and flip; tested on the image and its mirror image.

Images of 160 pixels are trained on for the first three quarters of the epochs, and of 192 then (their ramp, rounded to 32
pixels as they do); tests are at 256.

Not followed: blurred pooling before strided convolutions. Otherwise than there: bfloat16 for float16; the bias of the dense
layer does not decay either; JPEG files as they are, where ffcv stores half of them as pixels, of at most 500 a side.

`smoke`: `rn18_16` for twenty small steps.
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
from resflax.config.rows import imagenet, smoke
from resflax.results.published import Published

ACCURACIES = {  # top-1 on the validation images in percent, table of the README
    "rn50": {16: 73.8, 24: 75.6, 32: 76.6, 40: 77.2, 56: 78.0, 88: 78.4},
    "rn18": {16: 66.9, 24: 68.8, 32: 70.0, 40: 70.6, 56: 71.3, 88: 72.4},
}
RAMPS = {16: 12, 24: 19, 32: 25, 40: 32, 56: 45, 88: 71}  # the first epoch of 192 pixels, of so many
PUBLISHED = {
    f"{name}_{epochs}": Published(round(100 - accuracy, 1))
    for name, row in ACCURACIES.items()
    for epochs, accuracy in row.items()
}

RN50 = Config(
    total_epochs=88,
    log_every_steps=100,
    eval_every_steps=2_000,
    data=imagenet(
        batch_size=4096,
        image_size=256,
        eval_views="mirror",
    ),
    model=ModelConfig("resnet50", {"zero_gamma": False}),
    batch_norm=BatchNormConfig(group_size=512),
    optim=OptimConfig(
        learning_rate=1.7,
        momentum=0.9,
        weight_decay=1e-4,
        decay_mask="kernels",
        schedule="linear",
        warmup_factor=1e-4,
    ),
    loss=LossConfig(label_smoothing=0.1),
    precision=PrecisionConfig("bfloat16"),
    checkpoint=CheckpointConfig(every_steps=2_000),
)


def get_config(variant: str = "rn50_16") -> Config:
    """`rn50_EPOCHS` and `rn18_EPOCHS` for 16, 24, 32, 40, 56 and 88 epochs, and `smoke`."""
    rn18 = dataclasses.replace(
        RN50,
        data=dataclasses.replace(RN50.data, batch_size=1024),
        model=ModelConfig("resnet18", {"zero_gamma": False}),
        batch_norm=BatchNormConfig(group_size=1024),
        optim=dataclasses.replace(RN50.optim, learning_rate=0.5, weight_decay=5e-5),
    )
    rows = {
        f"{name}_{epochs}": dataclasses.replace(
            row,
            total_epochs=epochs,
            data=dataclasses.replace(row.data, sizes=("160@0", f"192@{RAMPS[epochs] / epochs:.6g}")),
            optim=dataclasses.replace(row.optim, warmup_fraction=2 / epochs),
        )
        for name, row in {"rn50": RN50, "rn18": rn18}.items()
        for epochs in ACCURACIES[name]
    }
    return choose_variant(variant, rows | {"smoke": smoke(rows["rn18_16"])})
