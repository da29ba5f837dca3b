"""The blocks that networks repeat."""

from __future__ import annotations

from typing import Any

from flax import linen as nn

from resflax.types import Array, ConvFactory, NormFactory, ShortcutFactory


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with an additive shortcut, ReLU after the sum (He et al. 2015, Fig. 2 and Fig. 5 left).

    Maps float[B, H, W, C] to float[B, H/s, W/s, width]. `y = relu(norm2(conv2(relu(norm1(conv1(x))))) + shortcut(x))`.
    """

    width: int
    conv: ConvFactory
    norm: NormFactory
    shortcut: ShortcutFactory
    stride: int = 1
    last_scale_init: Any = nn.initializers.ones  # of norm2; zeros start the block as its shortcut

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = self.conv(self.width, 3, stride=self.stride, name="conv1")(x)  # [B, H/s, W/s, width]
        y = nn.relu(self.norm(name="norm1")(y))
        y = self.norm(scale_init=self.last_scale_init, name="norm2")(self.conv(self.width, 3, name="conv2")(y))
        shortcut = self.shortcut(self.width, self.stride, self.conv, self.norm, name="shortcut")
        return nn.relu(y + shortcut(x))


class BottleneckBlock(nn.Module):
    """1x1 reduce, 3x3, 1x1 expand with an additive shortcut (He et al. 2015, Fig. 5 right), the stride on the 3x3 ("v1.5").

    Maps float[B, H, W, C] to float[B, H/s, W/s, 4 * width]. The paper strides the first 1x1; on the 3x3 no input is skipped
    (Gross and Wilber 2016, fb.resnet.torch).
    """

    width: int
    conv: ConvFactory
    norm: NormFactory
    shortcut: ShortcutFactory
    stride: int = 1
    last_scale_init: Any = nn.initializers.ones  # of norm3; zeros start the block as its shortcut

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = nn.relu(self.norm(name="norm1")(self.conv(self.width, 1, name="conv1")(x)))
        y = self.conv(self.width, 3, stride=self.stride, name="conv2")(y)  # [B, H/s, W/s, width]
        y = nn.relu(self.norm(name="norm2")(y))
        y = self.conv(4 * self.width, 1, name="conv3")(y)  # [B, H/s, W/s, 4 * width]
        y = self.norm(scale_init=self.last_scale_init, name="norm3")(y)
        shortcut = self.shortcut(4 * self.width, self.stride, self.conv, self.norm, name="shortcut")
        return nn.relu(y + shortcut(x))


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
