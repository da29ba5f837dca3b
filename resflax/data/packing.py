"""Packs folders of images into tfds data sets in array_record form, without TensorFlow.

A data set is there when its folder is: it is written under another name, which is changed when all of it is whole.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import TypeVar

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.file_adapters import ArrayRecordFileAdapter

from resflax.data import tfds_source
from resflax.data.decode import decode
from resflax.data.folders import ImageFiles, load_folder
from resflax.data.geometry import stretch
from resflax.data.reading import find_unreadable
from resflax.errors import ConfigError, DataError, InputError, StorageError
from resflax.files import storage

VERSION = "1.0.0"
SHARD_BYTES = 256 * 2**20
QUALITY = 90  # of the JPEG files that are made of larger images

Encode = Callable[[Path], bytes]
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


def pack(splits: dict[str, ImageFiles], name: str, data_dir: str | None, shorter_side: int | None = None) -> bool:
    """Writes splits of readable image files as the data set `name`, version 1.0.0, unless that is what it holds already.

    Order, labels and class names are those of the files; so are bytes and fingerprints, without `shorter_side`. With it, an
    image whose shorter side is larger is shrunk to that many pixels, upright, and encoded as JPEG of quality `QUALITY`; others
    stay as they are. Returns whether anything was written.

    Raises:
      ConfigError: the name cannot be used, or it is that of other images.
      DataError: a split or a class has a name that tfds cannot keep.
      StorageError: a file cannot be read or written.
    """
    _check_names(splits, name)
    folder = tfds_source.data_root(data_dir) / name / VERSION
    content = "" if shorter_side is None else _content(splits, shorter_side)
    if folder.exists():
        if other := _difference(splits, name, data_dir, content):
            raise ConfigError(f"{folder} must hold the same images or none, but its {other} differs; choose another --name")
        return False
    encode = _read if shorter_side is None else functools.partial(_shrunk, shorter_side=shorter_side)
    with incomplete(folder) as temporary:
        _write(splits, name, temporary, content, encode)
        os.rename(temporary, folder)
    return True


def _difference(splits: dict[str, ImageFiles], name: str, data_dir: str | None, content: str) -> str | None:
    """What of the data set that is there is not as it would be written now."""
    if content:  # bytes of shrunk images tell nothing of the files
        builder = tfds_source.find(name, data_dir)
        return None if builder is not None and builder.info.description == content else "description"
    for split, files in splits.items():
        if tfds_source.load(name, split, data_dir).fingerprint() != files.fingerprint():
            return split
    return None


def _content(splits: dict[str, ImageFiles], shorter_side: int) -> str:
    """What a data set of shrunk images was made of, and how."""
    files = ", ".join(f"{split} {files.fingerprint()}" for split, files in splits.items())
    return f"Images of a shorter side of at most {shorter_side} pixels (JPEG, quality {QUALITY}), from files: {files}"


def _read(path: Path) -> bytes:
    with storage("read", path):
        return path.read_bytes()


def _shrunk(path: Path, shorter_side: int) -> bytes:
    image = decode(path, 3)
    scale = shorter_side / min(image.size)
    if scale >= 1:
        return _read(path)
    content = io.BytesIO()
    stretch(image, round(image.height * scale), round(image.width * scale)).save(content, "JPEG", quality=QUALITY)
    return content.getvalue()


def _check_names(splits: dict[str, ImageFiles], name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]{,99}", name) or name in tfds_source.known_names():
        raise ConfigError(
            "--name must be lower-case letters, digits and underscores, at most 100, and not the name of a tfds data set, "
            f"got {name!r}; choose another"
        )
    for split in splits:
        if not re.fullmatch(r"\w+", split, re.ASCII):
            raise DataError(f"the name of a split must be letters, digits and underscores, got the folder {split!r}; rename it")
    for one in splits["train"].class_names:
        if one != one.strip() or not one.isprintable():  # tfds keeps one name a line
            raise DataError(f"the name of a class must be printable, without outer spaces, got the folder {one!r}; rename it")


def _write(splits: dict[str, ImageFiles], name: str, folder: Path, content: str, encode: Encode) -> None:
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=splits["train"].class_names),
            "file_name": tfds.features.Text(),
        }
    )
    version = tfds.core.Version(VERSION)
    identity = tfds.core.DatasetIdentity(name=name, version=version, data_dir=str(folder), module_name="")
    info = tfds.core.DatasetInfo(
        builder=identity, features=features, supervised_keys=("image", "label"), description=content or None
    )
    info.set_file_format(tfds_source.ARRAY_RECORD)
    info.set_splits(tfds.core.SplitDict([_write_split(info, split, files, encode) for split, files in splits.items()]))
    with storage("write", folder):
        info.write_to_directory(folder)


def _write_split(info: tfds.core.DatasetInfo, split: str, files: ImageFiles, encode: Encode) -> tfds.core.SplitInfo:
    suffix = tfds_source.ARRAY_RECORD.file_suffix
    template = tfds.core.ShardedFileTemplate(
        data_dir=info.data_dir, dataset_name=info.name, split=split, filetype_suffix=suffix
    )
    size = sum(path.stat().st_size for path in files.paths)
    shards = np.array_split(np.arange(len(files)), min(len(files), 1 + size // SHARD_BYTES))
    written = 0
    for number, ids in enumerate(track(shards, f"packing {split}")):
        path = Path(template.sharded_filepath(shard_index=number, num_shards=len(shards)))
        write_shard(path, _examples(info.features, files.select(ids), encode))
        written += path.stat().st_size
    lengths = [len(ids) for ids in shards]
    return tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=written, filename_template=template)


def _examples(features: tfds.features.FeaturesDict, files: ImageFiles, encode: Encode) -> Iterator[bytes]:
    serialise = tfds.core.ExampleSerializer(features.get_serialized_info()).serialize_example
    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, label, image in zip(files.paths, files.labels.tolist(), pool.map(encode, files.paths), strict=True):
            file_name = os.fsencode(path.relative_to(files.root))
            example = {"image": io.BytesIO(image), "label": label, "file_name": file_name}
            yield serialise(features.encode_example(example))


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
