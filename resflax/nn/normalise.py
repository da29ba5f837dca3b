"""The arithmetic of batch normalisation, with a gradient that reads less.

The derivative that JAX derives goes through the mean, the centred values and the variance in turn, and keeps the centred
values, as large as the layer and in float32. The closed form keeps the layer's input alone, in its own dtype: statistics
take one pass over it, the gradient two reductions over it and the incoming gradient together, and one elementwise pass.

On one CPU with a C compiler these passes are those of `resflax.nn.native`, and the closed form is what `autodiff` stands for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from resflax.nn import native
from resflax.nn.stand_in import stand_in
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
      gradient: which of two arithmetics gives it; the numbers are the same.

    Returns:
      y [G, N, ..., C], and mean and biased variance [G, 1, ..., C], all in at least float32.
    """
    closed = gradient == "closed_form" or native.is_summable(x)
    return _closed_form(epsilon, x, scale, bias) if closed else _plain(epsilon, x, scale, bias)


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
    mean, var = statistics(x)
    return _scaled(x, scale, bias, mean, lax.rsqrt(var + epsilon)), mean, var


def _scaled(x: Array, scale: Array, bias: Array, mean: Array, inverse: Array) -> Array:
    return (_widened(x) - mean) * (scale * inverse) + bias


def _forward(epsilon: float, x: Array, scale: Array, bias: Array) -> tuple[Normalised, tuple[Array, ...]]:
    mean, var = _in_training(native.moments, statistics, x)
    inverse = lax.rsqrt(var + epsilon)
    return (_scaled(x, scale, bias, mean, inverse), mean, var), (x, scale, bias, mean, inverse)


def _backward(epsilon: float, saved: tuple[Array, ...], cotangents: Normalised) -> tuple[Array, Array, Array]:
    """Ioffe and Szegedy 2015, Sec. 3, solved for the input: two sums over a group, then one term an element."""
    x, scale, bias, mean, inverse = saved
    dy, d_mean, d_var = cotangents
    count = x.size // (x.shape[0] * x.shape[-1])
    of_bias, products = _in_training(native.sums, _sums, x, dy, mean)
    of_scale = products * inverse
    factor = scale * inverse
    constant = (factor * of_bias - d_mean) / count
    slope = (factor * inverse * of_scale - 2 * d_var) / count
    dx = factor * dy - (constant + (_widened(x) - mean) * slope)
    totals = (jnp.sum(one, range(x.ndim - 1)) for one in (of_scale, of_bias))
    d_scale, d_bias = (total.astype(one.dtype) for total, one in zip(totals, (scale, bias), strict=True))
    return dx.astype(x.dtype), d_scale, d_bias


_closed_form.defvjp(_forward, _backward)


def _sums(x: Array, dy: Array, mean: Array) -> tuple[Array, Array]:
    """Of dy and of dy (x - mean), [G, 1, ..., C]."""
    axes = tuple(range(1, x.ndim - 1))
    return jnp.sum(dy, axes, keepdims=True), jnp.sum(dy * (_widened(x) - mean), axes, keepdims=True)


def _in_training(natively: Callable[..., Any], plain: Callable[..., Any], *arguments: Array) -> Any:
    """The result of the faster of two functions."""
    if not native.is_summable(*arguments):
        return plain(*arguments)
    return lax.platform_dependent(*arguments, cpu=stand_in(natively, plain), default=plain)
