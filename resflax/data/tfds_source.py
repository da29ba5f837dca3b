"""Reads prepared tfds data sets through random access (array_record), without TensorFlow."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.read_only_builder import builder_from_files

from resflax.data import cache
from resflax.data.arrays import ImageArrays, unknown_dataset
from resflax.data.datasets import DATASETS
from resflax.data.decode import decode
from resflax.errors import ConfigError, DataError
from resflax.files import storage

METADATA = "dataset_info.json"  # a data set is there when this file is
CACHED = 1  # to be raised when the same files are read as something else
ARRAY_RECORD, TFRECORD = tfds.core.FileFormat.ARRAY_RECORD, tfds.core.FileFormat.TFRECORD


@dataclass(frozen=True)
class TfdsImages:
    """A split whose images differ in size and are decoded when they are asked for."""

    full_name: str
    source: Any  # of undecoded examples
    labels: np.ndarray  # int32[N]
    class_names: tuple[str, ...]
    digest: str
    channels: int = 3

    def __len__(self) -> int:
        return len(self.labels)

    def open(self, index: int) -> Image.Image:
        """The image upright, with 8 bits a channel."""
        return decode(self.file(index), self.channels, self.name(index))

    def file(self, index: int) -> io.BytesIO:
        """Its bytes."""
        return io.BytesIO(self.source[index]["image"])

    def name(self, index: int) -> str:
        """For messages."""
        return f"example {index} of {self.full_name}"

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with any file's name or size, any label or the order of examples.

        A packed folder has those of the folder. Where examples have no file name, the data set's version and the split
        stand for it.
        """
        return self.digest


def load(name: str, split: str, data_dir: str | None) -> ImageArrays | TfdsImages:
    """Decodes a whole split whose images share one shape, opens one whose images do not.

    Errors as in `resflax.data.arrays.load_split`.
    """
    builder = _prepared(name, data_dir)
    features, full_name = builder.info.features, f"{builder.info.full_name}:{split}"
    class_names = tuple(features["label"].names)
    try:
        size = builder.info.splits[split].num_examples
        one_shape = None not in features["image"].shape
        decoders = None if one_shape else {"image": tfds.decode.SkipDecoding()}
        source: Any = builder.as_data_source(split=split, decoders=decoders, file_format=ARRAY_RECORD) if size else ()
    except (ValueError, KeyError) as error:  # tfds answers an unknown or malformed split with either
        splits = ", ".join(builder.info.splits)
        raise ConfigError(f"data set {name} has no split {split!r}; it has {splits}, and parts like train[:100]") from error
    key = _key(builder, full_name)
    if one_shape:
        return cache.decoded(key, lambda: _decode(source, class_names, name))
    labels, digest = cache.scanned(key, lambda: _scan(source, class_names, full_name))
    return TfdsImages(full_name, source, labels, class_names, digest, features["image"].shape[-1])


def _key(builder: tfds.core.DatasetBuilder, full_name: str) -> str:
    """Changes with the split and with any file of the data set, as far as its name, size and time tell."""
    sha = hashlib.sha256(repr((full_name, CACHED)).encode())
    for path in sorted(Path(builder.data_path).iterdir()):
        about = path.stat()
        sha.update(os.fsencode(f"{path} {about.st_size} {about.st_mtime_ns}\n"))
    return sha.hexdigest()[:32]


def _decode(source: Any, class_names: tuple[str, ...], name: str) -> ImageArrays:
    """The whole split; a data source decodes when it is asked."""
    examples = list(source)
    shapes = {example["image"].shape for example in examples}
    if len(shapes) > 1:
        raise DataError(f"the images of {name} must share one shape to be held in memory, got {sorted(shapes)[:3]}")
    images = np.stack([example["image"] for example in examples]) if examples else np.zeros((0, 1, 1, 1), np.uint8)
    labels = np.array([example["label"] for example in examples], np.int32)
    return ImageArrays(images, labels, class_names)


