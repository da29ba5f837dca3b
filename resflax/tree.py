"""Pytrees by name: paths, counts, digests, differences."""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import numpy as np

from resflax.types import Tree


def named_leaves(tree: Tree) -> dict[str, Any]:
    """`{"stage1/block1/conv1/kernel": leaf, ...}` in the tree's own order."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def parameter_count(params: Tree) -> int:
    """The number of scalars in a tree of arrays or of `jax.ShapeDtypeStruct`."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


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
