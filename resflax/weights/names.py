"""Parameters under other projects' names: a strict, two-way mapping of leaves.

A `Naming` says for each leaf of a network (`params/stage1/block1/conv1/kernel`) which tensor of a foreign file it is and how
its numbers are laid out there. Everything else follows from it, in both directions; no number is changed on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from flax import traverse_util

from resflax.errors import DataError
from resflax.tree import named_leaves
from resflax.types import Tree, Variables

SHOWN = 3  # names an error message lists

Shape = tuple[int, ...]
Tensors = dict[str, np.ndarray]  # of a foreign file, by its own names


class Layout(NamedTuple):
    """How one tensor becomes the other: `ours.reshape(split).transpose(axes).reshape(theirs)`."""

    split: Shape
    axes: tuple[int, ...]
    theirs: Shape

    def to_theirs(self, ours: np.ndarray) -> np.ndarray:
        """The foreign tensor of a leaf."""
        return ours.reshape(self.split).transpose(self.axes).reshape(self.theirs)

    def to_ours(self, theirs: np.ndarray, shape: Shape) -> np.ndarray:
        """The inverse of `to_theirs`."""
        moved = theirs.reshape([self.split[axis] for axis in self.axes])
        return moved.transpose(np.argsort(self.axes)).reshape(shape)


class Entry(NamedTuple):
    """A tensor of a foreign file."""

    name: str
    layout: Layout


# (path of a module, name of its parameter, shape) -> the foreign tensor; None where the naming has no word for it.
Naming = Callable[[str, str, Shape], Entry | None]


def same(shape: Shape) -> Layout:
    """Nothing moves."""
    return Layout(shape, tuple(range(len(shape))), shape)


def moved(shape: Shape, axes: Sequence[int], theirs: Shape | None = None) -> Layout:
    """The axes of `shape` in another order, then as the shape `theirs`."""
    axes = tuple(axes)
    return Layout(shape, axes, tuple(shape[axis] for axis in axes) if theirs is None else theirs)


def find_entries(abstract: Tree, naming: Naming, described: str) -> dict[str, Entry]:
    """The foreign tensor of each leaf, by the leaf's path.

    Raises `DataError` where there is none for a leaf, or one for two leaves.
    """
    entries: dict[str, Entry] = {}
    owner: dict[str, str] = {}
    for leaf, value in named_leaves(abstract).items():
        _, _, path = leaf.partition("/")
        module, _, parameter = path.rpartition("/")
        entry = naming(module, parameter, tuple(value.shape))
        if entry is None or entry.name in owner:
            why = "has none" if entry is None else f"would share {entry.name} with {owner[entry.name]}"
            raise DataError(f"every parameter of {described} must have a name there, but {leaf} {why}; choose another format")
        owner[entry.name] = leaf
        entries[leaf] = entry
    return entries


def bring_in(abstract: Tree, naming: Naming, tensors: Mapping[str, np.ndarray], described: str) -> Variables:
    """The variables of a network from a foreign file's tensors: every tensor used, every leaf filled, every shape right.

    Args:
      abstract: the network's variables as `jax.eval_shape` gives them, in unrolled names.
      naming: of the file's format.
      tensors: what the file holds, without what is known to be no weight.
      described: "FILE as resnet50", for messages.

    Returns:
      Nested dictionaries of NumPy arrays; half precision is widened to float32, which changes no number.

    Raises:
      DataError: the file does not fit the network.
    """
    entries = find_entries(abstract, naming, described)
    shapes = {leaf: tuple(value.shape) for leaf, value in named_leaves(abstract).items()}
    missing = [entry.name for entry in entries.values() if entry.name not in tensors]
    unused = sorted(set(tensors) - {entry.name for entry in entries.values()})
    present = [entry for entry in entries.values() if entry.name in tensors]
    misshapen = [
        f"{entry.name} {list(tensors[entry.name].shape)} for {list(entry.layout.theirs)}"
        for entry in present
        if tensors[entry.name].shape != entry.layout.theirs
    ]
    whole = [f"{entry.name} {tensors[entry.name].dtype}" for entry in present if not _is_floating(tensors[entry.name])]
    found = (("missing", missing), ("unused", unused), ("of another shape", misshapen), ("of another type", whole))
    problems = [f"{len(names)} {what} ({_first(names)})" for what, names in found if names]
    if problems:
        raise DataError(
            f"{described} must be the same network, but of {len(entries)} tensors {', '.join(problems)}; "
            "name the model that the file is of"
        )
    leaves = {leaf: entry.layout.to_ours(_widened(tensors[entry.name]), shapes[leaf]) for leaf, entry in entries.items()}
    return traverse_util.unflatten_dict(leaves, sep="/")


def take_out(variables: Variables, naming: Naming, described: str) -> Tensors:
    """The inverse of `bring_in`: the tensors of a foreign file."""
    entries = find_entries(variables, naming, described)
    leaves = named_leaves(variables)
    return {entry.name: np.ascontiguousarray(entry.layout.to_theirs(leaves[leaf])) for leaf, entry in entries.items()}


def head_size(naming: Naming, tensors: Mapping[str, np.ndarray]) -> int | None:
    """The number of classes that a file's classifier has; None where there is no classifier."""
    entry = naming("head/dense", "bias", (0,))
    found = None if entry is None else tensors.get(entry.name)
    return None if found is None or found.ndim != 1 else len(found)


def head_names(naming: Naming) -> list[str]:
    """The tensors of the classifier."""
    entries = [naming("head/dense", "kernel", (0, 0)), naming("head/dense", "bias", (0,))]
    return [entry.name for entry in entries if entry is not None]


def _widened(array: np.ndarray) -> np.ndarray:
    """float16 and bfloat16 as float32; anything else as it is."""
    return array.astype(np.float32) if array.dtype.itemsize == 2 else array


def _is_floating(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" or array.dtype == ml_dtypes.bfloat16


def _first(names: Sequence[Any]) -> str:
    shown = ", ".join(map(str, names[:SHOWN]))
    return shown if len(names) <= SHOWN else f"{shown}, ..."
