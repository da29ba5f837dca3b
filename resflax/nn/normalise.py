"""The arithmetic of batch normalisation, with a gradient that reads less.

The derivative that JAX derives goes through the mean, the centred values and the variance in turn, and keeps the centred
values, as large as the layer and in float32. The closed form keeps the layer's input alone, in its own dtype: statistics
take one pass over it, the gradient two reductions over it and the incoming gradient together, and one elementwise pass.
"""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from resflax.types import Array

Gradient = Literal["autodiff", "closed_form"]
Normalised = tuple[Array, Array, Array]  # y [G, N, ..., C]; mean and biased variance [G, 1, ..., C]


def normalise(x: Array, scale: Array, bias: Array, epsilon: float, gradient: Gradient = "autodiff") -> Normalised:
    """`scale * (x - mean) / sqrt(var + epsilon) + bias`, each group by its own statistics.

    Args:
      x: float[G, N, ..., C], G groups of N images each.
      scale: float[C].
      bias: float[C].
      epsilon: added to the variance.
      gradient: `closed_form` is the gradient of y alone: none flows through the statistics that are returned.

    Returns:
      y [G, N, ..., C], and mean and biased variance [G, 1, ..., C], all in at least float32.
    """
    return _closed_form(epsilon, x, scale, bias) if gradient == "closed_form" else _plain(epsilon, x, scale, bias)


def _widened(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _plain(epsilon: float, x: Array, scale: Array, bias: Array) -> Normalised:
    x = _widened(x)
    axes = tuple(range(1, x.ndim - 1))
    mean = jnp.mean(x, axes, keepdims=True)
    centred = x - mean
    var = jnp.mean(jnp.square(centred), axes, keepdims=True)
    return centred * (scale * lax.rsqrt(var + epsilon)) + bias, mean, var


def statistics(x: Array) -> tuple[Array, Array]:
    """Mean and biased variance [G, 1, ..., C] of `x` [G, N, ..., C] in one pass over it, without cancellation.

    Sums of an image are taken relative to the pixel in its middle: `E[d^2] - E[d]^2` loses digits where the mean is large
    beside the deviation, and d is about as large as the deviation. The pixel lies where its image does, so on several
    devices nothing is sent that the plain mean and variance would not send. Images are then joined exactly, by the
    variance within and between them (Chan et al. 1983, Eq. 1.5).
    """
    inner = tuple(range(2, x.ndim - 1))
    middle = x[(slice(None), slice(None), *(slice(x.shape[axis] // 2, x.shape[axis] // 2 + 1) for axis in inner))]
    shift = _widened(middle)
    deviation = _widened(x) - shift
    offset = jnp.mean(deviation, inner, keepdims=True)
    within = jnp.mean(jnp.square(deviation), inner, keepdims=True) - jnp.square(offset)
    means = shift + offset  # [G, N, 1, ..., C], of the images
    mean = jnp.mean(means, 1, keepdims=True)
    var = jnp.mean(jnp.maximum(within, 0) + jnp.square(means - mean), 1, keepdims=True)
    return mean, var


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _closed_form(epsilon: float, x: Array, scale: Array, bias: Array) -> Normalised:
    return _forward(epsilon, x, scale, bias)[0]


def _forward(epsilon: float, x: Array, scale: Array, bias: Array) -> tuple[Normalised, tuple[Array, ...]]:
    mean, var = statistics(x)
    inverse = lax.rsqrt(var + epsilon)
    return ((_widened(x) - mean) * (scale * inverse) + bias, mean, var), (x, scale, bias, mean, inverse)


def _backward(epsilon: float, saved: tuple[Array, ...], cotangents: Normalised) -> tuple[Array, Array, Array]:
    """Ioffe and Szegedy 2015, Sec. 3, solved for the input: two sums over a group, then one term an element."""
    x, scale, bias, mean, inverse = saved
    dy = cotangents[0]
    axes = tuple(range(1, x.ndim - 1))
    count = x.size // (x.shape[0] * x.shape[-1])
    centred = _widened(x) - mean
    of_bias = jnp.sum(dy, axes, keepdims=True)  # [G, 1, ..., C]
    of_scale = jnp.sum(dy * centred, axes, keepdims=True) * inverse
    dx = (scale * inverse) * (dy - (of_bias + centred * (inverse * of_scale)) / count)
    totals = (jnp.sum(one, range(x.ndim - 1)) for one in (of_scale, of_bias))
    d_scale, d_bias = (total.astype(one.dtype) for total, one in zip(totals, (scale, bias), strict=True))
    return dx.astype(x.dtype), d_scale, d_bias


_closed_form.defvjp(_forward, _backward)
