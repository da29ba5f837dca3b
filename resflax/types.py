"""The names that annotations share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn

Array = jax.Array
ArrayLike = jax.Array | np.ndarray
DType = Any  # whatever jnp.dtype() accepts; JAX has no narrower public name
Tree = Any  # a pytree of arrays
Variables = Mapping[str, Any]  # {"params": ..., "batch_stats": ...}
Batch = Mapping[str, Any]  # see resflax.data.pipeline

ConvFactory = Callable[..., nn.Module]  # (features, kernel_size, stride=..., name=...) -> module
NormFactory = Callable[..., nn.Module]  # (name=..., scale_init=...) -> module
BlockFactory = Callable[..., nn.Module]  # (width, conv, norm, stride=..., name=...) -> module
ShortcutFactory = Callable[..., nn.Module]  # (features, stride=..., conv=..., norm=..., name=...) -> module
OmitBranch = Callable[..., Array]  # (key or None, branch, rate) -> branch, see `resflax.nn.noise`
GateFactory = Callable[..., nn.Module]  # (name=...) -> module that keeps the shape
Stem = Callable[[Array, ConvFactory, NormFactory], Array]  # float[B, H, W, C] -> float[B, H', W', width]
Top = Callable[[Array, NormFactory], Array]  # float[B, H, W, C] -> float32[B, C]
