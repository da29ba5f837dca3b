"""Squeeze-and-excitation: channels weighed by what the whole image holds."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from resflax.nn.conv import kaiming_normal
from resflax.types import Array


class SqueezeExcite(nn.Module):
    """`x * sigmoid(expand(relu(reduce(mean(x)))))` (Hu et al. 2018, Eqs. 2 to 4). Keeps the shape, float[B, H, W, C].

    `reduce` has `ratio * C` outputs, rounded to a multiple of `multiple` and at least that. Parameters: two dense layers with
    bias.
    """

    ratio: float = 1 / 16
    multiple: int = 8  # timm's, for ImageNet; 1 is the paper's, for networks of few channels

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        reduced = max(self.multiple, int(channels * self.ratio + self.multiple / 2) // self.multiple * self.multiple)
        y = jnp.mean(x, axis=(1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))  # [B, C]
        y = nn.relu(nn.Dense(reduced, kernel_init=kaiming_normal, name="reduce")(y))
        y = nn.sigmoid(nn.Dense(channels, kernel_init=kaiming_normal, name="expand")(y))
        return x * y[:, None, None, :].astype(x.dtype)
