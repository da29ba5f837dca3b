"""Files that appear only once they have been read back and found to compute what the network computes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from resflax.errors import DataError
from resflax.files import storage

Function = Callable[[np.ndarray], Any]  # uint8[B, H, W, C] -> float32[B, outputs]
TOLERANCE = 1e-4  # of the largest difference, relative to the network's largest output
_BATCHES = (1, 3)


def write_checked(
    path: epath.PathLike,
    write: Callable[[epath.Path], None],
    load: Callable[[epath.Path], Function],
    network: Function,
    input_shape: tuple[int, int, int],
) -> float:
    """Replaces `path` by a file that agrees with a network on random images.

    Args:
      path: of the file; what is there stays until the new one has been checked.
      write: writes the file.
      load: reads the file back, as its users will.
      network: what it must agree with.
      input_shape: height, width and channels of the images.

    Returns:
      The largest difference, relative to the network's largest output.

    Raises:
      DataError: the difference is beyond `TOLERANCE`, or not a number.
      StorageError: the file cannot be written or read.
    """
    temporary = epath.Path(f"{path}.tmp{os.getpid()}")
    try:
        write(temporary)
        difference = _largest_difference(load(temporary), network, input_shape)
        if not difference <= TOLERANCE:
            raise DataError(
                f"an exported file must agree with the network to {TOLERANCE:g} of its largest output, got {difference:.2g} on "
                f"random images; {path} was not written, try another --format"
            )
        with storage("write", path):
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return difference


def _largest_difference(function: Function, network: Function, input_shape: tuple[int, int, int]) -> float:
    rng = np.random.default_rng(0)
    differences = []
    for batch in _BATCHES:
        images = rng.integers(0, 256, (batch, *input_shape), np.uint8)
        found, expected = np.asarray(function(images)), np.asarray(network(images))
        if found.shape != expected.shape:
            return float("inf")
        largest = np.max(np.abs(expected)) or 1.0  # a network may well give zeros alone
        differences.append(np.max(np.abs(found - expected)) / largest)
    return float(np.max(differences))  # NaN if one is
