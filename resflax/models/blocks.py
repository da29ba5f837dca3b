"""The blocks that networks repeat."""

from __future__ import annotations

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

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = self.conv(self.width, 3, stride=self.stride, name="conv1")(x)  # [B, H/s, W/s, width]
        y = nn.relu(self.norm(name="norm1")(y))
        y = self.norm(name="norm2")(self.conv(self.width, 3, name="conv2")(y))
        shortcut = self.shortcut(self.width, self.stride, self.conv, self.norm, name="shortcut")
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
