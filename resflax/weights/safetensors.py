"""Weight files: the variables of a network and what they belong to, in one safetensors file.

Tensors have the unrolled names (`params/stage1/block2/conv1/kernel`), whatever the layout the network was trained in. What
is not a tensor is one JSON string in the file's header, under `resflax`. Nothing in such a file is ever executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from etils import epath
from safetensors.numpy import save

from resflax.errors import DataError, StorageError
from resflax.files import require_file, storage, write_bytes
from resflax.nn.repeat import unstack_blocks
from resflax.tree import named_leaves
from resflax.types import Variables

FORMAT = 1
_KEY = "resflax"
_COLLECTIONS = ("params", "batch_stats")
_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
}
_METADATA: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "num_classes": (int, type(None)),
    "kwargs": (dict,),
    "class_names": (list, type(None)),
    "preprocessing": (dict,),
    "source": (str,),
}


def write_weights(path: epath.PathLike, variables: Variables, metadata: Mapping[str, Any]) -> None:
    """Replaces `path` by a weight file.

    Args:
      path: of the file; local or `gs://`.
      variables: `params` and, where the network has some, `batch_stats`; dtypes are kept, looped blocks unrolled.
      metadata: JSON values: `model` (a name of the table), `num_classes`, `kwargs` (of the builder), `class_names` or None,
        `preprocessing` (`Preprocessing.to_dict()`), `source` (where the weights come from), and whatever else is known.

    Raises:
      DataError: the metadata lacks one of these.
      StorageError: the file cannot be written.
    """
    metadata = {"format": FORMAT, **metadata}
    _check_metadata(path, metadata)
    leaves = named_leaves(unstack_blocks(variables))
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in leaves.items()}
    write_bytes(path, save(arrays, {_KEY: json.dumps(metadata, allow_nan=False)}))


def read_weights(path: epath.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads a weight file.

    Returns:
      `(variables, metadata)`: nested dictionaries of NumPy arrays under the unrolled names, and what `write_weights` was
      given, with the `format`.

    Raises:
      StorageError: the file cannot be read, is damaged or no safetensors file, or is of a later format.
      DataError: it holds something else than the weights of a network of this package.
    """
    tensors, header = read_tensors(path)
    metadata = _parse_metadata(path, header)
    variables: dict[str, Any] = {}
    for name, array in tensors.items():
        if not _put(variables, name.split("/"), array):
            raise DataError(
                f"the names in {path} must be paths that begin with {' or '.join(_COLLECTIONS)}, got {name!r}; write it again"
            )
    return variables, metadata


def is_weight_file(path: epath.PathLike) -> bool:
    """Whether a safetensors file is one that `write_weights` wrote, by its header; False for any other file."""
    try:
        with storage("read", path), safetensors.safe_open(path, "numpy") as file:
            return _KEY in (file.metadata() or {})
    except safetensors.SafetensorError:
        return False


def read_tensors(path: epath.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads any safetensors file: its arrays by name, and the strings in its header.

    Raises:
      StorageError: the file cannot be read, is damaged or no safetensors file.
      DataError: it holds tensors of a type that no network here computes with.
    """
    require_file(path)
    with storage("read", path):
        content = epath.Path(path).read_bytes()
    try:
        tensors = safetensors.deserialize(content)  # checks the header against the length of the file
    except safetensors.SafetensorError as error:
        raise StorageError(f"{path} must be a safetensors file, but {error}; write it again") from error
    arrays = {}
    for name, tensor in tensors:
        if tensor["dtype"] not in _DTYPES:
            raise DataError(f"{path} must hold numbers that a network computes with, got {tensor['dtype']} in {name!r}")
        arrays[name] = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
    size = int.from_bytes(content[:8], "little")
    return arrays, json.loads(content[8 : 8 + size]).get("__metadata__", {})


def _parse_metadata(path: epath.PathLike, header: Mapping[str, str]) -> dict[str, Any]:
    text = header.get(_KEY)
    if text is None:
        raise DataError(f"{path} must be a weight file of resflax, but its header has no {_KEY!r}; convert it first")
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the header of {path} must hold JSON under {_KEY!r}, but {error}; write it again") from error
    if isinstance(metadata, dict) and isinstance(metadata.get("format"), int) and metadata["format"] > FORMAT:
        raise StorageError(f"{path} has format {metadata['format']}, this version reads {FORMAT}; update resflax")
    _check_metadata(path, metadata)
    return metadata


def _check_metadata(path: epath.PathLike, metadata: Any) -> None:
    known = metadata if isinstance(metadata, dict) else {}
    for key, types in {"format": (int,), **_METADATA}.items():
        if key not in known or not isinstance(known[key], types):
            found = f"{type(known[key]).__name__}" if key in known else "nothing"
            expected = " or ".join("null" if one is type(None) else one.__name__ for one in types)
            raise DataError(f"the metadata of {path} must give {key!r} as {expected}, got {found}; write it again")
    names = known["class_names"]
    if names is not None and (len(names) != known["num_classes"] or not all(isinstance(name, str) for name in names)):
        raise DataError(
            f"the metadata of {path} must give a name for each of {known['num_classes'] or 0} classes, got {len(names)} "
            "class_names; write it again"
        )


def _put(tree: dict[str, Any], keys: list[str], leaf: np.ndarray) -> bool:
    """Places a leaf; False where the path is none, or something else is there already."""
    if keys[0] not in _COLLECTIONS or len(keys) < 2 or not all(keys):
        return False
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            return False
    return tree.setdefault(keys[-1], leaf) is leaf
