"""Shortcuts: what happens where a block changes the shape.

The letters. He et al. 2015, Sec. 4.1: A is parameter-free, zeros for the new channels; B a projection where the shape changes;
C a projection everywhere. He et al. 2019, Fig. 2 c: D is B with an average pool before the projection, so that no pixel is
skipped. A block that begins with an activation gives its shortcut both its input `x` and the `activated` one.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from resflax.types import Array, ConvFactory, NormFactory


class Shortcut(nn.Module):
    """What all options are made with."""

    features: int
    stride: int
    conv: ConvFactory
    norm: NormFactory


class PaddedShortcut(Shortcut):
    """Option A: every `stride`-th pixel, zeros for new channels. float[B, H, W, C] -> float[B, H/s, W/s, features].

    The zeros are split evenly before and after the old channels; which channels stay empty makes no difference to a
    network whose other layers are initialised alike.
    """

    @nn.compact
    def __call__(self, x: Array, activated: Array | None = None) -> Array:
        x = self.reduced(x)
        new = self.features - x.shape[-1]
        if new < 0:
            raise ValueError(f"option A can only add channels, got {x.shape[-1]} -> {self.features}; use option B")
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)))

    def reduced(self, x: Array) -> Array:
        """One pixel of each window of `stride` by `stride`, the first."""
        for axis in (1, 2):  # not x[:, ::s, ::s], which becomes a gather where the batch size is a symbol, as in exports
            x = lax.slice_in_dim(x, 0, x.shape[axis], self.stride, axis)
        return x


class AveragedShortcut(PaddedShortcut):
    """Option A whose pixels are the means of their windows (Huang et al. 2016, Sec. 4)."""

    def reduced(self, x: Array) -> Array:
        """The mean of each window of `stride` by `stride`."""
        return _averaged(x, self.stride)


class ProjectedEverywhere(Shortcut):
    """Option C: a 1x1 convolution with normalisation. float[B, H, W, C] -> float[B, H/s, W/s, features]."""

    @nn.compact
    def __call__(self, x: Array, activated: Array | None = None) -> Array:
        return self.norm(name="norm")(self.conv(self.features, 1, stride=self.stride, name="conv")(x))


class ProjectedShortcut(ProjectedEverywhere):
    """Option B: option C where the shape changes, the identity elsewhere."""

    @nn.compact
    def __call__(self, x: Array, activated: Array | None = None) -> Array:
        if x.shape[-1] == self.features and self.stride == 1:
            return x
        return super().__call__(x)


class PooledShortcut(Shortcut):
    """Option D: option B with the stride in an average pool before it.

    float[B, H, W, C] -> float[B, ceil(H/s), ceil(W/s), features]. A window that reaches past the edge averages the pixels it
    has.
    """

    @nn.compact
    def __call__(self, x: Array, activated: Array | None = None) -> Array:
        if x.shape[-1] == self.features and self.stride == 1:
            return x
        return self.norm(name="norm")(self.conv(self.features, 1, name="conv")(_averaged(x, self.stride)))


class ActivatedShortcut(Shortcut):
    """Option B of a block that begins with an activation: a 1x1 convolution of the activated input, without normalisation.

    float[B, H, W, C] -> float[B, H/s, W/s, features] (He et al. 2016, in the authors' code for units that increase
    dimensions; Zagoruyko and Komodakis 2016).
    """

    @nn.compact
    def __call__(self, x: Array, activated: Array) -> Array:
        if x.shape[-1] == self.features and self.stride == 1:
            return x
        return self.conv(self.features, 1, stride=self.stride, name="conv")(activated)


def _averaged(x: Array, stride: int) -> Array:
    """The mean of each window of `stride` by `stride`; one that reaches past the edge averages the pixels it has."""
    if stride == 1:
        return x
    edges = [(0, -side % stride) for side in x.shape[1:3]]
    return nn.avg_pool(x, (stride, stride), (stride, stride), edges, count_include_pad=False)
