"""Runs equal blocks one after another: unrolled, or as one loop that compiles in the time of a single block.

A loop stores the blocks' parameters stacked along a first axis. Two functions convert trees between the layouts; the
unrolled names (`stage2/block3/conv1`) are the ones that exports and converters use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn

from resflax.types import Array

Repeat = Literal["loop", "scan", "scan_remat"]

FIRST = 2  # block1 changes the shape and is never part of a loop
STACKED = "blocks"  # whose parameters have a leading axis of layers


def repeat(
    make_block: Callable[..., nn.Module],
    count: int,
    x: Array,
    mode: Repeat = "loop",
    keys: Array | None = None,
    rates: Sequence[float] = (),
) -> Array:
    """Applies `count` blocks, which must keep the shape of `x`; to be called inside a compact method.

    Args:
      make_block: `make_block(name=...)` -> a module from float[B, H, W, C] to the same shape.
      count: how many; they are named `block2`, `block3`, ... unrolled, and `blocks` in a loop.
      x: float[B, H, W, C].
      mode: `loop` unrolls; `scan` is one loop over stacked parameters; `scan_remat` also recomputes each block's
        activations in the backward pass, so that memory grows by one activation a block.
      keys, rates: where the blocks have random parts, of each block its key (None: nothing is drawn) and its rate of
        stochastic depth, [count]; a block is then called as `block(x, key, rate)`, and draws the same in every mode.
    """
    if mode == "loop":
        for index in range(count):
            block = make_block(name=f"block{FIRST + index}")
            x = block(x, None if keys is None else keys[index], rates[index]) if rates else block(x)
        return x
    if count == 0:
        return x

    def body(block: nn.Module, carry: Array, noise: Any) -> tuple[Array, None]:
        return (block(carry) if noise is None else block(carry, *noise)), None

    if mode == "scan_remat":
        body = nn.remat(body, prevent_cse=False)
    scan = nn.scan(
        body,
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
        length=count,
    )
    noise = (keys, jnp.asarray(rates, jnp.float32)) if rates else None
    return scan(make_block(name=STACKED), x, noise)[0]


def stack_blocks(tree: Mapping[str, Any]) -> dict[str, Any]:
    """From unrolled names to stacked leaves, at every level; a tree without repeated blocks comes back as it is."""
    names = [name for name in tree if re.fullmatch(r"block\d+", name) and name != "block1"]
    rest = {
        name: stack_blocks(child) if isinstance(child, Mapping) else child for name, child in tree.items() if name not in names
    }
    if not names:
        return rest
    ordered = [tree[f"block{index}"] for index in range(FIRST, FIRST + len(names))]
    return {**rest, STACKED: _map(lambda *leaves: jnp.stack(leaves), *ordered)}


def unstack_blocks(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `stack_blocks`."""
    result: dict[str, Any] = {}
    for name, child in tree.items():
        if name == STACKED:
            for index in range(_length(child)):
                result[f"block{FIRST + index}"] = _map(lambda leaf, index=index: leaf[index], child)
        else:
            result[name] = unstack_blocks(child) if isinstance(child, Mapping) else child
    return result


def unrolled_names(name: str, count: int) -> list[str]:
    """The unrolled names of what a leaf holds: one a layer where it lies under `blocks`, a stack of `count`; else its own."""
    parts = name.split("/")
    if STACKED not in parts:
        return [name]
    at = parts.index(STACKED)
    return ["/".join((*parts[:at], f"block{FIRST + index}", *parts[at + 1 :])) for index in range(count)]


def _map(function: Callable[..., Any], *trees: Any) -> Any:
    if isinstance(trees[0], Mapping):
        return {name: _map(function, *(tree[name] for tree in trees)) for name in trees[0]}
    return function(*trees)


def _length(tree: Any) -> int:
    while isinstance(tree, Mapping):
        tree = next(iter(tree.values()))
    return int(tree.shape[0])