def _scan(source: Any, class_names: tuple[str, ...], full_name: str) -> tuple[np.ndarray, str]:
    """The labels, and the fingerprint that `resflax.data.folders` gives to files of these names, sizes and labels."""
    labels = np.zeros(len(source), np.int32)
    sha = hashlib.sha256(repr(class_names).encode())
    for index in range(len(source)):
        example = source[index]
        labels[index] = example["label"]
        name = example.get("file_name", os.fsencode(full_name))
        sha.update(name + f" {len(example['image'])} {labels[index]}\n".encode())
    return labels, sha.hexdigest()[:16]


def known_names() -> list[str]:
    """The names that tfds can prepare, and those of the table."""
    return sorted({*DATASETS, *tfds.list_builders(with_community_datasets=False)})


def find(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder | None:
    """The data set of that name, prepared or not; None if neither tfds nor `data_dir` has it.

    Raises:
      ConfigError: there is no such configuration or version of it.
      DataError: what is in its folder cannot be understood.
    """
    base = re.split("[/:]", name)[0]
    try:
        if base not in known_names():  # asking tfds for a name that it does not know would import TensorFlow
            return builder_from_files(name, data_dir=data_dir)
        builder = _digits(data_dir) if name == "digits" else tfds.builder(name, data_dir=data_dir)
        # What is there is described by the files beside it: only they say that it has been converted.
        return tfds.builder_from_directory(builder.data_path) if (builder.data_path / METADATA).exists() else builder
    except (ValueError, AssertionError) as error:
        if base not in known_names():
            return None
        configurations = ", ".join(one.name for one in tfds.builder_cls(base).BUILDER_CONFIGS) or "none"
        raise ConfigError(
            f"a tfds data set must read NAME[/CONFIGURATION][:VERSION], got {name!r}, of which tfds has no such version or "
            f"configuration; configurations of {base}: {configurations}"
        ) from error
    except Exception as error:  # damaged metadata leads tfds' parsers to what not
        raise DataError(
            f"the metadata of {name} in {data_root(data_dir)} must be as they were prepared, but {error}; "
            "remove its folder and prepare it again"
        ) from error


def is_prepared(builder: tfds.core.DatasetBuilder) -> bool:
    """Whether the data set is there and can be read at random."""
    return (builder.data_path / METADATA).exists() and ARRAY_RECORD in builder.info.available_file_formats()


def data_root(data_dir: str | None) -> Path:
    """The folder with a folder a data set: `data_dir`, else TFDS_DATA_DIR, else `~/tensorflow_datasets`."""
    return Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()


def _digits(data_dir: str | None) -> tfds.core.DatasetBuilder:
    from resflax.data.digits import Digits

    return Digits(data_dir=data_dir, file_format=ARRAY_RECORD)


def _prepare(builder: tfds.core.DatasetBuilder) -> None:
    tfds.disable_progress_bar()
    with storage("prepare digits in", builder.data_path), contextlib.redirect_stdout(io.StringIO()):
        try:
            builder.download_and_prepare()  # what it prints would spoil a command's output
        except OSError:
            if not builder.data_path.exists():  # it does when another process was faster
                raise


def _prepared(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """A data set of images and labels that can be read at random."""
    builder = find(name, data_dir)
    if builder is None:
        raise unknown_dataset(name, known_names())
    folder, features = builder.data_path, builder.info.features
    if name == "digits" and not folder.exists():
        _prepare(builder)
    if not is_prepared(builder):
        there = (folder / METADATA).exists()
        raise ConfigError(
            f"data set {name} must be prepared in array_record form, but "
            + (f"{folder} holds {builder.info.file_format.value}; " if there else f"there is nothing in {folder}; ")
            + f"run python -m resflax.prepare {name}{' --from_tfrecord' if there else ''}, or name another folder with "
            "--config.data.data_dir=DIR"
        )
    if not {"image", "label"} <= {*features} or not isinstance(features["label"], tfds.features.ClassLabel):
        raise ConfigError(f"data set {name} must have an image and a class label, got {', '.join(features)}; choose another")
    return builder
