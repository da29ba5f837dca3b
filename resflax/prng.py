"""Random keys as pure functions of the run's seed: one stream a purpose, nothing carried in the state."""

from __future__ import annotations

from typing import Literal, get_args

import jax

from resflax.nn import threefry
from resflax.types import Array

Stream = Literal["init", "augment", "dropout", "mixing", "corruption"]


def stream_key(seed: int | Array, stream: Stream) -> Array:
    """The base key of one purpose; further indices (step, epoch, example id) are folded in by the caller.

    `seed` is an integer or, inside `jit`, uint32[]: the key is the same. Its implementation is the fastest here, with the
    numbers of JAX's own, see `resflax.nn.threefry`.
    The position of a name in `Stream` is part of the contract: append, never reorder.
    """
    return jax.random.fold_in(jax.random.key(seed, impl=threefry.implementation()), get_args(Stream).index(stream))
