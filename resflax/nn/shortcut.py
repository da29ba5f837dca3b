"""The three shortcuts of He et al. 2015, Sec. 4.1: what happens where a block changes the shape.

A: parameter-free, zeros for the new channels. B: a projection where the shape changes. C: a projection everywhere.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from resflax.types import Array, ConvFactory, NormFactory


class PaddedShortcut(nn.Module):
    """Option A: every `stride`-th pixel, zeros for new channels. float[B, H, W, C] -> float[B, H/s, W/s, features].

    The zeros are split evenly before and after the old channels; which channels stay empty makes no difference to a
    network whose other layers are initialised alike.
    """

    features: int
    stride: int
    conv: ConvFactory
    norm: NormFactory

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = x[:, :: self.stride, :: self.stride, :]
        new = self.features - x.shape[-1]
        if new < 0:
            raise ValueError(f"option A can only add channels, got {x.shape[-1]} -> {self.features}; use option B")
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)))


class ProjectedEverywhere(nn.Module):
    """Option C: a 1x1 convolution with normalisation. float[B, H, W, C] -> float[B, H/s, W/s, features]."""

    features: int
    stride: int
    conv: ConvFactory
    norm: NormFactory

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return self.norm(name="norm")(self.conv(self.features, 1, stride=self.stride, name="conv")(x))


class ProjectedShortcut(ProjectedEverywhere):
    """Option B: option C where the shape changes, the identity elsewhere."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if x.shape[-1] == self.features and self.stride == 1:
            return x
        return super().__call__(x)
