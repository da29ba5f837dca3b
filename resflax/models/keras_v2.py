"""ResNet v2 as `keras.applications` has it, for its published weights; `resnetv2_50` is the network of the paper.

The differences: the stride is in the last block of a stage, whose shortcut skips pixels; convolutions that no normalisation
follows have biases; the pool of the stem sees zeros past the edge.
"""

from __future__ import annotations

import functools
from typing import Any

from flax import linen as nn

from resflax import nn as layers
from resflax.models.ordering import OrderedBlock
from resflax.nn import stem as stems
from resflax.types import Array, ConvFactory, DType, NormFactory

_keras_norm = functools.partial(layers.BatchNorm, momentum=0.99, epsilon=1.001e-5)


class KerasStage(nn.Module):
    """`count` bottlenecks, the stride in the last. float[B, H, W, C] -> float[B, H/s, W/s, 4 * width]."""

    count: int
    width: int
    stride: int
    conv: ConvFactory
    norm: NormFactory

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def conv(features: int, kernel_size: int, **parts: Any) -> nn.Module:
            return self.conv(features, kernel_size, use_bias=features == 4 * self.width, **parts)

        for index in range(1, self.count + 1):
            x = OrderedBlock(
                self.width,
                conv,
                self.norm,
                layers.ActivatedShortcut if index == 1 else layers.PaddedShortcut,
                stride=self.stride if index == self.count else 1,
                kernels=(1, 3, 1),
                strided=2,
                expansion=4,
                name=f"block{index}",
            )(x)
        return x


class KerasResNetV2(nn.Module):
    """From float[B, H, W, C] to float32 logits [B, num_classes], or features [B, 2048]; modules are named as in `ResNet`."""

    num_classes: int | None
    counts: tuple[int, ...]  # blocks a stage
    norm: NormFactory | None = None  # None: with Keras' momentum and epsilon
    dtype: DType = None

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        conv = functools.partial(layers.Conv, dtype=self.dtype)
        norm = functools.partial(self.norm or _keras_norm, use_running_average=not train, dtype=self.dtype)
        x = stems.zero_padded_linear_stem(images, functools.partial(conv, use_bias=True), norm)
        for index, count in enumerate(self.counts, 1):
            stride = 1 if index == len(self.counts) else 2
            x = KerasStage(count, 64 * 2 ** (index - 1), stride, conv, norm, name=f"stage{index}")(x)
        x = layers.normalised_top(x, norm)
        return x if self.num_classes is None else layers.Head(self.num_classes, name="head")(x)
