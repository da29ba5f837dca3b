"""JPEG decoding that leaves out what is not wanted: rows beneath, and fine detail. By libjpeg-turbo (simplejpeg).

Decoded whole, a pixel is the one that Pillow gives: both use libjpeg-turbo's accurate transform.
"""

from __future__ import annotations

import numpy as np

FACTORS = (1, 2, 4, 8)  # for which libjpeg-turbo has a fast inverse transform
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2  # markers of frames (ITU-T T.81, Table B.1)
_BENEATH = 8  # rows that upsampled colour may look at, below the last one that is wanted


def is_complete(data: bytes) -> bool:
    """Whether these bytes begin and end as a JPEG file does. One cut short does not, unless it was cut at such a place."""
    return data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9")


def decode_rows(data: bytes, rows: int, factor: int, channels: int) -> np.ndarray:
    """Decodes the first rows of a complete file, reduced by one of `FACTORS` in both directions.

    Entropy coding hides where a row begins, so that all rows above must be read; what is beneath is not, since the header
    is made to say that the image ends there.

    Args:
      data: of a grey or colour JPEG file.
      rows: in pixels of the file, as stored; at least 1.
      factor: a reduced pixel stands for `factor` x `factor`.
      channels: 1 for grey, 3 for RGB.

    Returns:
      uint8[at least rows / factor, width / factor rounded up, channels], as stored: the EXIF orientation is not applied.

    Raises:
      ValueError, IndexError: this is no such file, or none that libjpeg-turbo decodes.
    """
    import simplejpeg  # data sets that hold arrays do without

    place, height, width, progressive = _frame(data)
    last = min(height, rows + _BENEATH)
    if last < height and not progressive:  # the passes of a progressive file each cover the whole
        data = data[:place] + last.to_bytes(2, "big") + data[place + 2 :]
        height = last
    reduced = -(-height // factor), -(-width // factor)
    pixels = simplejpeg.decode_jpeg(
        data,
        "GRAY" if channels == 1 else "RGB",
        min_height=0 if factor == 1 else reduced[0],
        min_width=0 if factor == 1 else reduced[1],
        strict=False,  # bytes that are left over are no error here
    )
    if pixels.shape[:2] != reduced:  # images of a few pixels
        raise ValueError("libjpeg-turbo must reduce as it was asked to")
    return pixels


def count_scans(data: bytes) -> int:
    """How often decoding passes over the whole image: 1 for a sequential file whose first scan has all components.

    For any other it is the number of scans that follow the header; of a damaged header all that might be scans are counted.
    """
    place, components = 2, 0
    while place + 5 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xDA:
            whole = 0 < components == data[place + 4]
            return 1 if whole else data.count(b"\xff\xda", place)
        if marker in _SEQUENTIAL:
            components = data[place + 9] if place + 9 < len(data) else 0
        place += 1 if marker == 0xFF else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return data.count(b"\xff\xda")


def _frame(data: bytes) -> tuple[int, int, int, bool]:
    """Where the header states the image's height, height and width as stored, and whether the file is progressive."""
    place = 2
    while True:
        if data[place] != 0xFF:
            raise ValueError("a marker must follow each segment")
        marker = data[place + 1]
        if marker in _SEQUENTIAL or marker == _PROGRESSIVE:
            height, width = (int.from_bytes(data[at : at + 2], "big") for at in (place + 5, place + 7))
            return place + 5, height, width, marker == _PROGRESSIVE
        if marker == 0xDA:
            raise ValueError("a frame must come before its scans")
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
