"""He et al. 2019, Bag of Tricks for Image Classification with Convolutional Neural Networks (arXiv:1812.01187), Tables 4 to 6.

    python -m resflax.train --config=experiments/he2019_bag_of_tricks.py:resnet50d --config.data.name=/data/imagenet
    python -m resflax.train --config=experiments/he2019_bag_of_tricks.py:smoke --config.data.name=FOLDER

Each row adds one trick to the row before it. `baseline`: ResNet-50 with the stride on the first 1x1, batches of 256 on 8
GPUs, Nesterov momentum 0.9, decay 1e-4 on everything, 120 epochs, rate 0.1 divided by 10 at epochs 30, 60 and 90; random
resized crops, flips, changed colours. `linear_scaling`: batches of 1024 at a rate of 0.4; `warmup`: over 5 epochs from 0;
`zero_gamma`: the last scale of a block starts at zero; `no_bias_decay`: weights of convolutions and the dense layer alone
decay; `half_precision`. Networks: `resnet50b`, `resnet50c`, `resnet50d`. On the last of them: `cosine`, `label_smoothing`
(0.1), `distillation` (from ResNet-152-D trained by the same recipe, the row `teacher`, at a temperature of 20), `mixup`
(alpha 0.2, 200 epochs), `mixup_distillation`.

Otherwise than printed: bfloat16 for float16; brightness, contrast and saturation are changed, where the paper says hue,
saturation and brightness, and pixels are clipped after it; He initialisation for Xavier's; with a teacher the loss is the
mean of the labels' and the teacher's, where the paper has the sum. Without a row: MobileNet and Inception-v3.

Published errors are quoted from memory but for `mixup_distillation`, which the abstract has: the paper was not at hand to be
checked. `smoke`: `mixup` for twenty small steps.
"""

import dataclasses
from typing import Any

from resflax.config import (
    BatchNormConfig,
    CheckpointConfig,
    Config,
    DistillConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    PrecisionConfig,
)
from resflax.config.files import choose_variant
from resflax.config.rows import imagenet, smoke
from resflax.results.published import Published

# 100 - top-1 accuracy of one central crop, percent.
PUBLISHED = {
    "baseline": Published(24.13, "as all of this table quoted from memory"),
    "linear_scaling": Published(24.83),
    "warmup": Published(24.07),
    "zero_gamma": Published(23.63),
    "no_bias_decay": Published(23.97),
    "half_precision": Published(23.79),
    "resnet50b": Published(23.34),
    "resnet50c": Published(23.13),
    "resnet50d": Published(22.84),
    "cosine": Published(22.09),
    "label_smoothing": Published(21.69),
    "distillation": Published(21.33),
    "mixup": Published(20.85),
    "mixup_distillation": Published(20.71),
}

BASELINE = Config(
    total_epochs=120,
    log_every_steps=100,
    eval_every_steps=5_000,
    data=imagenet(
        batch_size=256,
        eval_batch_size=1024,
        augment=("random_resized_crop", "color_jitter:0.4", "pca_lighting:0.1", "flip"),
    ),
    model=ModelConfig("resnet50_v1", {"zero_gamma": False}),
    batch_norm=BatchNormConfig(group_size=32),
    optim=OptimConfig(
        learning_rate=0.1,
        base_batch_size=256,
        momentum=0.9,
        nesterov=True,
        weight_decay=1e-4,
        schedule="step",
        milestones=(0.25, 0.5, 0.75),
    ),
    checkpoint=CheckpointConfig(every_steps=5_000),
)
# From the workdir of the row `teacher`, where `python -m resflax.train` puts it.
TEACHER = DistillConfig("runs/he2019_bag_of_tricks-teacher", temperature=20.0, weight=0.5)


def get_config(variant: str = "label_smoothing") -> Config:
    """The rows of `PUBLISHED`, `teacher` and `smoke`."""
    rows: dict[str, Config] = {"baseline": BASELINE}

    def add(name: str, to: str, **changes: Any) -> None:
        """Adds the row `to` with fields of sections, or whole fields, changed."""
        before = rows[to]
        new = {
            key: dataclasses.replace(getattr(before, key), **value) if isinstance(value, dict) else value
            for key, value in changes.items()
        }
        rows[name] = dataclasses.replace(before, **new)

    add("linear_scaling", "baseline", data={"batch_size": 1024}, batch_norm={"group_size": 128})
    add("warmup", "linear_scaling", optim={"warmup_fraction": 5 / 120})
    add("zero_gamma", "warmup", model=ModelConfig("resnet50_v1", {"zero_gamma": True}))
    add("no_bias_decay", "zero_gamma", optim={"decay_mask": "kernels"})
    add("half_precision", "no_bias_decay", precision=PrecisionConfig("bfloat16"))
    for name, model in {"resnet50b": "resnet50", "resnet50c": "resnet50c", "resnet50d": "resnet50d"}.items():
        add(name, "half_precision", model=ModelConfig(model, {"zero_gamma": True}))
    add("cosine", "resnet50d", optim={"schedule": "cosine", "milestones": OptimConfig.milestones})
    add("label_smoothing", "cosine", loss=LossConfig(label_smoothing=0.1))
    add("mixup", "label_smoothing", total_epochs=200, optim={"warmup_fraction": 5 / 200}, data={"mix": ("mixup:0.2",)})
    add("teacher", "label_smoothing", model=ModelConfig("resnet152d", {"zero_gamma": True}))
    for student in ("label_smoothing", "mixup"):
        add(f"{student}_distillation".removeprefix("label_smoothing_"), student, distill=TEACHER)
    return choose_variant(variant, rows | {"smoke": smoke(rows["mixup"])})
