"""Pytrees by name: paths, counts, digests, differences."""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resflax.types import Array, Tree


def named_leaves(tree: Tree) -> dict[str, Any]:
    """`{"stage1/block1/conv1/kernel": leaf, ...}` in the tree's own order."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def parameter_count(params: Tree) -> int:
    """The number of scalars in a tree of arrays or of `jax.ShapeDtypeStruct`."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def all_finite(tree: Tree) -> Array:
    """shape=(), bool: whether no leaf holds a NaN or an infinity; for use inside `jit`.

    Leaves of one shape share a reduction. With one a leaf XLA repeats hundreds of them wherever the result is used, and a
    training step takes three times as long to compile.
    """
    by_shape: dict[tuple[int, ...], list[Array]] = {}
    for leaf in jax.tree.leaves(tree):
        by_shape.setdefault(jnp.shape(leaf), []).append(jnp.isfinite(leaf))
    return jnp.array([functools.reduce(jnp.logical_and, leaves).all() for leaves in by_shape.values()], bool).all()


def digest(tree: Tree) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all leaves: equal if and only if the trees are bit-equal."""
    sha = hashlib.sha256()
    for name, leaf in named_leaves(tree).items():
        array = np.asarray(leaf)
        sha.update(f"{name} {array.dtype} {array.shape} ".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def signature(tree: Tree) -> dict[str, str]:
    """`{"params/head/kernel": "float32[64,10]", ...}`."""
    return {name: f"{np.dtype(leaf.dtype).name}[{','.join(map(str, leaf.shape))}]" for name, leaf in named_leaves(tree).items()}


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """What separates two `signature`s, a phrase each; empty when they agree."""
    missing = [f"{name} is missing" for name in expected if name not in found]
    surplus = [f"{name} is not expected" for name in found if name not in expected]
    changed = [
        f"{name} is {found[name]}, expected {expected[name]}"
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    return missing + surplus + changed
