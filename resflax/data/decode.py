"""Opens image files that somebody else made."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, JpegImagePlugin

from resflax.data import jpeg
from resflax.errors import InputError

FORMATS = ("JPEG", "PNG", "WEBP")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MAX_BYTES = 128 * 2**20  # of a file
# Pixels beyond which an image is refused before they are allocated. What decoding takes stays near 512 MiB: 8 bytes a pixel,
# of a JPEG in several scans 12, of a WebP, whose decoder keeps three canvases, 16 and the file.
MAX_PIXELS = 64 * 2**20
MAX_SIDE = 2**16 - 1  # of either side, as in JPEG: the filter of a resize takes 16 bytes for each pixel of a row
_MAX_PIXELS_IN_SCANS = 40 * 2**20
_MAX_PIXELS_OF_WEBP = 24 * 2**20
_MAX_SCANNED = 16 * _MAX_PIXELS_IN_SCANS  # pixels times scans: a few bytes can ask for one more scan of the whole image

# How an image of each EXIF orientation is set upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(file: Path | BinaryIO, channels: int, name: str = "") -> Image.Image:
    """Decodes a JPEG, PNG or WebP file: 8 bits a channel, grey for one channel and RGB for three.

    The EXIF orientation is applied, transparency is laid on white. `name` stands for an open file in messages. Altered bytes
    inside the compressed pixels of a JPEG, which has no checksum, give other pixels, as with every decoder.

    Raises:
      InputError: the file cannot be read, is no such image, is damaged, or has too many pixels.
    """
    path = file if isinstance(file, Path) else name
    try:
        image, mode = _open(file, path), "L" if channels == 1 else "RGB"
        return image if image.mode == mode else image.convert(mode)
    except InputError:
        raise
    except Exception as error:  # a damaged file leads Pillow's parsers to struct.error, TypeError and what not
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{path} must be a file that can be read, but: {error.strerror}; check the path") from error
        none = isinstance(error, Image.UnidentifiedImageError)
        reason = "it is none, or its beginning is damaged" if none else str(error) or type(error).__name__
        raise InputError(
            f"{path} must be a readable JPEG, PNG or WebP image, but: {reason}; convert it or leave it out"
        ) from error


def _open(source: Path | BinaryIO, path: Path | str) -> Image.Image:
    """The image upright, opaque, with 8 bits a channel, in whatever mode; a name at a time, so that no copy is kept."""
    if isinstance(source, Path) and source.exists():
        if not source.is_file():  # opening a named pipe would wait for a writer
            raise InputError(f"{path} must be an image file, but it is a folder or a device; name a file")
        if source.stat().st_size > MAX_BYTES:  # Pillow reads a WebP file, and whatever chunk a PNG file has, whole
            raise InputError(f"{path} must have at most {MAX_BYTES} bytes, got {source.stat().st_size}; encode it anew")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a readable image with odd metadata is no news
        try:
            image: Image.Image = Image.open(source, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise InputError(f"{path} must have at most {MAX_PIXELS} pixels; scale it down") from error
        with image:
            check_size(image, path)
            image.load()
        orientation = orientation_of(image)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    if image.mode.startswith("I;16") or image.mode == "I":
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if "transparency" in image.info:
        image = image.convert("RGBA")
    if "A" in image.getbands():
        opaque = Image.new("RGB", image.size, "white")
        opaque.paste(image, mask=image)
        image = opaque
    return image


def check_size(image: Image.Image, path: Path | str) -> None:
    """Raises `InputError` for an image, of which no more than the header has been read, that would take too much to decode."""
    if max(image.size) > MAX_SIDE:
        raise InputError(f"{path} must have at most {MAX_SIDE} pixels a side, got {image.width} x {image.height}; cut it up")
    limit, kind, pixels = MAX_PIXELS, "", image.width * image.height
    if image.format == "WEBP":
        limit, kind = _MAX_PIXELS_OF_WEBP, " as WebP"
    elif isinstance(image, JpegImagePlugin.JpegImageFile) and image.fp is not None:
        image.fp.seek(0)
        scans = jpeg.count_scans(image.fp.read())
        if scans > 1:
            limit, kind = min(_MAX_PIXELS_IN_SCANS, _MAX_SCANNED // scans), f" as a JPEG in {scans} scans"
    if pixels > limit:
        raise InputError(f"{path} must have at most {limit} pixels{kind}, got {image.width} x {image.height}; scale it down")


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where there is none."""
    with contextlib.suppress(Exception):  # damaged EXIF is no reason to refuse the pixels
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    return 1


def find_images(arguments: list[str]) -> list[Path]:
    """The files that paths, folders (searched through) and shell patterns name, in a stable order.

    Raises `InputError` for a folder or pattern without images. A file named directly is taken whatever its suffix.
    """
    found: list[Path] = []
    for argument in arguments:
        # `os.path` answers False where `Path` raises: names that are too long, folders that may not be entered.
        if os.path.isdir(argument):
            inside = sorted(one for one in Path(argument).rglob("*") if one.suffix.lower() in SUFFIXES and one.is_file())
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            pattern = re.sub(r"(\*\*/)+", "**/", argument)  # the same, and else it takes a power of their number
            inside = sorted(Path(one) for one in glob.glob(pattern, recursive=True) if os.path.isfile(one))
        else:
            found.append(Path(argument))
            continue
        if not inside:
            raise InputError(f"{argument} must hold images ({', '.join(SUFFIXES)}), but none was found; check the path")
        found += inside
    return found
