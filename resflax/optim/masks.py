"""Which parameters decay. By name, never by `ndim`: blocks in a loop stack their leaves and add an axis to each."""

from __future__ import annotations

from typing import Literal

import jax

from resflax.types import Tree

DecayMask = Literal["all", "kernels"]


def decay_mask(params: Tree, which: DecayMask) -> Tree:
    """A tree of bools: every leaf (`all`, as He et al. 2015), or those named `kernel` (`kernels`, Goyal et al. 2017)."""
    return jax.tree_util.tree_map_with_path(lambda path, _: which == "all" or path[-1].key == "kernel", params)
