"""Batch normalisation with a statistics group that means the same on one device and on a pod."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from resflax.nn.normalise import Gradient, normalise
from resflax.types import Array, DType


class BatchNorm(nn.Module):
    """Normalises each channel over groups of `group_size` consecutive images (Ioffe and Szegedy 2015, Algorithm 1).

    In training, `y = scale * (x - mean_g) / sqrt(var_g + epsilon) + bias` with mean and biased variance of the image's
    group g, over its images and both spatial axes. Under `jit` with a sharded batch a plain mean is one over the global
    batch, whatever the number of devices; a group makes the statistics part of the experiment instead. He et al. 2015
    normalise over the 128 / 2 images of one GPU: `group_size=64`.

    Running statistics follow `running = momentum * running + (1 - momentum) * mean over groups of the group's`, where
    the variance may be the `unbiased` one, n / (n - 1) times the biased, as PyTorch keeps it. A layer whose parameters are all
    `frozen` uses its running statistics in training too, and keeps them as they are.

    Maps float[B, H, W, C] or float[B, C] to the same shape. B must be a multiple of `group_size`. Statistics are taken
    in at least float32. `gradient`: how the derivative is computed, see `resflax.nn.normalise`. Parameters: `bias` and, with
    `use_scale`, `scale` float[C], else it is 1; `batch_stats`: `mean`, `var` float[C].
    """

    use_running_average: bool
    group_size: int | None = None  # None: the global batch
    momentum: float = 0.9
    epsilon: float = 1e-5
    running_variance: Literal["biased", "unbiased"] = "biased"
    gradient: Gradient = "autodiff"
    use_scale: bool = True
    # whether the parameter of a name (`stage1/block1/norm1/scale`) never changes; None: all may
    frozen: Callable[[str], bool] | None = None
    dtype: DType = None  # of the result; None: that of the input
    param_dtype: DType = jnp.float32
    scale_init: Any = nn.initializers.ones
    bias_init: Any = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        stats_dtype = jnp.promote_types(x.dtype, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), self.param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), self.param_dtype)
        ones = jnp.ones(channels, self.param_dtype)
        scale = self.param("scale", self.scale_init, (channels,), self.param_dtype) if self.use_scale else ones
        bias = self.param("bias", self.bias_init, (channels,), self.param_dtype)

        if self.use_running_average or self._rests():
            factor = scale * lax.rsqrt(running_var.value + self.epsilon)
            y = x.astype(stats_dtype) * factor + (bias - running_mean.value * factor)
            return y.astype(self.dtype or x.dtype)

        size = x.shape[0] if self.group_size is None else min(self.group_size, x.shape[0])
        if x.shape[0] % size:
            raise ValueError(
                f"the batch must be a multiple of group_size, got {x.shape[0]} and {size}; change the batch size or the group"
            )
        grouped = x.reshape(-1, size, *x.shape[1:])  # [G, B/G, H, W, C]
        y, mean, var = normalise(grouped, scale, bias, self.epsilon, self.gradient)

        if not self.is_initializing():
            count = grouped.size // (grouped.shape[0] * channels)  # values a statistic is taken over
            unbiased = self.running_variance == "unbiased" and count > 1
            correction = count / (count - 1) if unbiased else 1.0
            for running, new in ((running_mean, mean), (running_var, var * correction)):
                new = jnp.mean(new.reshape(-1, channels), axis=0).astype(self.param_dtype)
                running.value = self.momentum * running.value + (1 - self.momentum) * new
        return y.reshape(x.shape).astype(self.dtype or x.dtype)

    def _rests(self) -> bool:
        own = ("scale", "bias") if self.use_scale else ("bias",)
        return self.frozen is not None and all(self.frozen("/".join((*self.path, name))) for name in own)
