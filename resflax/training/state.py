"""Everything a step changes, arrays only."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from flax import struct

from resflax.optim.lookahead import LookaheadState
from resflax.types import Array, Tree, Variables


class Ema(struct.PyTreeNode):
    """Averages over the run, exponential or uniform, see `resflax.training.averaging`."""

    params: Tree
    batch_stats: Tree


class TrainState(struct.PyTreeNode):
    """The state of a run; together with its configuration it determines everything that follows."""

    step: Array  # shape=(), int32: steps taken
    params: Tree  # float32
    batch_stats: Tree  # float32; {} for a network without normalisation
    opt_state: optax.OptState
    ema: Ema | None

    def variables(self) -> Variables:
        """What evaluation uses: the averages where they are kept, the slow weights of lookahead, or else the raw values."""
        source = self if self.ema is None else self.ema
        slow = self.ema is None and isinstance(self.opt_state, LookaheadState)
        return {"params": self.opt_state.slow if slow else source.params, "batch_stats": source.batch_stats}


@jax.jit
def snapshot(tree: Tree) -> Tree:
    """A copy with buffers of its own, which survives that a step takes those of `tree`."""
    return jax.tree.map(jnp.copy, tree)


def init_state(variables: Variables, optimizer: optax.GradientTransformation, ema: bool) -> TrainState:
    """The state before the first step."""
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        ema=Ema(*jax.tree.map(jnp.copy, (params, batch_stats))) if ema else None,
    )
