"""Lookahead: fast weights run ahead, slow weights follow (Zhang et al. 2019, Algorithm 1)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from resflax.types import Array, Tree


class LookaheadState(NamedTuple):
    """What an optimizer with lookahead remembers; the parameters of the network are the fast weights."""

    since: Array  # shape=(), int32: updates since the slow weights moved
    slow: Tree
    fast: optax.OptState


def lookahead(optimizer: optax.GradientTransformation, steps: int, rate: float) -> optax.GradientTransformation:
    """After every `steps` updates of `optimizer` the slow weights go `rate` of the way to the fast ones, which follow them.

    `optimizer` keeps its state meanwhile (the authors' `pullback_momentum="none"`). The slow weights are what is evaluated, see
    `resflax.training.state`. `optax.lookahead` is the same with both kinds of weights in the place of the parameters.
    """

    def init(params: Tree) -> LookaheadState:
        return LookaheadState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params), optimizer.init(params))

    def update(updates: Tree, state: LookaheadState, params: Tree | None = None) -> tuple[Tree, LookaheadState]:
        updates, fast = optimizer.update(updates, state.fast, params)
        due = state.since == steps - 1

        def follow(update: Array, slow: Array, param: Array) -> Array:
            return jnp.where(due, slow + rate * (param + update - slow) - param, update)

        updates = jax.tree.map(follow, updates, state.slow, params)
        # The fast weights as they will be, rounding included: so both are the same to the bit.
        slow = jax.tree.map(lambda slow, param: jnp.where(due, param, slow), state.slow, optax.apply_updates(params, updates))
        return updates, LookaheadState((state.since + 1) % steps, slow, fast)

    return optax.GradientTransformation(init, update)
