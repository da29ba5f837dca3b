"""`.npz` files that somebody else made: arrays of plain numbers, of no more bytes than the file can reasonably hold."""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from resflax.errors import ResflaxError
from resflax.files import is_bomb, require_file

_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # those of NumPy
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


@contextlib.contextmanager
def open_npz(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """The arrays of a file by name, each read when it is asked for; what they are and need is checked before.

    Raises inside and outside of the block:
      OSError: the file cannot be read.
      ValueError: it is no such file, is damaged, has objects, which would have to be unpickled, or unpacks to a multiple of its
        size that no numbers do.
    """
    require_file(path)
    with open(path, "rb") as file:
        try:
            _check(file)
            with np.load(file, allow_pickle=False) as arrays:
                yield arrays
        except (OSError, ValueError, ResflaxError):
            raise
        except Exception as error:  # a damaged file leads the parsers of archives and of headers to what not
            raise ValueError(str(error) or type(error).__name__) from error


def _check(file: IO[bytes]) -> None:
    archive, unpacked, stored = zipfile.ZipFile(file), 0, 0
    for member in archive.infolist():
        if not member.filename.endswith(".npy") or member.compress_type not in _COMPRESSIONS:
            raise ValueError(f"{member.filename!r} is nothing that NumPy writes")
        with archive.open(member) as content:
            size = _size(content)
            if content.tell() + size != member.file_size:
                raise ValueError(f"{member.filename!r} has another size than its header says")
        unpacked, stored = unpacked + size, stored + member.compress_size
    if is_bomb(unpacked, stored):
        raise ValueError(f"its {stored} bytes would unpack to {unpacked}")
    file.seek(0)


def _size(content: IO[Any]) -> int:
    """The bytes of an array, behind its header."""
    version = npy.read_magic(content)
    if version not in _HEADERS:
        raise ValueError(f"it has version {version} of the format")
    shape, _, dtype = _HEADERS[version](content)
    if dtype.hasobject:
        raise ValueError("it has Python objects, which are never unpickled")
    return math.prod(shape) * dtype.itemsize
