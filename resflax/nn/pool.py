"""Pooling with explicit padding."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from resflax.types import Array


def max_pool(x: Array, window: int, stride: int, padding: int = 0) -> Array:
    """The maximum of each window: float[B, H, W, C] -> float[B, H', W', C]; padding counts as minus infinity."""
    return nn.max_pool(x, (window, window), (stride, stride), ((padding, padding), (padding, padding)))


def average_pool(x: Array, window: int, stride: int, padding: int = 0) -> Array:
    """The mean of each window: float[B, H, W, C] -> float[B, H', W', C]; padding counts as zeros, as in PyTorch."""
    return nn.avg_pool(x, (window, window), (stride, stride), ((padding, padding), (padding, padding)))


def global_average_pool(x: Array) -> Array:
    """The mean over both spatial axes, taken in at least float32: float[B, H, W, C] -> float[B, C]."""
    return jnp.mean(x, axis=(1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))
