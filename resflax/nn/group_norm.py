"""Group normalisation: statistics of one image, so that the batch does not matter."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from resflax.types import Array, DType


class GroupNorm(nn.Module):
    """Normalises each image over groups of channels and both spatial axes (Wu and He 2018, Eqs. 1 to 7).

    Maps float[B, H, W, C] to the same shape; C must be a multiple of `groups`. Statistics are taken in at least float32.
    Parameters: `scale`, `bias` float[C]. Stands wherever `BatchNorm` does; there are no running statistics to use.
    """

    use_running_average: bool = False  # has no effect
    groups: int = 32
    epsilon: float = 1e-5
    dtype: DType = None  # of the result; None: that of the input
    param_dtype: DType = jnp.float32
    scale_init: Any = nn.initializers.ones
    bias_init: Any = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        if channels % self.groups:
            raise ValueError(
                f"the channels must be a multiple of the groups, got {channels} and {self.groups}; change the width"
            )
        scale = self.param("scale", self.scale_init, (channels,), self.param_dtype)
        bias = self.param("bias", self.bias_init, (channels,), self.param_dtype)
        stats_dtype = jnp.promote_types(x.dtype, jnp.float32)
        grouped = x.astype(stats_dtype).reshape(*x.shape[:-1], self.groups, channels // self.groups)  # [B, H, W, G, C/G]
        axes = (1, 2, 4)
        centred = grouped - jnp.mean(grouped, axes, keepdims=True)
        normalised = centred * lax.rsqrt(jnp.mean(jnp.square(centred), axes, keepdims=True) + self.epsilon)
        y = normalised.reshape(x.shape) * scale + bias
        return y.astype(self.dtype or x.dtype)
