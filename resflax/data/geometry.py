"""From an image of any size to the square a network sees, on the host; all resizing is antialiased."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
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


def five_crops(image: Image.Image, size: int, crop_ratio: float, method: Image.Resampling = FILTER) -> list[Image.Image]:
    """`center_crop`, and squares of its size in the corners of the resized image (Krizhevsky et al. 2012, Sec. 4.1)."""
    side = min(image.size) * crop_ratio
    corners = [(left, top) for top in (0, image.height - side) for left in (0, image.width - side)]
    boxes = [(left, top, left + side, top + side) for left, top in corners]
    return [center_crop(image, size, crop_ratio, method), *(image.resize((size, size), method, box) for box in boxes)]


def random_resized_crop(image: Image.Image, size: int, uniforms: Sequence[float]) -> Image.Image:
    """A random part, 8 to 100 % of the area and 3:4 to 4:3 in shape, resized to `size` x `size` (Szegedy et al. 2015, Sec. 6).

    `uniforms` are 4 * ATTEMPTS numbers in 0..1. A part that does not fit is drawn again; after `ATTEMPTS` the largest
    central part of an allowed shape is taken, as in torchvision. The part is cut out first: the filter, which is wider than
    a pixel where it shrinks, sees nothing beyond its edge.
    """
    return cut(image, random_box(image.width, image.height, uniforms), size)


def cut(image: Image.Image, box: Box, size: int) -> Image.Image:
    """A part, resized to `size` x `size`. It is cut out first, at whole pixels: the filter sees nothing beyond them."""
    left, top, right, bottom = box
    x, y = math.floor(left), math.floor(top)
    part = image.crop((x, y, math.ceil(right), math.ceil(bottom)))
    return part.resize((size, size), FILTER, (left - x, top - y, right - x, bottom - y))


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


def scale_jitter_box(width: int, height: int, size: int, scales: tuple[int, int], uniforms: Sequence[float]) -> Box:
    """A square of `size` pixels of the image resized so that its shorter side has a random number of pixels.

    That number is each of `scales`, from the first to the last, with equal chance, and so is each place of the square (Simonyan
    and Zisserman 2015, Sec. 3.1; He et al. 2015, Sec. 3.4). The first is at least `size`.

    Args:
      width, height: of the image as it is.
      uniforms: 3 numbers in 0..1.

    Returns:
      The square in pixels of the image as it is.
    """
    shorter = scales[0] + int(uniforms[0] * (scales[1] - scales[0] + 1))
    w, h = (round(side * shorter / min(width, height)) for side in (width, height))
    left, top = int(uniforms[1] * (w - size + 1)), int(uniforms[2] * (h - size + 1))
    right, bottom = min(width, (left + size) * width / w), min(height, (top + size) * height / h)
    return left * width / w, top * height / h, right, bottom


def shrink(pixels: np.ndarray, box: Box, size: int) -> np.ndarray:
    """Cuts out a part and resizes it: nearly Pillow's antialiased bilinear filter, in a third of the time.

    Pillow weighs source pixels by a triangle as wide as the scale, placed anew for each pixel of the result. Here one triangle
    placed on whole pixels is applied to all (`_triangle`), and what comes out is interpolated linearly. The two are the same
    where the scale is a whole number, or 1 and less; in between they differ by at most 2/255 on average over the pixels of a
    photograph. Scales above 6 are left to Pillow.

    Args:
      pixels: uint8[H, W, C], of any strides, 1 or 3 channels.
      box: inside of it; may cut through pixels.
      size: height and width of the result.

    Returns:
      uint8[size, size, C].
    """
    left, top, right, bottom = box
    across, down = (right - left) / size, (bottom - top) / size
    x, y = math.floor(left), math.floor(top)
    part = np.ascontiguousarray(pixels[y : math.ceil(bottom), x : math.ceil(right)])
    if max(across, down) > 6:
        image = Image.fromarray(part if part.shape[2] == 3 else part[..., 0])
        resized = np.asarray(image.resize((size, size), FILTER, (left - x, top - y, right - x, bottom - y)))
        return resized.reshape(size, size, -1)
    if max(across, down) > 1:
        part = cv2.sepFilter2D(part, -1, _triangle(across), _triangle(down), borderType=cv2.BORDER_REPLICATE)
    if (x, y, x + part.shape[1], y + part.shape[0]) == box:
        part = cv2.resize(part, (size, size), interpolation=cv2.INTER_LINEAR)
    else:  # from the middle of a pixel of the result to its place in the part
        place = np.array([[across, 0, left - x + across / 2 - 0.5], [0, down, top - y + down / 2 - 0.5]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        part = cv2.warpAffine(part, place, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return part.reshape(size, size, -1)


def _triangle(scale: float) -> np.ndarray:
    """float32[odd] of sum 1: weights that, interpolated linearly, are near a triangle that reaches `scale` to both sides.

    From 2 on they are the triangle's values at whole numbers. Below, those would blur: the middle one is its height, 1 / scale,
    and the rest is beside, within 0.005 of the three weights of least squared error. OpenCV rounds weights to 1/256; doing so
    here keeps their sum.
    """
    if scale <= 1:
        return np.ones(1, np.float32)
    if scale < 2:
        beside = (1 - 1 / scale) / 2
        weights = np.array([beside, 1 / scale, beside])
    else:
        reach = math.ceil(scale) - 1
        weights = 1 - np.abs(np.arange(-reach, reach + 1)) / scale
    weights = np.rint(256 * weights / weights.sum())
    weights[len(weights) // 2] += 256 - weights.sum()
    return (weights / 256).astype(np.float32)
