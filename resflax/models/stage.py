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

    Where blocks have random parts, `rates` [count] are those of stochastic depth; with a `key` they are drawn.
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
        if not rates:
            return layers.repeat(others, self.count - 1, first(x), self.mode)
        keys = None if key is None else jax.random.split(key, self.count)
        x = first(x, None if keys is None else keys[0], rates[0])
        return layers.repeat(others, self.count - 1, x, self.mode, None if keys is None else keys[1:], rates[1:])
