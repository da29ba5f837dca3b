"""From decoded pixels to the tensor a network sees: the one definition that training, evaluation and predict share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from resflax.data.arrays import ImageArrays
from resflax.types import Array, ArrayLike, DType

LARGEST = 4096  # pixels a side of what a network sees, far beyond any that was published


@dataclass(frozen=True)
class Preprocessing:
    """`y = (resize(x / 255) - mean) / std`.

    `mean` is per channel, [C], or per pixel, [H, W, C]; `std` is [C]. Both in units of the pixel range. The resize is
    bilinear, antialiased where it shrinks, and left out where the size fits.
    """

    image_size: tuple[int, int]  # height, width
    mean: np.ndarray
    std: np.ndarray

    def __call__(self, images: Array, dtype: DType = jnp.float32) -> Array:
        """uint8[B, H, W, C] -> dtype[B, *image_size, C]."""
        return self.normalise(self.scale(images, dtype))

    def normalise(self, images: Array) -> Array:
        """The part from the mean on: float[B, *image_size, C] in 0..1 -> the same shape and dtype."""
        return (images - jnp.asarray(self.mean, images.dtype)) / jnp.asarray(self.std, images.dtype)

    def scale(self, images: Array, dtype: DType = jnp.float32) -> Array:
        """The part before the mean: uint8[B, H, W, C] -> dtype[B, *image_size, C] in 0..1."""
        x = images.astype(dtype) / 255
        if x.shape[1:3] == self.image_size:
            return x
        return jax.image.resize(x, (x.shape[0], *self.image_size, x.shape[3]), "bilinear")

    def pixels(self, images: ArrayLike) -> np.ndarray:
        """What is seen: the images before normalisation, float32[B, H, W, C] in 0..1."""
        return np.clip(np.asarray(images, np.float32) * self.std + self.mean, 0, 1).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; floats keep every bit."""
        return {"image_size": list(self.image_size), "mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`; raises LookupError, TypeError or ValueError for values that are none of its."""
        height, width = size = tuple(values["image_size"])
        mean, std = np.asarray(values["mean"], np.float64), np.asarray(values["std"], np.float64)
        if any(not isinstance(side, int) or not 0 < side <= LARGEST for side in size):
            raise ValueError(f"image_size must be two integers from 1 to {LARGEST}, got {height} and {width}")
        if std.shape not in ((1,), (3,)) or mean.shape not in (std.shape, (*size, *std.shape)):
            raise ValueError(f"mean and std must be per channel, or mean per pixel, got shapes {mean.shape} and {std.shape}")
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and std.all()):
            raise ValueError("mean and std must be finite, and std not 0")
        return cls((height, width), mean, std)


def fit_preprocessing(
    normalize: str, train: ImageArrays, image_size: int | None, known: tuple[Any, Any] | None = None
) -> Preprocessing:
    """The preprocessing that belongs to a training split.

    Args:
      normalize: `unit`: nothing beyond division by 255. `per_channel`: mean and standard deviation of each channel.
        `per_pixel_mean`: the mean image is subtracted and nothing divided (He et al. 2015, Sec. 4.2).
      train: the split whose statistics are taken, at the size the network sees.
      image_size: height and width; None: as they are.
      known: published (mean, std) per channel, used by `per_channel` instead of the split's own.
    """
    height, width, channels = train.images.shape[1:]
    size = (image_size, image_size) if image_size else (height, width)
    mean, std = np.zeros(channels), np.ones(channels)
    if normalize == "per_channel" and known is not None:
        mean, std = np.asarray(known[0]), np.asarray(known[1])
    elif normalize == "per_channel":
        # Exact sums of integers, so that the result does not depend on the order of summation.
        counts, values = _histogram(train.images), np.arange(256)
        count, total, squares = counts[0].sum(), counts @ values, counts @ values**2
        mean = total / count / 255
        std = np.maximum(np.sqrt(np.maximum(squares / count / 255**2 - mean**2, 0)), 1 / 255)
    elif normalize == "per_pixel_mean":
        mean = train.images.sum(axis=0, dtype=np.int64) / len(train) / 255
        if size != (height, width):  # resizing is linear: the mean of resized images is the resized mean
            mean = np.asarray(jax.image.resize(mean, (*size, channels), "bilinear"), np.float64)
    return Preprocessing(size, mean, std)


_PIECE = 1 << 24  # pixels: OpenCV gives counts as float32, which holds whole numbers up to this one


def _histogram(images: np.ndarray) -> np.ndarray:
    """How often each channel has each value: int64[C, 256] of uint8[N, H, W, C]."""
    pixels = images.reshape(-1, 1, images.shape[-1])
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for start in range(0, len(pixels), _PIECE):
        for channel, count in enumerate(counts):
            found = cv2.calcHist([pixels[start : start + _PIECE]], [channel], None, [256], [0, 256])
            count += found.ravel().astype(np.int64)
    return counts
