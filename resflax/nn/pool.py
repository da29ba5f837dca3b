"""Pooling with explicit padding."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from resflax.types import Array


def max_pool(x: Array, window: int, stride: int, padding: int = 0) -> Array:
    """The maximum of each window: float[B, H, W, C] -> float[B, H', W', C]; padding counts as minus infinity.

    Where windows do not overlap it is a reduction, whose gradient is an element-wise product; pixels that share the maximum of
    a window share its gradient. Else the gradient is that of `lax.reduce_window`, which has no fast form on CPUs.
    """
    if window == stride and not padding:
        height, width = (side // window for side in x.shape[1:3])
        tiles = x[:, : height * window, : width * window].reshape(x.shape[0], height, window, width, window, x.shape[3])
        return jnp.max(tiles, axis=(2, 4))
    return nn.max_pool(x, (window, window), (stride, stride), ((padding, padding), (padding, padding)))


def average_pool(x: Array, window: int, stride: int, padding: int = 0) -> Array:
    """The mean of each window: float[B, H, W, C] -> float[B, H', W', C]; padding counts as zeros, as in PyTorch."""
    return nn.avg_pool(x, (window, window), (stride, stride), ((padding, padding), (padding, padding)))


def global_average_pool(x: Array) -> Array:
    """The mean over both spatial axes, taken in at least float32: float[B, H, W, C] -> float[B, C]."""
    return jnp.mean(x, axis=(1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))


def adaptive_average_pool(x: Array, size: int) -> Array:
    """The mean of each cell of a `size` by `size` grid: float[B, H, W, C] -> float[B, size, size, C].

    Cell i of a side of n pixels is `floor(i n / size)` to `ceil((i + 1) n / size)`; cells overlap where n is no multiple.
    """
    if x.shape[1:3] == (size, size):
        return x
    rows, columns = (_cells(side, size) for side in x.shape[1:3])
    return jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns).astype(x.dtype)


def _cells(side: int, size: int) -> np.ndarray:
    """float32[size, side]: the weights with which each cell averages."""
    weights = np.zeros((size, side), np.float32)
    for index in range(size):
        first, end = index * side // size, -(-(index + 1) * side // size)
        weights[index, first:end] = 1 / (end - first)
    return weights
