"""A random part of an encoded image, at the size that a network sees.

The reference is Pillow: decode the whole, crop, resize bilinearly with antialiasing. Like torchvision's and unlike Pillow's
`resize(box=...)`, the crop comes first: nothing outside of the part is seen. Of a JPEG file only what is needed is decoded and
the resize is `resflax.data.geometry.shrink`; on photographs the result is within 2/255 of the reference, on average over its
pixels. Every other file, and every file about which anything is odd, goes the way of the reference.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from resflax.data import jpeg
from resflax.data.decode import MAX_BYTES, check_size, decode, orientation_of
from resflax.data.geometry import Box, cut, random_box, shrink

_SHARP = 2.0  # a part is decoded at a fraction of its size only if that is still so many times the size asked for

# What makes an image of each EXIF orientation upright: whether its columns and its rows as stored are reversed, and whether the
# two are swapped then. `resflax.data.decode` does the same to whole images.
_UPRIGHT = {
    1: (False, False, False),
    2: (True, False, False),
    3: (True, True, False),
    4: (False, True, False),
    5: (False, False, True),
    6: (False, True, True),
    7: (True, True, True),
    8: (True, False, True),
}


def random_part(file: Path | BinaryIO, channels: int, size: int, uniforms: Sequence[float], name: str = "") -> np.ndarray:
    """`part_of` a file: its part `random_box`."""
    return part_of(file, channels, size, lambda width, height: random_box(width, height, uniforms), name)


def part_of(file: Path | BinaryIO, channels: int, size: int, choose: Callable[[int, int], Box], name: str = "") -> np.ndarray:
    """uint8[size, size, channels]: the part `choose(width, height)` of the upright image; the others as `decode` has them.

    Raises:
      InputError: as `decode`.
    """
    data = b""
    with contextlib.suppress(OSError):  # `decode` says what is wrong
        if not isinstance(file, Path):
            data = file.read()
            file = io.BytesIO(data)
        elif file.is_file() and file.stat().st_size <= MAX_BYTES:  # opening a named pipe would wait for a writer
            data = file.read_bytes()
    if jpeg.is_complete(data):
        with contextlib.suppress(Exception):  # and whether anything is wrong
            part = _of_jpeg(data, channels, size, choose)
            if part is not None:
                return part
    image = decode(file, channels, name)
    return np.asarray(cut(image, choose(*image.size), size)).reshape(size, size, channels)


def _of_jpeg(data: bytes, channels: int, size: int, choose: Callable[[int, int], Box]) -> np.ndarray | None:
    """The part of a file that holds grey or RGB as it is asked for; None for any other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as `decode` does
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as header:
            width, height, mode = *header.size, header.mode
            orientation = orientation_of(header)
            check_size(header, "")
    if mode != ("L" if channels == 1 else "RGB"):
        return None
    reverse_columns, reverse_rows, swap = _UPRIGHT.get(orientation, _UPRIGHT[1])
    left, top, right, bottom = choose(*((height, width) if swap else (width, height)))
    if swap:  # from here on the box is that of the image as stored
        left, top, right, bottom = top, left, bottom, right
    if reverse_columns:
        left, right = width - right, width - left
    if reverse_rows:
        top, bottom = height - bottom, height - top
    scale = min(right - left, bottom - top) / size
    factor = max(one for one in jpeg.FACTORS if one == 1 or scale >= one * _SHARP)
    pixels = jpeg.decode_rows(data, math.ceil(bottom), factor, channels)
    part = shrink(pixels, (left / factor, top / factor, right / factor, bottom / factor), size)
    part = part[:: -1 if reverse_rows else 1, :: -1 if reverse_columns else 1]
    return part.swapaxes(0, 1) if swap else part
