"""A strided convolution over few channels as an unstrided one over four times as many.

The 7x7/2 convolution of an ImageNet stem sees three channels, where matrix units work on 8 or more at once. Squares of 2x2
pixels become the channels of one pixel, 224x224x3 becoming 112x112x12, and the kernel, with zeros at its edges so that it is
8x8, becomes 4x4: the same map with the same parameters, and 64 products for 49.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from resflax.nn.conv import Conv, Pair, convolution
from resflax.types import Array


def space_to_depth(x: Array) -> Array:
    """Squares of 2x2 pixels as one: float[B, H, W, C] -> float[B, ceil(H/2), ceil(W/2), 4C]; odd sides end with a zero."""
    batch, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    x = x.reshape(batch, (height + 1) // 2, 2, (width + 1) // 2, 2, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, (height + 1) // 2, (width + 1) // 2, 4 * channels)


def space_to_depth_convolution(x: Array, kernel: Array, padding: int, **options: Any) -> Array:
    """The convolution of stride 2 by way of `space_to_depth`.

    Args:
      x: float[B, H, W, C].
      kernel: float[k, k, C, features].
      padding: zeros on each side.
      **options: of `resflax.nn.convolution`.

    Returns:
      float[B, H', W', features] with H' = floor((H + 2 padding - k) / 2) + 1.
    """
    k, _, channels, features = kernel.shape
    before = padding % 2  # so that the first tap lies on the first pixel of a square
    taps = (before + k + 1) // 2
    after = 2 * taps - before - k
    kernel = jnp.pad(kernel, ((before, after), (before, after), (0, 0), (0, 0)))
    kernel = kernel.reshape(taps, 2, taps, 2, channels, features).transpose(0, 2, 1, 3, 4, 5)
    low = (before + padding) // 2

    def pads(side: int) -> Pair:
        outputs = (side + 2 * padding - k) // 2 + 1
        return low, outputs + taps - 1 - low - (side + 1) // 2

    return convolution(
        space_to_depth(x),
        kernel.reshape(taps, taps, 4 * channels, features),
        padding=(pads(x.shape[1]), pads(x.shape[2])),
        **options,
    )


class SpaceToDepthConv(Conv):
    """`Conv` of stride 2, without dilation or groups, computed by `space_to_depth_convolution`. The same parameters."""

    stride: int = 2

    @nn.compact
    def __call__(self, x: Array) -> Array:
        k = self.kernel_size
        kernel = self.reparametrise(
            self.param("kernel", self.kernel_init, (k, k, x.shape[-1], self.features), self.param_dtype)
        )
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        padding = (k - 1) // 2 if self.padding is None else self.padding
        y = space_to_depth_convolution(x, kernel, padding, gradient=self.gradient)
        return y if bias is None else y + bias


def conv_by_space_to_depth(features: int, kernel_size: int, stride: int = 1, **options: Any) -> Conv:
    """Makes the convolutions of a network whose stem, the only 7x7/2, is a `SpaceToDepthConv`."""
    kind = SpaceToDepthConv if (kernel_size, stride) == (7, 2) else Conv
    return kind(features, kernel_size, stride, **options)
