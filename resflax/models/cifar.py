"""The 6n+2 layer networks for small images (He et al. 2015, Sec. 4.2)."""

from __future__ import annotations

import functools

from flax import linen as nn

from resflax import nn as layers
from resflax.models.blocks import BasicBlock, PlainBlock
from resflax.models.stage import Stage
from resflax.nn.repeat import Repeat
from resflax.types import Array, BlockFactory, DType, NormFactory

_SHORTCUTS = {"A": layers.PaddedShortcut, "B": layers.ProjectedShortcut, "C": layers.ProjectedEverywhere}


class CifarNet(nn.Module):
    """A 3x3 convolution, three stages of `blocks_per_stage` two-layer blocks, global average pooling, a dense layer.

    Widths are `width`, 2 `width` and 4 `width`; the second and third stage halve the image. From float[B, H, W, C] to
    float32 logits [B, num_classes]. Modules are named `stem_conv`, `stage1/block1/conv1`, ..., `head`.
    """

    num_classes: int
    blocks_per_stage: int
    block: BlockFactory
    norm: NormFactory = layers.BatchNorm
    width: int = 16
    repeat: Repeat = "loop"
    dtype: DType = None

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        conv = functools.partial(layers.Conv, dtype=self.dtype)
        norm = functools.partial(self.norm, use_running_average=not train, dtype=self.dtype)
        x = conv(self.width, 3, name="stem_conv")(images)
        x = nn.relu(norm(name="stem_norm")(x))
        for stage in range(3):
            x = Stage(
                self.block,
                self.blocks_per_stage,
                self.width * 2**stage,
                stride=1 if stage == 0 else 2,
                conv=conv,
                norm=norm,
                mode=self.repeat,
                name=f"stage{stage + 1}",
            )(x)
        return layers.Head(self.num_classes, name="head")(layers.global_average_pool(x))


def cifar_net(
    depth: int,
    *,
    num_classes: int,
    norm: NormFactory | None,
    dtype: DType,
    width: int,
    shortcut: str | None,
    repeat: Repeat,
) -> CifarNet:
    """The network of `depth` = 6n + 2 layers: residual with shortcut `A`, `B` or `C`, plain with None."""
    block: BlockFactory = PlainBlock if shortcut is None else functools.partial(BasicBlock, shortcut=_SHORTCUTS[shortcut])
    return CifarNet(
        num_classes=num_classes,
        blocks_per_stage=(depth - 2) // 6,
        block=block,
        norm=norm or layers.BatchNorm,
        width=width,
        repeat=repeat,
        dtype=dtype,
    )
