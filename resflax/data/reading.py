"""Turns splits into the pixels of the host path: `(epoch, id) -> uint8[H, W, C]`, pure functions of the seed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from PIL import Image

from resflax.data.arrays import ImageArrays
from resflax.data.decode import decode
from resflax.data.geometry import ATTEMPTS, center_crop, five_crops, scale_jitter_box, stretch
from resflax.data.order import uniforms
from resflax.data.parts import part_of, random_part
from resflax.data.preprocess import LARGEST, Preprocessing
from resflax.errors import InputError

Read = Callable[[int, int], np.ndarray]  # of some views of an image, uint8[V, H, W, C]


class ImageSource(Protocol):
    """A split whose images are decoded when they are asked for."""

    @property
    def labels(self) -> np.ndarray:
        """int32[N]."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label."""

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""

    def __len__(self) -> int: ...

    def open(self, index: int) -> Image.Image:
        """The image upright, with 8 bits a channel; `InputError` naming it where it cannot be read."""

    def file(self, index: int) -> Path | BinaryIO:
        """Its bytes, as `resflax.data.decode.decode` takes them."""

    def name(self, index: int) -> str:
        """For messages."""

    def fingerprint(self) -> str:
        """Changes with the images, the labels or their order."""


@dataclass(frozen=True)
class Gather:
    """Reads the images of a batch at once, by one indexing."""

    images: np.ndarray  # uint8[N, H, W, C]

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """uint8[B, H, W, C] of int[B]."""
        return self.images[ids]


def array_reader(arrays: ImageArrays) -> Read | Gather:
    """The images as they are."""
    return Gather(arrays.images)


def centered_reader(source: ImageSource, size: int, crop_ratio: float) -> Read:
    """What evaluation sees: the middle of each image."""

    def read(epoch: int, index: int) -> np.ndarray:
        image = center_crop(source.open(index), size, crop_ratio)
        return np.asarray(image).reshape(size, size, source.channels)

    return read


def five_crop_reader(source: ImageSource, size: int, crop_ratio: float) -> Read:
    """The middle and the corners of each image, uint8[5, H, W, C]."""

    def read(epoch: int, index: int) -> np.ndarray:
        crops = five_crops(source.open(index), size, crop_ratio)
        return np.stack([np.asarray(crop).reshape(size, size, source.channels) for crop in crops])

    return read


def file_reader(reading: Mapping[str, Any]) -> Callable[[Path], np.ndarray]:
    """`path -> uint8[H, W, C]`, as a network's metadata say, see `image_fitter`."""
    fit, channels = image_fitter(reading), reading["source_shape"][2]
    return lambda path: fit(decode(path, channels))


def source_reader(images: ImageSource | ImageArrays, reading: Mapping[str, Any]) -> Read:
    """The images of any data set as `file_reader` reads files; they have as many channels as the metadata say."""
    fit = image_fitter(reading)
    if isinstance(images, ImageArrays):
        pixels = images.images[..., 0] if images.images.shape[-1] == 1 else images.images
        return lambda epoch, index: fit(Image.fromarray(pixels[index]))
    return lambda epoch, index: fit(images.open(index))


def image_fitter(reading: Mapping[str, Any]) -> Callable[[Image.Image], np.ndarray]:
    """An upright image of the network's channels -> uint8[H, W, C], as a network's metadata say.

    Where `crop` is `none`, the whole image is stretched to `source_shape`; where it is `center`, the middle of it, `crop_ratio`
    of the shorter side, is resized to the size in `preprocessing`. `interpolation` is the name of a filter of Pillow.

    Raises LookupError, TypeError or ValueError where they say something else.
    """
    height, width, channels = reading["source_shape"]
    preprocessing = Preprocessing.from_dict(reading["preprocessing"])
    method = Image.Resampling[str(reading["interpolation"]).upper()]
    if channels != len(preprocessing.std):
        raise ValueError(f"source_shape must have the {len(preprocessing.std)} channels of preprocessing, got {channels}")
    if reading["crop"] == "none":
        if any(not isinstance(side, int) or not 0 < side <= LARGEST for side in (height, width)):
            raise ValueError(f"the sides of source_shape must be integers from 1 to {LARGEST}, got {height} and {width}")
        return lambda image: np.asarray(stretch(image, height, width, method)).reshape(height, width, channels)
    size, ratio = preprocessing.image_size[0], float(reading["crop_ratio"])
    if not 0 < ratio <= 1:
        raise ValueError(f"crop_ratio must be above 0 and at most 1, got {ratio}")
    return lambda image: np.asarray(center_crop(image, size, ratio, method)).reshape(size, size, channels)


def random_crop_reader(source: ImageSource, size: int, seed: int) -> Read:
    """A random part of each image, another in each epoch, see `resflax.data.parts`."""

    def read(epoch: int, index: int) -> np.ndarray:
        draws = uniforms(seed, epoch, index, 4 * ATTEMPTS).tolist()
        return random_part(source.file(index), source.channels, size, draws, source.name(index))

    return read


def scale_jitter_reader(source: ImageSource, size: int, scales: tuple[int, int], seed: int) -> Read:
    """A random crop of each image at a random scale, another in each epoch, see `resflax.data.geometry.scale_jitter_box`."""

    def read(epoch: int, index: int) -> np.ndarray:
        draws = uniforms(seed, epoch, index, 3).tolist()
        choose = functools.partial(scale_jitter_box, size=size, scales=scales, uniforms=draws)
        return part_of(source.file(index), source.channels, size, choose, source.name(index))

    return read


def decode_all(
    source: ImageSource, size: int, crop_ratio: float, keep: np.ndarray | None = None, workers: int = 1
) -> ImageArrays:
    """The whole split, or the examples `keep`, as evaluation sees it, in memory."""
    indices = np.arange(len(source)) if keep is None else keep
    read = centered_reader(source, size, crop_ratio)
    with futures.ThreadPoolExecutor(max(1, workers)) as pool:
        images = list(pool.map(lambda index: read(0, index), indices.tolist()))
    return ImageArrays(np.stack(images), source.labels[indices], source.class_names)


def find_unreadable(source: ImageSource, workers: int) -> dict[int, str]:
    """`{id: reason}` of the images that cannot be decoded; decodes every one."""

    def problem(index: int) -> str | None:
        try:
            source.open(index)
        except InputError as error:
            return str(error)
        return None

    with futures.ThreadPoolExecutor(max(1, workers)) as pool:
        reasons = pool.map(problem, range(len(source)))
        return {index: reason for index, reason in enumerate(reasons) if reason is not None}
