"""Random omissions in training, as pure functions of a key. Without a key nothing is omitted: that is evaluation."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from resflax.types import Array


def dropout(key: Array | None, x: Array, rate: float | Array) -> Array:
    """Zeros each element with probability `rate`, scales the others by `1 / (1 - rate)` (Srivastava et al. 2014)."""
    return x if key is None else _omit(key, x, rate, x.shape)


def stochastic_depth(key: Array | None, x: Array, rate: float | Array) -> Array:
    """Zeros each image of float[B, H, W, C] with probability `rate`, scales the others by `1 / (1 - rate)`.

    On the residual branch of a block this skips the block (Huang et al. 2016, Sec. 3). The paper skips it for a whole batch
    at once and scales by `1 - rate` in evaluation; drawing for each image and scaling in training have the same mean.
    """
    return x if key is None else _omit(key, x, rate, (x.shape[0], 1, 1, 1))


def linear_rates(last: float, count: int) -> tuple[float, ...]:
    """Rates that grow linearly from 0 in the first of `count` blocks to `last` (Huang et al. 2016, Eq. 4, as timm counts)."""
    return tuple(last * index / max(1, count - 1) for index in range(count))


def _omit(key: Array, x: Array, rate: float | Array, shape: tuple[int, ...]) -> Array:
    keep = 1 - rate
    return jnp.where(jax.random.bernoulli(key, keep, shape), x / jnp.asarray(keep, x.dtype), jnp.zeros((), x.dtype))
