"""Averages of the weights along a run, as how much of the old average each step keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from resflax.types import Array

# The number of updates, this one included, int32[] -> the share of the old average; the new values have the rest.
Keep = Callable[[Array], Any]


def exponential(decay: float) -> Keep:
    """`average = decay * average + (1 - decay) * value` after each step."""
    return lambda count: decay


def uniform(start: int, every: int) -> Keep:
    """The mean of the networks after `start`, `start + every`, `start + 2 * every`, ... updates (Izmailov et al. 2018).

    Their Algorithm 1. Until `start` the average is the network itself; between two of those networks it stays as it is.
    """

    def keep(count: Array) -> Array:
        averaged = (count - start) // every  # networks that are in the average already
        return jnp.where(count <= start, 0.0, jnp.where((count - start) % every == 0, averaged / (averaged + 1), 1.0))

    return keep


def average(share: Any, old: Array, new: Array) -> Array:
    """`share * old + (1 - share) * new`; where both are equal exactly that, so that what never changes has an equal average."""
    return jnp.where(old == new, new, share * old + (1 - share) * new)
