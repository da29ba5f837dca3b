"""Decoded splits as memory maps in the user's cache, so that a second run starts without decoding."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from resflax.data.arrays import ImageArrays
from resflax.errors import DataError
from resflax.files import cache_folder


def decoded(key: str, make: Callable[[], ImageArrays]) -> ImageArrays:
    """`make()`, or what it returned when it was last called for `key`.

    Args:
      key: hexadecimal digits that change with whatever `make` reads.
      make: decodes the split.

    Returns:
      The arrays; images are a read-only memory map when they come from the cache. What was stored is believed only if
      its fingerprint is still the one it was stored with. Where the cache cannot be written, every run decodes.
    """
    folder = cache_folder() / "decoded" / key
    found = _read(folder)
    if found is not None:
        return found
    arrays = make()
    with contextlib.suppress(OSError):
        _write(folder, arrays)
    return arrays


def _read(folder: Path) -> ImageArrays | None:
    try:
        about = json.loads((folder / "about.json").read_text())
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        arrays = ImageArrays(images, labels, tuple(about["class_names"]))
    except (OSError, ValueError, EOFError, KeyError, TypeError, DataError):
        return None
    return arrays if arrays.fingerprint() == about.get("fingerprint") else None


def _write(folder: Path, arrays: ImageArrays) -> None:
    """Whole or not at all, although several processes may do it at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    try:
        np.save(temporary / "images.npy", arrays.images)
        np.save(temporary / "labels.npy", arrays.labels)
        about = {"class_names": arrays.class_names, "fingerprint": arrays.fingerprint()}
        (temporary / "about.json").write_text(json.dumps(about))
        shutil.rmtree(folder, ignore_errors=True)  # what is there was not believed
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
