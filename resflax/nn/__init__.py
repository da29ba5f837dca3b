"""Layers that stand alone: they see neither configuration, data nor mesh."""

from resflax.nn.activation import Relu
from resflax.nn.batch_norm import BatchNorm
from resflax.nn.conv import Conv, StandardizedConv, convolution
from resflax.nn.group_norm import GroupNorm
from resflax.nn.head import Head, activated_top, normalised_top, pooled_top
from resflax.nn.noise import dropout, linear_rates, linear_rates_from_input, skip_for_batch, stochastic_depth
from resflax.nn.pool import adaptive_average_pool, average_pool, global_average_pool, max_pool
from resflax.nn.repeat import repeat, stack_blocks, unstack_blocks
from resflax.nn.shortcut import (
    ActivatedShortcut,
    AveragedShortcut,
    PaddedShortcut,
    PooledShortcut,
    ProjectedEverywhere,
    ProjectedShortcut,
)
from resflax.nn.space_to_depth import SpaceToDepthConv, conv_by_space_to_depth
from resflax.nn.squeeze_excite import SqueezeExcite
from resflax.nn.whitening import WhiteningConv

__all__ = [
    "ActivatedShortcut",
    "AveragedShortcut",
    "BatchNorm",
    "Conv",
    "GroupNorm",
    "Head",
    "PaddedShortcut",
    "PooledShortcut",
    "ProjectedEverywhere",
    "ProjectedShortcut",
    "Relu",
    "SpaceToDepthConv",
    "SqueezeExcite",
    "StandardizedConv",
    "WhiteningConv",
    "activated_top",
    "adaptive_average_pool",
    "average_pool",
    "conv_by_space_to_depth",
    "convolution",
    "dropout",
    "global_average_pool",
    "linear_rates",
    "linear_rates_from_input",
    "max_pool",
    "normalised_top",
    "pooled_top",
    "repeat",
    "skip_for_batch",
    "stack_blocks",
    "stochastic_depth",
    "unstack_blocks",
]
