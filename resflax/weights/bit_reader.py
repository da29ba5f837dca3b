"""The published weights of BiT (`BiT-M-R50x1.npz`; Kolesnikov et al. 2020), in the names their authors gave them."""

from __future__ import annotations

import re
from pathlib import Path

from resflax.data.npz import open_npz
from resflax.errors import StorageError
from resflax.files import storage
from resflax.weights.names import Entry, Layout, Shape, Tensors, same

_PREFIX = "resnet/"
_TOP = {"stem_conv": "root_block/standardized_conv2d", "final_norm": "group_norm", "head/dense": "head/conv2d"}
_PARTS = "abc"  # of a unit: each convolution with the normalisation before it


def read_bit(path: Path) -> Tensors:
    """The arrays of an `.npz` file; objects in it, which would have to be unpickled, are refused.

    Raises `StorageError` where it cannot be read or is damaged.
    """
    try:
        with storage("read", path), open_npz(path) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except ValueError as error:
        raise StorageError(f"{path} must be an .npz file of arrays, but {error}; fetch it again") from error


def bit_naming(module: str, parameter: str, shape: Shape) -> Entry | None:
    """The naming of BiT's files: `resnet/block1/unit01/a/standardized_conv2d/kernel`."""
    layer = _TOP.get(module) or _unit(module)
    if layer is None:
        return None
    if module == "head/dense" and parameter == "kernel":  # a 1x1 convolution there
        return Entry(f"{_PREFIX}{layer}/kernel", Layout(shape, (0, 1), (1, 1, *shape)))
    names = {"scale": "gamma", "bias": "beta"} if layer.endswith("group_norm") else {"kernel": "kernel", "bias": "bias"}
    return Entry(f"{_PREFIX}{layer}/{names[parameter]}", same(shape)) if parameter in names else None


def _unit(module: str) -> str | None:
    found = re.fullmatch(r"stage(\d+)/block(\d+)/(?:(conv|norm)([1-3])|shortcut/conv)", module)
    if found is None:
        return None
    part = _PARTS[int(found[4] or 1) - 1]
    kind = "group_norm" if found[3] == "norm" else "standardized_conv2d" if found[3] else "proj/standardized_conv2d"
    return f"block{found[1]}/unit{int(found[2]):02d}/{part}/{kind}"
