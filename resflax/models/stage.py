"""A stage: equal blocks at one resolution."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
from flax import linen as nn

from resflax import nn as layers
from resflax.nn.repeat import Repeat
from resflax.types import Array, BlockFactory, ConvFactory, NormFactory


class Stage(nn.Module):
    """`count` blocks of one width; the first has the stride. float[B, H, W, C] -> float[B, H/s, W/s, features].

    With a `key` the blocks' random parts are drawn, `rates` [count] being those of stochastic depth.
    """

    block: BlockFactory
    count: int
    width: int
    stride: int
    conv: ConvFactory
    norm: NormFactory
    mode: Repeat

    @nn.compact
    def __call__(self, x: Array, key: Array | None = None, rates: Sequence[float] = ()) -> Array:
        first = self.block(self.width, self.conv, self.norm, stride=self.stride, name="block1")
        others = functools.partial(self.block, self.width, self.conv, self.norm)
        if key is None:
            return layers.repeat(others, self.count - 1, first(x), self.mode)
        keys = jax.random.split(key, self.count)
        x = first(x, keys[0], rates[0])
        return layers.repeat(others, self.count - 1, x, self.mode, keys[1:], rates[1:])
