"""The residual network: a stem, stages of blocks, a top, a head. Every family is this module with other parts."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
from flax import linen as nn

from resflax import nn as layers
from resflax.models.stage import Stage
from resflax.nn.repeat import Repeat
from resflax.types import Array, BlockFactory, ConvFactory, DType, NormFactory, Stem, Top


class ResNet(nn.Module):
    """From float[B, H, W, C] to float32 logits [B, num_classes], or to features [B, C'] where there are no classes.

    The first stage has blocks of `width`; each further one doubles the width and halves the image. Modules are named
    `stem_conv`, `stage1/block1/conv1`, ..., `head`. Where `stochastic_depth` or a dropout is not 0, training needs an rng
    named `dropout`.
    """

    num_classes: int | None
    counts: tuple[int, ...]  # blocks a stage
    block: BlockFactory
    stem: Stem
    width: int
    top: Top = layers.pooled_top
    conv: ConvFactory = layers.Conv
    norm: NormFactory = layers.BatchNorm
    stochastic_depth: float = 0.0  # rate of the last block
    depth_rates: Callable[[float, int], tuple[float, ...]] = layers.linear_rates  # of all blocks, from that of the last
    dropout: float = 0.0  # in each block; for blocks that have it
    head_dropout: float = 0.0  # of the features
    repeat: Repeat = "loop"
    dtype: DType = None

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        conv = functools.partial(self.conv, dtype=self.dtype)
        norm = functools.partial(self.norm, use_running_average=not train, dtype=self.dtype)
        block = functools.partial(self.block, dropout=self.dropout) if self.dropout else self.block
        noisy = bool(self.stochastic_depth or self.dropout or self.head_dropout)
        keys = jax.random.split(self.make_rng("dropout"), len(self.counts) + 1) if noisy and train else None
        rates = self.depth_rates(self.stochastic_depth, sum(self.counts)) if noisy else ()
        x = self.stem(images, conv, norm)
        for index, count in enumerate(self.counts):
            width, stride = self.width * 2**index, 1 if index == 0 else 2
            stage = Stage(block, count, width, stride, conv, norm, self.repeat, name=f"stage{index + 1}")
            x = stage(x, None if keys is None else keys[index], rates[:count])
            rates = rates[count:]
        x = self.top(x, norm)  # [B, C]
        if self.num_classes is None:
            return x
        x = layers.dropout(None if keys is None else keys[-1], x, self.head_dropout)
        return layers.Head(self.num_classes, name="head")(x)
