"""Kolesnikov et al. 2020, Big Transfer (BiT): General Visual Representation Learning (arXiv:1912.11370), Sec. 3.3.

    python -m resflax.convert --from=bit BiT-M-R50x1.npz --model=resnetv2_50x1_bit --output=bit.safetensors
    python -m resflax.train --config=experiments/kolesnikov2020_bit.py:cifar10 --config.init.weights=bit.safetensors
    python -m resflax.train --config=experiments/kolesnikov2020_bit.py:small --config.data.name=PHOTOS

Fine-tuning by the BiT-HyperRule, with nothing to choose: SGD with momentum 0.9 and no decay, batches of 512, a rate of 0.003
after a linear warm-up, divided by 10 three times. How long, and whether images are mixed, depends on the number of training
images alone: `small`, below 20,000, takes 500 steps; `medium`, below 500,000, 10,000 steps with mixup 0.1; `large` 20,000.
Images of less than 96 x 96 pixels are seen at 128, larger ones at 480 pixels. `cifar10` and `cifar100` are `medium` on those
data. Pixels are scaled to -1..1, as the weights were trained with; a test sees the whole image.

Otherwise than printed: small images are resized to 128 pixels and moved by up to 16 of them, where the paper cuts 128 out of
160; larger ones are cut at a random place after their shorter side has become 512 pixels, and tested on the central square,
where the paper squeezes the whole to a square; the classifier starts as it is drawn, not at zero. The published numbers are
of batches of 128 at a rate of 0.001 (README of google-research/big_transfer, JAX).
"""

import dataclasses
from typing import Any

from resflax.config import CheckpointConfig, Config, DataConfig, InitConfig, ModelConfig, OptimConfig
from resflax.config.files import choose_variant
from resflax.results.published import Published

# 100 - accuracy of BiT-M-R50x1 on the whole data set, percent.
PUBLISHED = {"cifar10": Published(2.7), "cifar100": Published(13.6)}


def rule(steps: int, warmup: int, milestones: tuple[int, int, int], **data: Any) -> Config:
    """The hyper-parameters of a length."""
    return Config(
        total_steps=steps,
        log_every_steps=50,
        eval_every_steps=milestones[0],
        data=DataConfig(batch_size=512, eval_batch_size=512, **data),
        model=ModelConfig("resnetv2_50x1_bit"),
        init=InitConfig("bit.safetensors"),
        optim=OptimConfig(
            learning_rate=0.003,
            momentum=0.9,
            schedule="step",
            milestones=milestones,
            milestone_unit="steps",
            warmup_steps=warmup,
        ),
        checkpoint=CheckpointConfig(every_steps=500),
    )


def get_config(variant: str = "small") -> Config:
    """`cifar10`, `cifar100`; `small`, `medium` and `large` folders of images."""
    photos: dict[str, Any] = {"name": "photos", "image_size": 480, "augment": ("scale_jitter_crop:512:512", "flip")}
    medium = rule(10_000, 500, (3_000, 6_000, 9_000), mix=("mixup:0.1",), **photos)
    tiny = dataclasses.replace(medium.data, image_size=128, augment=("pad_crop:16", "flip"))
    return choose_variant(
        variant,
        {
            "small": rule(500, 100, (200, 300, 400), **photos),
            "medium": medium,
            "large": rule(20_000, 500, (6_000, 12_000, 18_000), mix=("mixup:0.1",), **photos),
            **{
                name: dataclasses.replace(medium, data=dataclasses.replace(tiny, name=name)) for name in ("cifar10", "cifar100")
            },
        },
    )
