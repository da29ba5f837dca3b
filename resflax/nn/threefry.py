"""JAX's own random numbers, Threefry 2x32 (Salmon et al. 2011), by the C of `resflax.nn.native` on one CPU.

XLA:CPU makes a loop of each of JAX's draws, of several kernels: they were most of what there was to compile of a ResNet-20's
initial state. Here a draw is one call, and its bits are the same.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

import jax
import jax.numpy as jnp
from jax.extend.random import define_prng_impl, threefry_prng_impl

from resflax.nn import native
from resflax.nn.stand_in import stand_in
from resflax.types import Array


def implementation() -> Hashable | None:
    """The `impl` of `jax.random.key` whose numbers are drawn fastest here; None: JAX's default.

    They are those of the default, and so is the data of its keys. But keys of two implementations cannot be mixed, and
    `jax.random.poisson` takes JAX's own alone: `jax.random.wrap_key_data(jax.random.key_data(key))`.
    """
    settings = jax.config.values
    is_same = settings["jax_default_prng_impl"] == threefry_prng_impl.name and settings["jax_threefry_partitionable"]
    return _IMPLEMENTATION if is_same and native.is_usable() else None


def _split(key: Array, shape: tuple[int, ...]) -> Array:
    """Of a count, both words are a key."""

    def form(key: Array) -> Array:
        return jnp.moveaxis(_words(key, shape), 0, -1)

    return stand_in(form, lambda key: threefry_prng_impl.split(key, shape))(key)


def _fold_in(key: Array, data: int | Array) -> Array:
    def form(key: Array, data: Array) -> Array:
        return native.threefry(key, data, 1)[:, 0]

    return stand_in(form, threefry_prng_impl.fold_in)(key, jnp.asarray(data, jnp.uint32))


def _random_bits(key: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    def plain(key: Array) -> Array:
        return threefry_prng_impl.random_bits(key, bit_width, shape)

    def form(key: Array) -> Array:
        high, low = _words(key, shape)
        return high ^ low

    return stand_in(form, plain)(key) if bit_width == 32 else plain(key)


def _words(key: Array, shape: tuple[int, ...]) -> Array:
    return native.threefry(key, jnp.uint32(0), math.prod(shape)).reshape(2, *shape)


_IMPLEMENTATION = define_prng_impl(
    key_shape=threefry_prng_impl.key_shape,
    seed=threefry_prng_impl.seed,
    split=_split,
    fold_in=_fold_in,
    random_bits=_random_bits,
    name="threefry2x32_in_c",
    tag="fry_in_c",
)
