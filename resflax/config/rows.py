"""What rows of experiments have in common: a recipe on other data, or cut short."""

from __future__ import annotations

import dataclasses

from resflax.config.schema import Config


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
