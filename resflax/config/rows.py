"""What rows of experiments have in common: a recipe on other data, or cut short."""

from __future__ import annotations

import dataclasses
from typing import Any

from resflax.config.schema import (
    BatchNormConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    PrecisionConfig,
)


def with_data(row: Config, name: str) -> Config:
    """The same recipe on the data set `name`."""
    return dataclasses.replace(row, data=dataclasses.replace(row.data, name=name))


def shortened(row: Config) -> Config:
    """Two epochs of a CIFAR recipe of batch 128; for machines without an accelerator.

    The schedule is given in fractions and keeps its shape.
    """
    return dataclasses.replace(
        row,
        total_steps=782,
        total_epochs=None,
        log_every_steps=23,
        eval_every_steps=391,
        checkpoint=dataclasses.replace(row.checkpoint, every_steps=100),
    )


def imagenet(
    batch_size: int, *, augment: tuple[str, ...] = ("random_resized_crop", "flip"), crop_ratio: float = 224 / 256, **data: Any
) -> DataConfig:
    """ImageNet as most papers have it: random parts and flips of 224 pixels, tested on the middle of an image of 256.

    `data` are more fields of `DataConfig`.
    """
    common: dict[str, Any] = {"name": "imagenet", "eval_split": "val", "eval_batch_size": 2048, "image_size": 224}
    return DataConfig(**{**common, **data}, batch_size=batch_size, augment=augment, crop_ratio=crop_ratio)


def smoke(row: Config) -> Config:
    """Twenty steps of an ImageNet recipe in batches of 8, in float32, on a folder with the splits `train` and `test`."""
    return dataclasses.replace(
        row,
        total_epochs=None,
        total_steps=20,
        log_every_steps=1,
        eval_every_steps=0,
        data=dataclasses.replace(row.data, batch_size=8, eval_batch_size=8, eval_split="test"),
        batch_norm=dataclasses.replace(row.batch_norm, group_size=8),
        precision=PrecisionConfig("float32"),
        checkpoint=CheckpointConfig(every_steps=5),
    )


def digits14(augment: tuple[str, ...] = ("pad_crop:1",), **data: Any) -> Config:
    """300 steps of a narrow network of 14 layers on the digits, seconds on a laptop.

    `augment` and `data` are fields of `DataConfig`.
    """
    return Config(
        total_steps=300,
        log_every_steps=20,
        eval_every_steps=100,
        data=DataConfig(name="digits", batch_size=64, eval_batch_size=360, augment=augment, **data),
        model=ModelConfig("cifar_resnet14", {"width": 8}),
        batch_norm=BatchNormConfig(group_size=64),
        optim=OptimConfig(learning_rate=0.1, nesterov=True, weight_decay=5e-4, schedule="cosine", decay_mask="kernels"),
        checkpoint=CheckpointConfig(every_steps=150),
    )
