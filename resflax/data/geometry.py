"""From an image of any size to the square a network sees, on the host; all resizing is antialiased (Pillow)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

FILTER = Image.Resampling.BILINEAR
ATTEMPTS = 10
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


def stretch(image: Image.Image, height: int, width: int, method: Image.Resampling = FILTER) -> Image.Image:
    """The whole image at another size, whatever its proportions."""
    return image if image.size == (width, height) else image.resize((width, height), method)


def center_crop(image: Image.Image, size: int, crop_ratio: float, method: Image.Resampling = FILTER) -> Image.Image:
    """Resizes the shorter side to `size / crop_ratio` and takes the middle `size` x `size`, in one resampling."""
    shorter = min(image.size) * crop_ratio
    left, top = (image.width - shorter) / 2, (image.height - shorter) / 2
    return image.resize((size, size), method, (left, top, left + shorter, top + shorter))


def random_resized_crop(image: Image.Image, size: int, uniforms: Sequence[float]) -> Image.Image:
    """A random part, 8 to 100 % of the area and 3:4 to 4:3 in shape, resized to `size` x `size` (Szegedy et al. 2015, Sec. 6).

    `uniforms` are 4 * ATTEMPTS numbers in 0..1. A part that does not fit is drawn again; after `ATTEMPTS` the largest
    central part of an allowed shape is taken, as in torchvision.
    """
    return image.resize((size, size), FILTER, random_box(image.width, image.height, uniforms))


def random_box(width: int, height: int, uniforms: Sequence[float]) -> Box:
    """The part that `random_resized_crop` takes."""
    low, high = 3 / 4, 4 / 3
    for attempt in range(ATTEMPTS):
        area, shape, across, down = uniforms[4 * attempt : 4 * attempt + 4]
        pixels = width * height * (0.08 + 0.92 * area)
        ratio = math.exp(math.log(low) + (math.log(high) - math.log(low)) * shape)
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(across * (width - w + 1)), int(down * (height - h + 1))
            return left, top, left + w, top + h
    ratio = min(max(width / height, low), high)
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
