"""The blocks that networks repeat.

A block maps float[B, H, W, C] and takes `(x, key=None, omit=0.0)`: with a `key` its random parts are drawn, and its residual
branch is left out with probability `omit` (`resflax.nn.noise`); without, as in evaluation, nothing is random.
"""

from __future__ import annotations

from typing import Any, Literal

from flax import linen as nn

from resflax import nn as layers
from resflax.types import Array, ConvFactory, GateFactory, NormFactory, OmitBranch, ShortcutFactory


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with an additive shortcut, ReLU after the sum (He et al. 2015, Fig. 2 and Fig. 5 left).

    Maps float[B, H, W, C] to float[B, H/s, W/s, width]. `y = relu(norm2(conv2(relu(norm1(conv1(x))))) + shortcut(x))`.
    """

    width: int
    conv: ConvFactory
    norm: NormFactory
    shortcut: ShortcutFactory
    stride: int = 1
    gate: GateFactory | None = None  # on the branch, before the sum
    last_scale_init: Any = nn.initializers.ones  # of norm2; zeros start the block as its shortcut
    omit_branch: OmitBranch = layers.stochastic_depth

    @nn.compact
    def __call__(self, x: Array, key: Array | None = None, omit: float | Array = 0.0) -> Array:
        y = self.conv(self.width, 3, stride=self.stride, name="conv1")(x)  # [B, H/s, W/s, width]
        y = nn.relu(self.norm(name="norm1")(y))
        y = self.norm(scale_init=self.last_scale_init, name="norm2")(self.conv(self.width, 3, name="conv2")(y))
        y = y if self.gate is None else self.gate(name="squeeze_excite")(y)
        shortcut = self.shortcut(self.width, self.stride, self.conv, self.norm, name="shortcut")
        return nn.relu(self.omit_branch(key, y, omit) + shortcut(x))


class BottleneckBlock(nn.Module):
    """1x1 reduce, 3x3, 1x1 expand with an additive shortcut, ReLU after the sum (He et al. 2015, Fig. 5 right).

    Maps float[B, H, W, C] to float[B, H/s, W/s, 4 * width]. The 3x3 has `groups` groups of `base_width * width / 64` channels:
    one of 64 is ResNet's, 32 of 4 is ResNeXt's 32x4d (Xie et al. 2017, Fig. 3 c), one of 128 the wide network's.
    """

    width: int
    conv: ConvFactory
    norm: NormFactory
    shortcut: ShortcutFactory
    stride: int = 1
    # v1, the paper, strides conv1, the first 1x1; v1.5 the 3x3, so that no pixel is skipped (Gross and Wilber 2016)
    strided: Literal["conv1", "conv2"] = "conv2"
    groups: int = 1
    base_width: int = 64
    gate: GateFactory | None = None  # on the branch, before the sum
    last_scale_init: Any = nn.initializers.ones  # of norm3; zeros start the block as its shortcut

    @nn.compact
    def __call__(self, x: Array, key: Array | None = None, omit: float | Array = 0.0) -> Array:
        inner = self.width * self.base_width // 64 * self.groups
        first, second = (self.stride, 1) if self.strided == "conv1" else (1, self.stride)
        y = nn.relu(self.norm(name="norm1")(self.conv(inner, 1, stride=first, name="conv1")(x)))
        y = self.conv(inner, 3, stride=second, groups=self.groups, name="conv2")(y)  # [B, H/s, W/s, inner]
        y = nn.relu(self.norm(name="norm2")(y))
        y = self.conv(4 * self.width, 1, name="conv3")(y)  # [B, H/s, W/s, 4 * width]
        y = self.norm(scale_init=self.last_scale_init, name="norm3")(y)
        y = y if self.gate is None else self.gate(name="squeeze_excite")(y)
        shortcut = self.shortcut(4 * self.width, self.stride, self.conv, self.norm, name="shortcut")
        return nn.relu(layers.stochastic_depth(key, y, omit) + shortcut(x))


class PlainBlock(nn.Module):
    """`BasicBlock` without its shortcut: two 3x3 convolutions, each followed by normalisation and ReLU (He 2015, Sec. 4.2).

    Maps float[B, H, W, C] to float[B, H/s, W/s, width].
    """

    width: int
    conv: ConvFactory
    norm: NormFactory
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = self.conv(self.width, 3, stride=self.stride, name="conv1")(x)  # [B, H/s, W/s, width]
        x = nn.relu(self.norm(name="norm1")(x))
        return nn.relu(self.norm(name="norm2")(self.conv(self.width, 3, name="conv2")(x)))
