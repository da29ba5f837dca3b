"""Packs folders of images into tfds data sets in array_record form, without TensorFlow.

A data set is there when its folder is: it is written under another name, which is changed when all of it is whole.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.file_adapters import ArrayRecordFileAdapter

from resflax.data import tfds_source
from resflax.data.folders import ImageFiles, load_folder
from resflax.data.reading import find_unreadable
from resflax.errors import ConfigError, DataError, InputError, StorageError
from resflax.files import storage

VERSION = "1.0.0"
SHARD_BYTES = 256 * 2**20

T = TypeVar("T")


def folder_splits(root: Path) -> dict[str, ImageFiles]:
    """The splits of a folder of images, `train` first; errors as in `resflax.data.folders.load_folder`."""
    names = ["train", "test"]
    if (root / "train").is_dir():
        there = {path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")}
        names = ["train", *sorted(there - {"train"})]
    splits = {name: load_folder(root, name) for name in names}
    for name, files in splits.items():
        if not len(files):
            raise DataError(f"split {name!r} of {root} must hold at least one image, but it is empty; add images or remove it")
    return splits


def check_readable(files: ImageFiles, workers: int) -> None:
    """Decodes every file; raises `InputError` naming the first that cannot be."""
    unreadable = find_unreadable(files, workers)
    if unreadable:
        first = next(iter(unreadable.values()))
        raise InputError(f"{len(unreadable)} of {len(files)} files in {files.root} cannot be read; the first: {first}")


def pack(splits: dict[str, ImageFiles], name: str, data_dir: str | None) -> bool:
    """Writes splits of readable image files as the data set `name`, version 1.0.0, unless that is what it holds already.

    Bytes, order, labels, class names and fingerprints are those of the files. Returns whether anything was written.

    Raises:
      ConfigError: the name cannot be used, or it is that of other images.
      DataError: a split or a class has a name that tfds cannot keep.
      StorageError: a file cannot be read or written.
    """
    _check_names(splits, name)
    folder = tfds_source.data_root(data_dir) / name / VERSION
    if folder.exists():
        for split, files in splits.items():
            if tfds_source.load(name, split, data_dir).fingerprint() != files.fingerprint():
                raise ConfigError(f"{folder} must hold the same images or none, but its {split} differs; choose another --name")
        return False
    with incomplete(folder) as temporary:
        _write(splits, name, temporary)
        os.rename(temporary, folder)
    return True


def _check_names(splits: dict[str, ImageFiles], name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in tfds_source.known_names():
        raise ConfigError(
            "--name must be lower-case letters, digits and underscores, and not the name of a tfds data set, "
            f"got {name!r}; choose another"
        )
    for split in splits:
        if not re.fullmatch(r"\w+", split, re.ASCII):
            raise DataError(f"the name of a split must be letters, digits and underscores, got the folder {split!r}; rename it")
    for one in splits["train"].class_names:
        if one != one.strip() or not one.isprintable():  # tfds keeps one name a line
            raise DataError(f"the name of a class must be printable, without outer spaces, got the folder {one!r}; rename it")


def _write(splits: dict[str, ImageFiles], name: str, folder: Path) -> None:
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=splits["train"].class_names),
            "file_name": tfds.features.Text(),
        }
    )
    version = tfds.core.Version(VERSION)
    identity = tfds.core.DatasetIdentity(name=name, version=version, data_dir=str(folder), module_name="")
    info = tfds.core.DatasetInfo(builder=identity, features=features, supervised_keys=("image", "label"))
    info.set_file_format(tfds_source.ARRAY_RECORD)
    info.set_splits(tfds.core.SplitDict([_write_split(info, split, files) for split, files in splits.items()]))
    with storage("write", folder):
        info.write_to_directory(folder)


def _write_split(info: tfds.core.DatasetInfo, split: str, files: ImageFiles) -> tfds.core.SplitInfo:
    suffix = tfds_source.ARRAY_RECORD.file_suffix
    template = tfds.core.ShardedFileTemplate(
        data_dir=info.data_dir, dataset_name=info.name, split=split, filetype_suffix=suffix
    )
    size = sum(path.stat().st_size for path in files.paths)
    shards = np.array_split(np.arange(len(files)), min(len(files), 1 + size // SHARD_BYTES))
    for number, ids in enumerate(track(shards, f"packing {split}")):
        path = template.sharded_filepath(shard_index=number, num_shards=len(shards))
        write_shard(Path(path), _examples(info.features, files.select(ids)))
    lengths = [len(ids) for ids in shards]
    return tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=size, filename_template=template)


def _examples(features: tfds.features.FeaturesDict, files: ImageFiles) -> Iterator[bytes]:
    serialise = tfds.core.ExampleSerializer(features.get_serialized_info()).serialize_example
    for path, label in zip(files.paths, files.labels.tolist(), strict=True):
        with storage("read", path):
            image = io.BytesIO(path.read_bytes())
        file_name = os.fsencode(path.relative_to(files.root))
        yield serialise(features.encode_example({"image": image, "label": label, "file_name": file_name}))


def write_shard(path: Path, examples: Iterable[bytes]) -> None:
    """Writes serialised examples as an array_record file, one a chunk, as tfds does."""
    try:
        with storage("write", path):
            ArrayRecordFileAdapter.write_examples(path, enumerate(examples))
    except RuntimeError as error:  # what the writer makes of a full disk
        raise StorageError(f"cannot write {path}: {error}; check free space") from error


@contextlib.contextmanager
def incomplete(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder`, under a name that nothing takes for a data set; removed in the end, unless moved."""
    temporary = folder.with_name(f"incomplete.{os.getpid()}_{folder.name}")
    try:
        with storage("write", folder):
            temporary.mkdir(parents=True)
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def track(items: Sequence[T], text: str) -> Iterable[T]:
    """`items`; on a terminal, a bar on stderr says how many are done."""
    from rich.console import Console
    from rich.progress import track as bar

    return bar(items, text, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
