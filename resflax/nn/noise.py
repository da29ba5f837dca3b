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


def skip_for_batch(key: Array | None, x: Array, rate: float | Array) -> Array:
    """`stochastic_depth` as it was printed: zeros float[B, H, W, C] as a whole; without a key, scales it by `1 - rate`.

    Huang et al. 2016, Eqs. 2 and 5: one draw for the batch, nothing scaled in training, the survival probability in evaluation.
    """
    if key is None:
        return x * jnp.asarray(1 - rate, x.dtype)
    return jnp.where(jax.random.bernoulli(key, 1 - rate), x, jnp.zeros((), x.dtype))


def linear_rates(last: float, count: int) -> tuple[float, ...]:
    """Rates that grow linearly from 0 in the first of `count` blocks to `last` (Huang et al. 2016, Eq. 4, as timm counts)."""
    return tuple(last * index / max(1, count - 1) for index in range(count))


def linear_rates_from_input(last: float, count: int) -> tuple[float, ...]:
    """Rates that grow linearly from 0 at the input of the first of `count` blocks to `last` (Huang et al. 2016, Eq. 4)."""
    return tuple(last * (index + 1) / count for index in range(count))


def _omit(key: Array, x: Array, rate: float | Array, shape: tuple[int, ...]) -> Array:
    keep = 1 - rate
    return jnp.where(jax.random.bernoulli(key, keep, shape), x / jnp.asarray(keep, x.dtype), jnp.zeros((), x.dtype))
