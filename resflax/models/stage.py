"""A stage: equal blocks at one resolution."""

from __future__ import annotations

import functools

from flax import linen as nn

from resflax import nn as layers
from resflax.nn.repeat import Repeat
from resflax.types import Array, BlockFactory, ConvFactory, NormFactory


class Stage(nn.Module):
    """`count` blocks of one width; the first has the stride. float[B, H, W, C] -> float[B, H/s, W/s, width]."""

    block: BlockFactory
    count: int
    width: int
    stride: int
    conv: ConvFactory
    norm: NormFactory
    mode: Repeat

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = self.block(self.width, self.conv, self.norm, stride=self.stride, name="block1")(x)
        gradient = "lax" if self.mode == "loop" else "canonical"
        in_loop = functools.partial(self.conv, gradient=gradient)
        return layers.repeat(functools.partial(self.block, self.width, in_loop, self.norm), self.count - 1, x, self.mode)
