"""From a configuration to batches."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resflax.build.parts import dataset_dtype
from resflax.config import Config
from resflax.config.validate import AUGMENTATIONS, ON_HOST, parse_sizes
from resflax.data.arrays import ImageArrays, load_split
from resflax.data.datasets import DATASETS
from resflax.data.folders import ImageFiles
from resflax.data.pipeline import HostPipeline, Pipeline, ResidentPipeline
from resflax.data.preprocess import Preprocessing, fit_preprocessing
from resflax.data.reading import (
    ImageSource,
    array_reader,
    centered_reader,
    decode_all,
    file_reader,
    find_unreadable,
    five_crop_reader,
    random_crop_reader,
    scale_jitter_reader,
    source_reader,
)
from resflax.data.views import CROPS
from resflax.errors import ConfigError, DataError
from resflax.training import sharding

Split = ImageArrays | ImageSource


def open_split(config: Config, split: str) -> Split:
    """The images of a split."""
    settings, on_host = config.data, host_augmentations(config)
    images: Split = load_split(settings.name, split, settings.data_dir)
    if isinstance(images, ImageArrays):
        if settings.crop_ratio != 1:
            raise ConfigError(
                f"config.data.crop_ratio is for image files, but {settings.name} has images of one shape, got "
                f"{settings.crop_ratio:g}; leave it at 1"
            )
        if on_host:
            raise ConfigError(
                f"config.data.augment: {on_host[0]} is for image files, but {settings.name} has images of one shape; "
                "use pad_crop"
            )
        if settings.eval_views in CROPS:
            raise ConfigError(
                f"config.data.eval_views={settings.eval_views} is for image files, but {settings.name} has images of one "
                "shape; use single, mirror or mirror_shift"
            )
        return images
    if settings.image_size is None:
        raise ConfigError(
            f"config.data.image_size must be set for {settings.name}, whose images have any size; for example 224"
        )
    if settings.input == "resident" and on_host:
        raise ConfigError(f"config.data.augment: {on_host[0]} needs the files, got config.data.input=resident; set it to host")
    if settings.eval_views in CROPS and (settings.input == "resident" or settings.crop_ratio == 1):
        raise ConfigError(
            f"config.data.eval_views={settings.eval_views} needs the files and crops smaller than the image, got "
            f"config.data.input={settings.input} and config.data.crop_ratio={settings.crop_ratio:g}; set them to host and, for "
            "example, 0.875"
        )
    return images


def host_augmentations(config: Config) -> tuple[str, ...]:
    """Those of `config.data.augment` that are made while a file is read."""
    return tuple(text for text in config.data.augment if text.partition(":")[0] in ON_HOST)


def _in_place(config: Config, images: Split) -> Split:
    """`images`; files are decoded where `config.data.input` asks for resident data."""
    settings = config.data
    if isinstance(images, ImageArrays) or settings.input != "resident":
        return images
    assert settings.image_size is not None
    return decode_all(images, settings.image_size, settings.crop_ratio, workers=workers(config))


def workers(config: Config) -> int:
    """Threads of the host path."""
    return (os.cpu_count() or 1) if config.data.workers is None else config.data.workers


def without_unreadable(config: Config, images: Split, skipped: dict[str, str]) -> Split:
    """`images` but for the files that cannot be decoded, which are added to `skipped` with the reason.

    Raises `DataError` when they are more than `config.data.max_unreadable_fraction` of the split.
    """
    if isinstance(images, ImageArrays):
        return images
    if not isinstance(images, ImageFiles):
        raise ConfigError(
            f"config.data.unreadable=skip is for folders of images, got {config.data.name}; set config.data.unreadable=error"
        )
    found = find_unreadable(images, workers(config))
    if len(found) > config.data.max_unreadable_fraction * len(images) or len(found) == len(images):
        first = next(iter(found.values()))
        raise DataError(
            f"{len(found)} of {len(images)} files in {images.root} cannot be read, more than "
            f"config.data.max_unreadable_fraction={config.data.max_unreadable_fraction:g} allows; the first: {first}"
        )
    kept = images.select(np.setdiff1d(np.arange(len(images)), list(found)))
    lost = np.setdiff1d(images.labels, kept.labels)
    if lost.size:
        raise DataError(
            f"no image of class {images.class_names[lost[0]]!r} in {images.root} can be read; replace its files or remove it"
        )
    skipped.update({images.name(index): reason for index, reason in found.items()})
    return kept


# Pixels of this many images, spread evenly over the split, stand for a set of files that is not read whole.
_SAMPLE = 1000


def make_preprocessing(config: Config, train: Split, normalised: bool = True) -> Preprocessing:
    """The preprocessing that belongs to the training split; `normalised=False`: its size alone, for a mean from elsewhere."""
    settings = config.data
    on_disk = settings.name.endswith(".npz") or Path(settings.name).is_dir()  # whatever its first folder is called
    known = None if on_disk else DATASETS.get(re.split("[/:]", settings.name)[0])
    statistics = (known.mean, known.std) if known is not None and known.mean is not None else None
    if isinstance(train, ImageArrays):
        size = settings.image_size or min(train.images.shape[1:3])
        sample, resize = train, settings.image_size
    else:
        assert settings.image_size is not None
        size = settings.image_size
        keep = np.unique(np.linspace(0, len(train) - 1, _SAMPLE).astype(int))
        needed = keep if normalised and (statistics is None or settings.normalize != "per_channel") else keep[:1]
        sample, resize = decode_all(train, size, settings.crop_ratio, needed, workers(config)), None
    for text in settings.augment:
        name, _, pixels = text.partition(":")
        channels = sample.images.shape[-1]
        if AUGMENTATIONS[name].of_colors and channels != 3:
            raise ConfigError(
                f"config.data.augment: {name} changes colours, but {settings.name} has {channels} channel; leave it out"
            )
        if name in ("pad_crop", "reflect_crop") and int(pixels) >= size:
            raise ConfigError(f"config.data.augment: {text} must pad by less than the {size} pixels of an image; pad less")
    return fit_preprocessing(settings.normalize if normalised else "unit", sample, resize, statistics)


def training_pipeline(config: Config, images: Split, preprocessing: Preprocessing) -> Pipeline:
    """Batches for training, in the form that `config.data.input` asks for."""
    settings, images = config.data, _in_place(config, images)
    on_host = host_augmentations(config)
    on_device = tuple(text for text in settings.augment if text not in on_host)
    shared = (preprocessing, settings.batch_size, config.seed, on_device, dataset_dtype(config))
    rows = sharding.local_rows(settings.batch_size)
    if isinstance(images, ImageArrays) and settings.input != "host":
        return ResidentPipeline(*shared, repeats=settings.repeats, rows=rows, arrays=images)
    size = preprocessing.image_size[0]
    if isinstance(images, ImageArrays):
        read = array_reader(images)
    elif not on_host:
        read = centered_reader(images, size, settings.crop_ratio)
    elif on_host[0] == "random_resized_crop":
        read = random_crop_reader(images, size, config.seed)
    else:
        _, low, high = on_host[0].split(":")
        read = scale_jitter_reader(images, size, (int(low), int(high)), config.seed)
    return HostPipeline(*shared, repeats=settings.repeats, rows=rows, read=read, labels=images.labels, workers=workers(config))


def training_phases(config: Config, images: Split, train: Pipeline, steps: int) -> tuple[tuple[int, Pipeline], ...]:
    """The stop of each phase of a run of so many steps, and its batches; one phase where `config.data.sizes` is empty."""
    sizes = parse_sizes(config.data.sizes)
    if not sizes:
        return ((steps, train),)
    starts = [round(fraction * steps) for _, fraction in sizes]
    phases = []
    for start, stop, (size, _) in zip(starts, [*starts[1:], steps], sizes, strict=True):
        if start == stop:  # a short run has no step of this size
            continue
        preprocessing = dataclasses.replace(train.preprocessing, image_size=(size, size))
        if isinstance(train, ResidentPipeline) or isinstance(images, ImageArrays):  # what is resized on the device
            phases.append((stop, dataclasses.replace(train, preprocessing=preprocessing)))
        else:
            phases.append((stop, training_pipeline(config, images, preprocessing)))
    return tuple(phases)


def evaluation_pipeline(config: Config, images: Split, preprocessing: Preprocessing, mesh: jax.sharding.Mesh) -> Pipeline:
    """Batches for evaluation, in the form that `config.data.input` asks for."""
    images = _in_place(config, images)
    batch_size = round_up(config.data.eval_batch_size, mesh.size)
    rows, dtype = sharding.local_rows(batch_size), dataset_dtype(config)
    if isinstance(images, ImageArrays) and config.data.input != "host":
        return ResidentPipeline(preprocessing, batch_size, dtype=dtype, rows=rows, arrays=images)
    crops = CROPS.get(config.data.eval_views)
    if isinstance(images, ImageArrays):
        read = array_reader(images)
    else:
        make = centered_reader if crops is None else five_crop_reader
        read = make(images, preprocessing.image_size[0], config.data.crop_ratio)
    return HostPipeline(
        preprocessing, batch_size, dtype=dtype, rows=rows, read=read, crops=crops, labels=images.labels, workers=workers(config)
    )


def other_pipeline(
    config: Config, images: Split, metadata: Mapping[str, Any], preprocessing: Preprocessing, mesh: jax.sharding.Mesh
) -> Pipeline:
    """Batches for evaluation of a data set that is not the network's own, whose images are read as `predict` reads files."""
    batch_size = round_up(config.data.eval_batch_size, mesh.size)
    rows, dtype = sharding.local_rows(batch_size), dataset_dtype(config)
    read = source_reader(images, _reading(config, metadata))
    return HostPipeline(
        preprocessing, batch_size, dtype=dtype, rows=rows, read=read, labels=images.labels, workers=workers(config)
    )


def describe_reading(config: Config, images: Split) -> dict[str, Any]:
    """How a file becomes the array that preprocessing starts from; `predict` does the same, see `file_reader`."""
    if isinstance(images, ImageArrays):
        shape, crop, ratio = list(images.images.shape[1:]), "none", 1.0
    else:
        shape, crop, ratio = [None, None, images.channels], "center", config.data.crop_ratio
    return {"source_shape": shape, "crop": crop, "crop_ratio": ratio, "interpolation": "bilinear"}


def round_up(batch_size: int, devices: int) -> int:
    """The next multiple of `devices`: an evaluation's result does not depend on its batch size."""
    return -(-batch_size // devices) * devices


def make_reader(config: Config, metadata: dict[str, Any]) -> Callable[[Path], np.ndarray]:
    """`path -> uint8[H, W, C]`, as the images of the evaluation split were read."""
    return file_reader(_reading(config, metadata))


def _reading(config: Config, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a run; the first versions left out what was then the same for all."""
    return {"crop_ratio": config.data.crop_ratio, "interpolation": "bilinear", **metadata}
