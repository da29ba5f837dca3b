"""Opens image files that somebody else made."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from resflax.errors import InputError

FORMATS = ("JPEG", "PNG", "WEBP")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MAX_PIXELS = 64 * 2**20  # beyond this a file is refused before its pixels are allocated


def read_image(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """Decodes a JPEG, PNG or WebP file to uint8 `shape` (height, width, 1 or 3 channels).

    The EXIF orientation is applied, transparency is laid on white, and the image is resized (bilinear, antialiased) where
    its size differs.

    Raises:
      InputError: the file cannot be read, is no such image, is damaged, or has too many pixels.
    """
    height, width, channels = shape
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as file:
                if file.width * file.height > MAX_PIXELS:
                    raise InputError(f"{path} must have at most {MAX_PIXELS} pixels, got {file.width} x {file.height}")
                image = ImageOps.exif_transpose(file)
                if image.mode.startswith("I;16") or image.mode == "I":
                    image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
                if "A" in image.getbands() or "transparency" in image.info:
                    image = image.convert("RGBA")
                    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
                image = image.convert("L" if channels == 1 else "RGB")
                if image.size != (width, height):
                    image = image.resize((width, height), Image.Resampling.BILINEAR)
                return np.asarray(image).reshape(shape)
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = getattr(error, "strerror", None) or str(error).replace(str(path), "file").partition("\n")[0]
        raise InputError(
            f"{path} must be a readable {', '.join(FORMATS)} image, but: {reason or type(error).__name__}"
        ) from error


def find_images(arguments: list[str]) -> list[Path]:
    """The files that paths, folders (searched through) and shell patterns name, in a stable order.

    Raises `InputError` for a folder or pattern without images. A file named directly is taken whatever its suffix.
    """
    found: list[Path] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            inside = sorted(one for one in path.rglob("*") if one.suffix.lower() in SUFFIXES and one.is_file())
        elif any(character in argument for character in "*?[") and not path.exists():
            base = Path(path.anchor or ".")
            inside = sorted(one for one in base.glob(argument.removeprefix(path.anchor)) if one.is_file())
        else:
            found.append(path)
            continue
        if not inside:
            raise InputError(f"{argument} must hold images ({', '.join(SUFFIXES)}), but none was found")
        found += inside
    return found
