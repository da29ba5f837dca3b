"""Reads prepared tfds data sets through random access (array_record), without TensorFlow."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from resflax.data.arrays import ImageArrays, unknown_dataset
from resflax.data.datasets import DATASETS
from resflax.data.decode import decode
from resflax.errors import ConfigError, DataError
from resflax.files import storage


@dataclass(frozen=True)
class TfdsImages:
    """A split whose images differ in size and are decoded when they are asked for."""

    full_name: str
    source: Any  # of undecoded examples
    labels: np.ndarray  # int32[N]
    class_names: tuple[str, ...]
    channels: int = 3

    def __len__(self) -> int:
        return len(self.labels)

    def open(self, index: int) -> Image.Image:
        """The image upright, with 8 bits a channel."""
        return decode(io.BytesIO(self.source[index]["image"]), self.channels, self.name(index))

    def name(self, index: int) -> str:
        """For messages."""
        return f"example {index} of {self.full_name}"

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with the data set's version, the split or any label."""
        sha = hashlib.sha256(repr((self.full_name, len(self), self.class_names)).encode())
        sha.update(self.labels.tobytes())
        return sha.hexdigest()[:16]


def load(name: str, split: str, data_dir: str | None) -> ImageArrays | TfdsImages:
    """Decodes a whole split whose images share one shape, opens one whose images do not.

    Errors as in `resflax.data.arrays.load_split`.
    """
    builder = _builder(name, data_dir)
    label = builder.info.features["label"]
    try:
        size = builder.info.splits[split].num_examples
        one_shape = None not in builder.info.features["image"].shape
        decoders = None if one_shape else {"image": tfds.decode.SkipDecoding()}
        source: Any = builder.as_data_source(split=split, decoders=decoders) if size else ()
    except (ValueError, KeyError) as error:  # tfds answers an unknown or malformed split with either
        splits = ", ".join(builder.info.splits)
        raise ConfigError(f"data set {name} has no split {split!r}; it has {splits}, and parts like train[:100]") from error
    if size and not one_shape:
        labels = np.array([source[index]["label"] for index in range(size)], np.int32)
        return TfdsImages(f"{builder.info.full_name}:{split}", source, labels, tuple(label.names))
    examples = list(source)
    shapes = {example["image"].shape for example in examples}
    if len(shapes) > 1:
        raise DataError(f"the images of {name} must share one shape to be held in memory, got {sorted(shapes)[:3]}")
    images = np.stack([example["image"] for example in examples]) if examples else np.zeros((0, 1, 1, 1), np.uint8)
    labels = np.array([example["label"] for example in examples], np.int32)
    return ImageArrays(images, labels, tuple(label.names))


def _prepare(builder: tfds.core.DatasetBuilder) -> None:
    tfds.disable_progress_bar()
    with storage("prepare digits in", builder.data_path), contextlib.redirect_stdout(io.StringIO()):
        try:
            builder.download_and_prepare()  # what it prints would spoil a command's output
        except OSError:
            if not builder.data_path.exists():  # it does when another process was faster
                raise


def _builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    if name == "digits":
        from resflax.data.digits import Digits

        builder = Digits(data_dir=data_dir, file_format="array_record")
        if not builder.data_path.exists():
            _prepare(builder)
        return builder
    known = {*DATASETS, *tfds.list_builders(with_community_datasets=False)}
    if re.split("[/:]", name)[0] not in known:  # asking tfds itself would import TensorFlow
        raise unknown_dataset(name, sorted(known))
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    if not builder.data_path.exists():
        raise ConfigError(
            f"data set {name} must be prepared in array_record form, but there is nothing in {builder.data_path}; "
            "prepare it there, or name another folder with --config.data.data_dir=DIR"
        )
    return builder
