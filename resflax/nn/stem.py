"""Stems: what comes before the first block. Functions to be called inside a compact method; they name their layers there.

A stem takes `(x, conv, norm)` and maps float[B, H, W, 3]. The ImageNet ones quarter the image. Letters as in timm: C is three
3x3 convolutions for the 7x7 (Szegedy et al. 2016), S the same at twice the width, T with widths 24, 32, 64.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from resflax.nn.pool import max_pool
from resflax.types import Array, ConvFactory, NormFactory


def small_stem(x: Array, conv: ConvFactory, norm: NormFactory, width: int = 16) -> Array:
    """3x3 convolution, normalisation, ReLU at full resolution (He et al. 2015, Sec. 4.2). -> float[B, H, W, width]."""
    return nn.relu(norm(name="stem_norm")(conv(width, 3, name="stem_conv")(x)))


def small_linear_stem(x: Array, conv: ConvFactory, norm: NormFactory, width: int = 16) -> Array:
    """The 3x3 convolution alone, for blocks that begin with an activation (He et al. 2016). -> float[B, H, W, width]."""
    return conv(width, 3, name="stem_conv")(x)


def small_normalised_stem(x: Array, conv: ConvFactory, norm: NormFactory, width: int = 16) -> Array:
    """The 3x3 convolution and normalisation, for blocks that begin with a ReLU. -> float[B, H, W, width]."""
    return norm(name="stem_norm")(conv(width, 3, name="stem_conv")(x))


def large_stem(x: Array, conv: ConvFactory, norm: NormFactory, width: int = 64) -> Array:
    """7x7/2 convolution, normalisation, ReLU, 3x3/2 max-pool (He et al. 2015, Table 1). -> float[B, H/4, W/4, width]."""
    x = conv(width, 7, stride=2, name="stem_conv")(x)
    return max_pool(nn.relu(norm(name="stem_norm")(x)), 3, 2, padding=1)


def large_linear_stem(x: Array, conv: ConvFactory, norm: NormFactory, width: int = 64) -> Array:
    """7x7/2 convolution and 3x3/2 max-pool, for blocks that begin with an activation. -> float[B, H/4, W/4, width]."""
    return max_pool(conv(width, 7, stride=2, name="stem_conv")(x), 3, 2, padding=1)


def zero_padded_linear_stem(x: Array, conv: ConvFactory, norm: NormFactory, width: int = 64) -> Array:
    """`large_linear_stem` whose pool sees zeros past the edge (BiT, Kolesnikov et al. 2020). -> float[B, H/4, W/4, width]."""
    x = conv(width, 7, stride=2, name="stem_conv")(x)
    return max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, 2)


def deep_stem(x: Array, conv: ConvFactory, norm: NormFactory, widths: tuple[int, int, int] = (32, 32, 64)) -> Array:
    """Three 3x3 convolutions, the first /2, then a 3x3/2 max-pool (He et al. 2019, Fig. 2 b). -> float[B, H/4, W/4, C]."""
    return max_pool(_three_convolutions(x, conv, norm, widths), 3, 2, padding=1)


def deep_unpooled_stem(x: Array, conv: ConvFactory, norm: NormFactory, widths: tuple[int, int, int] = (32, 32, 64)) -> Array:
    """`deep_stem` with a 3x3/2 convolution for the pool (Bello et al. 2021, Sec. 6). -> float[B, H/4, W/4, C]."""
    x = _three_convolutions(x, conv, norm, widths)
    return nn.relu(norm(name="stem_norm4")(conv(widths[2], 3, stride=2, name="stem_conv4")(x)))


def _three_convolutions(x: Array, conv: ConvFactory, norm: NormFactory, widths: tuple[int, int, int]) -> Array:
    for index, width in enumerate(widths, 1):
        x = conv(width, 3, stride=2 if index == 1 else 1, name=f"stem_conv{index}")(x)
        x = nn.relu(norm(name=f"stem_norm{index}")(x))
    return x
