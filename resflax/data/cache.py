"""What was read from a prepared data set, kept in the user's cache, so that the next run starts at once.

An entry is believed only while it is what was stored. Where nothing can be written, every run reads the data set.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from resflax.data.arrays import ImageArrays
from resflax.errors import DataError
from resflax.files import cache_folder


def decoded(key: str, make: Callable[[], ImageArrays]) -> ImageArrays:
    """`make()`, or what it returned when it was last called for `key`; then its images are a read-only memory map.

    `key` is a name that changes with whatever `make` reads.
    """
    folder = cache_folder() / "decoded" / key
    with contextlib.suppress(OSError, ValueError, EOFError, KeyError, TypeError, DataError):
        about, images, labels = _load(folder, "images", "labels")
        # As plain arrays: `jax.device_put` takes no `np.memmap` in a job of several processes.
        arrays = ImageArrays(np.asarray(images), np.asarray(labels), tuple(about["class_names"]))
        if arrays.fingerprint() == about["fingerprint"]:
            return arrays
    arrays = make()
    about = {"class_names": arrays.class_names, "fingerprint": arrays.fingerprint()}
    _store(folder, about, images=arrays.images, labels=arrays.labels)
    return arrays


def scanned(key: str, make: Callable[[], tuple[np.ndarray, str]]) -> tuple[np.ndarray, str]:
    """Labels int32[N] and a fingerprint: `make()`, or what it returned when it was last called for `key`."""
    folder = cache_folder() / "scanned" / key
    with contextlib.suppress(OSError, ValueError, EOFError, KeyError, TypeError):
        about, labels = _load(folder, "labels")
        if hashlib.sha256(labels.tobytes()).hexdigest() == about["sha256"]:
            return np.array(labels), about["fingerprint"]
    labels, fingerprint = make()
    _store(folder, {"sha256": hashlib.sha256(labels.tobytes()).hexdigest(), "fingerprint": fingerprint}, labels=labels)
    return labels, fingerprint


def _load(folder: Path, *names: str) -> Any:
    arrays = [np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names]
    return json.loads((folder / "about.json").read_text()), *arrays


def _store(folder: Path, about: dict[str, Any], **arrays: np.ndarray) -> None:
    """Whole or not at all, although several processes may do it at once."""
    with contextlib.suppress(OSError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
        try:
            for name, array in arrays.items():
                np.save(temporary / f"{name}.npy", array)
            (temporary / "about.json").write_text(json.dumps(about))
            shutil.rmtree(folder, ignore_errors=True)  # what is there was not believed
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
