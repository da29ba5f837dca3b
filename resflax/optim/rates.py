"""Rates of single layers, by name; what has the rate 0 is frozen."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from resflax.nn.repeat import unrolled_names
from resflax.types import Array, Tree


@dataclass(frozen=True)
class Rates:
    """`{pattern: factor}` over the unrolled names of parameters, `stage2/block3/conv1/kernel`.

    A pattern is the name of a parameter, of a module with all that is in it (`head`, `stage1/block2`), or has the wildcards of
    a shell, where `*` passes over `/` too. Of several that match, the last counts; where none does, the factor is 1.
    """

    rules: tuple[tuple[str, float], ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Rates:
        """From `("*=0", "head=1")`."""
        split = (text.rpartition("=") for text in texts)
        return cls(tuple((pattern, float(factor)) for pattern, _, factor in split))

    def factor(self, name: str) -> float:
        """What multiplies the rate of a parameter."""
        return next((factor for pattern, factor in reversed(self.rules) if _matches(name, pattern)), 1.0)

    def freezes(self, name: str) -> bool:
        """Whether a parameter never changes; of one that is stacked, whether that of its first layer does not."""
        return self.factor(unrolled_names(name, 1)[0]) == 0

    def unused(self, names: Iterable[str]) -> list[str]:
        """The patterns that match none of the unrolled names."""
        names = list(names)
        return [pattern for pattern, _ in self.rules if not any(_matches(name, pattern) for name in names)]

    def factors(self, tree: Tree) -> Tree:
        """For each leaf of a tree of parameters its factor, NumPy float64[]; float64[L, 1, ...] for a stack of L layers."""

        def one(path: Any, leaf: Any) -> np.ndarray:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            found = [self.factor(unrolled) for unrolled in unrolled_names(name, leaf.shape[0] if leaf.ndim else 1)]
            return np.asarray(found[0]) if found == found[:1] else np.reshape(found, (-1,) + (1,) * (leaf.ndim - 1))

        return jax.tree_util.tree_map_with_path(one, tree)

    def hold(self, params: Tree) -> Tree:
        """`params`, of which no gradient flows to the frozen ones: it is zero, and costs nothing where it is not passed on."""

        def one(factor: np.ndarray, leaf: Array) -> Array:
            if factor.all():
                return leaf
            held = jax.lax.stop_gradient(leaf)
            return jnp.where(factor == 0, held, leaf) if factor.any() else held

        return jax.tree.map(one, self.factors(params), params) if self.rules else params


def scale_by_rates(rates: Rates) -> optax.GradientTransformation:
    """Multiplies each update by its factor, last of all: so a frozen parameter does not decay either."""

    def update(updates: Any, params: Any) -> Any:
        def one(factor: np.ndarray, update: Array) -> Array:
            return jnp.where(factor == 0, 0, update * factor.astype(update.dtype))

        return jax.tree.map(one, rates.factors(updates), updates)

    return optax.stateless(update)


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}/*")
