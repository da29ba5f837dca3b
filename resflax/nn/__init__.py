"""Layers that stand alone: they see neither configuration, data nor mesh."""

from resflax.nn.batch_norm import BatchNorm
from resflax.nn.conv import Conv, convolution
from resflax.nn.head import Head
from resflax.nn.pool import average_pool, global_average_pool, max_pool
from resflax.nn.repeat import repeat, stack_blocks, unstack_blocks
from resflax.nn.shortcut import PaddedShortcut, ProjectedEverywhere, ProjectedShortcut

__all__ = [
    "BatchNorm",
    "Conv",
    "Head",
    "PaddedShortcut",
    "ProjectedEverywhere",
    "ProjectedShortcut",
    "average_pool",
    "convolution",
    "global_average_pool",
    "max_pool",
    "repeat",
    "stack_blocks",
    "unstack_blocks",
]
