"""The ImageNet residual networks, version 1.5 (He et al. 2015, Table 1; strides as in fb.resnet.torch and torchvision)."""

from __future__ import annotations

import functools

from flax import linen as nn

from resflax import nn as layers
from resflax.models.blocks import BasicBlock, BottleneckBlock
from resflax.models.stage import Stage
from resflax.nn.repeat import Repeat
from resflax.types import Array, BlockFactory, DType, NormFactory

# Blocks a stage, He et al. 2015, Table 1.
DEPTHS: dict[int, tuple[type[nn.Module], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (BottleneckBlock, (3, 4, 6, 3)),
    101: (BottleneckBlock, (3, 4, 23, 3)),
    152: (BottleneckBlock, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """A 7x7/2 convolution, 3x3/2 max-pool, four stages of blocks, global average pooling, a dense layer.

    From float[B, H, W, C] to float32 logits [B, num_classes]. Modules are named `stem_conv`, `stage1/block1/conv1`, ...
    """

    num_classes: int
    counts: tuple[int, ...]  # blocks a stage
    block: BlockFactory
    norm: NormFactory = layers.BatchNorm
    width: int = 64
    repeat: Repeat = "loop"
    dtype: DType = None

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        conv = functools.partial(layers.Conv, dtype=self.dtype)
        norm = functools.partial(self.norm, use_running_average=not train, dtype=self.dtype)
        x = conv(self.width, 7, stride=2, name="stem_conv")(images)  # [B, H/2, W/2, width]
        x = nn.relu(norm(name="stem_norm")(x))
        x = layers.max_pool(x, 3, 2, padding=1)  # [B, H/4, W/4, width]
        for index, count in enumerate(self.counts):
            width, stride = self.width * 2**index, 1 if index == 0 else 2
            x = Stage(self.block, count, width, stride, conv, norm, self.repeat, name=f"stage{index + 1}")(x)
        return layers.Head(self.num_classes, name="head")(layers.global_average_pool(x))


def resnet(
    depth: int, *, num_classes: int, norm: NormFactory | None, dtype: DType, width: int, repeat: Repeat, zero_gamma: bool
) -> ResNet:
    """The network of Table 1 with projection shortcuts (B).

    `zero_gamma` starts the last normalisation of each block at scale zero, so that the block begins as its shortcut
    (Goyal et al. 2017, Sec. 5.1).
    """
    block, counts = DEPTHS[depth]
    last = nn.initializers.zeros if zero_gamma else nn.initializers.ones
    return ResNet(
        num_classes=num_classes,
        counts=counts,
        block=functools.partial(block, shortcut=layers.ProjectedShortcut, last_scale_init=last),
        norm=norm or layers.BatchNorm,
        width=width,
        repeat=repeat,
        dtype=dtype,
    )
