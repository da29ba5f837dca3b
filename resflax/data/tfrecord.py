"""Reads TFRecord files without TensorFlow, every checksum verified.

A record is its length (8 bytes, little endian), the length's checksum (4), the bytes, and their checksum (4). A checksum is
a CRC-32C, rotated and shifted by a constant.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from resflax.errors import DataError
from resflax.files import storage

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, reflected
_BITS = np.uint32(1) << np.arange(32, dtype=np.uint32)


def records(path: Path) -> Iterator[bytes]:
    """The records of a file, in order.

    Raises:
      DataError: the file is cut off, or a checksum is wrong.
      StorageError: it cannot be read.
    """
    with storage("read", path), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        for number in range(size):  # a record has at least 16 bytes
            header = file.read(12)
            if not header:
                return
            length = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else size
            if len(header) == 12 and masked_crc32c(header[:8]) != header[8:]:
                raise _damaged(path, f"the length of record {number} has a wrong checksum")
            if file.tell() + length + 4 > size:
                raise _damaged(path, f"it ends within record {number}")
            data, checksum = file.read(length), file.read(4)
            if masked_crc32c(data) != checksum:
                raise _damaged(path, f"record {number} has a wrong checksum")
            yield data


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(f"{path} must be a whole TFRecord file, but {reason}; copy or prepare it again")


def masked_crc32c(data: bytes) -> bytes:
    """The four bytes that a TFRecord file has after `data`."""
    crc = crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def crc32c(data: bytes) -> int:
    """The CRC-32C of `data` (RFC 3720).

    The remainder is linear: the remainders of neighbouring words are joined in pairs, then those pairs, and so on, all of
    a round at once.
    """
    start = np.full(1, 0xFFFFFFFF, np.uint32)
    if len(data) % 2:
        start = _append_zero_byte(start ^ data[0])
    pieces = np.concatenate([start, _appending(2)[0][np.frombuffer(data, "<u2", offset=len(data) % 2)]])
    width = 2
    while len(pieces) > 1:
        if len(pieces) % 2:
            pieces = np.concatenate([np.zeros(1, np.uint32), pieces])
        low, high = _appending(width)
        left = pieces[0::2]
        pieces = low[left & 0xFFFF] ^ high[left >> 16] ^ pieces[1::2]
        width *= 2
    return int(pieces[0]) ^ 0xFFFFFFFF


@cache
def _appending(width: int) -> np.ndarray:
    """uint32[2, 65536]: what `width` zero bytes make of a remainder, by its low and its high half; `width` is a power of 2."""
    if width == 1:
        columns = _append_zero_byte(_BITS)
    else:
        low, high = _appending(width // 2)
        columns = _BITS
        for _ in range(2):
            columns = low[columns & 0xFFFF] ^ high[columns >> 16]
    table = np.zeros((2, 1), np.uint32)
    for bit in range(16):
        table = np.concatenate([table, table ^ columns[[bit, 16 + bit], np.newaxis]], axis=1)
    return table


def _append_zero_byte(remainder: np.ndarray) -> np.ndarray:
    for _ in range(8):
        remainder = (remainder >> 1) ^ (remainder & 1) * np.uint32(_POLYNOMIAL)
    return remainder
