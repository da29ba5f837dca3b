"""What rows of experiments have in common: a recipe on other data, or cut short."""

from __future__ import annotations

import dataclasses

from resflax.config.schema import CheckpointConfig, Config, PrecisionConfig


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
