"""Brings tfds data sets into array_record form: by downloading them, or from TFRecord files that are already there."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import sys
import urllib.error
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

from resflax.data.packing import incomplete, track, write_shard
from resflax.data.tfds_source import ARRAY_RECORD, METADATA, TFRECORD
from resflax.data.tfrecord import records
from resflax.errors import ConfigError, DataError, ResflaxError, StorageError, TemporaryError
from resflax.files import read_json, write_json


def download(builder: tfds.core.DatasetBuilder) -> None:
    """Downloads a data set that is not there yet and writes it in array_record form; progress goes to stderr.

    Raises:
      ConfigError: TensorFlow or another package is missing, or archives that must be fetched by hand.
      TemporaryError: they could not be fetched.
      DataError: they are not what tfds expects.
      StorageError: the files could not be written.
    """
    name, folder = builder.info.full_name, builder.data_path
    if (folder / METADATA).exists():
        raise ConfigError(
            f"{name} is prepared in {folder} as {builder.info.file_format.value}, which cannot be read at random; "
            "convert it with --from_tfrecord, or name another --data_dir"
        )
    if folder.exists():
        raise ConfigError(f"{folder} must hold {name} or not exist, but it has no {METADATA}; remove it")
    if builder.name != "digits" and importlib.util.find_spec("tensorflow") is None:
        raise ConfigError(
            f"preparing {name} needs TensorFlow (training on it does not), but it is not installed; "
            "run pip install 'resflax[prepare]'"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it tells every retry
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            builder.download_and_prepare(file_format=ARRAY_RECORD)
    except Exception as error:  # each data set has code of its own, which may raise anything
        raise _explain(error, builder) from error


def _explain(error: Exception, builder: tfds.core.DatasetBuilder) -> ResflaxError:
    from requests import RequestException

    name, reason = builder.info.full_name, f"{str(error).strip() or type(error).__name__}".rstrip(".")
    of_tensorflow: Any = getattr(sys.modules.get("tensorflow"), "errors", None)
    missing = (AssertionError, FileNotFoundError, *([of_tensorflow.NotFoundError] if of_tensorflow else []))
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS and isinstance(error, missing):
        folder = Path(builder.data_dir_root) / "downloads" / "manual"
        instructions = " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split()).rstrip(".")
        return ConfigError(
            f"{name} must be downloaded by hand into manual_dir, which is {folder}: {instructions}; then run this again"
        )
    if isinstance(error, NonMatchingChecksumError):
        return DataError(f"what was downloaded for {name} must be what tfds expects, but {reason}; run this again")
    if isinstance(error, (RequestException, urllib.error.URLError, tfds.download.DownloadError, ConnectionError, TimeoutError)):
        return TemporaryError(f"cannot download {name}: {reason}; check the network and run this again")
    if isinstance(error, ImportError):
        return ConfigError(f"preparing {name} needs a package that cannot be imported: {reason}; install it")
    if isinstance(error, (OSError, *([of_tensorflow.OpError] if of_tensorflow else []))):
        return StorageError(f"cannot prepare {name} in {builder.data_path}: {reason}; check the path and free space")
    return DataError(f"tfds cannot prepare {name}: {type(error).__name__}: {reason}; prepare another version")


def from_tfrecord(builder: tfds.core.DatasetBuilder) -> None:
    """Adds array_record files to a data set that was prepared as TFRecord, then says so in its metadata.

    Both formats hold the same serialised examples. Every checksum is verified, and every shard must hold as many examples
    as the metadata say; otherwise nothing is added.

    Raises:
      ConfigError: it was not prepared as TFRecord.
      DataError: a shard is missing, damaged, or holds another number of examples.
      StorageError: a file cannot be read or written.
    """
    folder = Path(builder.data_path)
    if builder.info.file_format != TFRECORD or not (folder / METADATA).exists():
        raise ConfigError(f"--from_tfrecord needs a data set prepared as TFRecord, but there is none in {folder}; leave it out")
    shards = _shards(builder.info, folder)
    with incomplete(folder) as temporary, futures.ThreadPoolExecutor() as pool:
        jobs = [
            pool.submit(write_shard, temporary / to, _exactly(count, folder / name)) for name, (to, count) in shards.items()
        ]
        try:
            for job in track(jobs, "converting"):
                job.result()
        finally:
            pool.shutdown(cancel_futures=True)
        for to, _ in shards.values():
            os.replace(temporary / to, folder / to)
    about = folder / METADATA
    write_json(about, {**read_json(about), "alternativeFileFormats": [ARRAY_RECORD.value]})


def _shards(info: tfds.core.DatasetInfo, folder: Path) -> dict[str, tuple[str, int]]:
    """`{TFRecord file: (array_record file, examples)}` of all splits; each file is there."""
    shards = {}
    for split in info.splits.values():
        template = split.filename_template.replace(filetype_suffix=ARRAY_RECORD.file_suffix)
        targets = template.sharded_filepaths(len(split.shard_lengths))
        for path, to, count in zip(split.filepaths, targets, split.shard_lengths, strict=True):
            shards[path.name] = (to.name, count)
    there = {path.name for path in folder.glob(f"{info.name}-*.{TFRECORD.file_suffix}-*")}
    for name in sorted(shards.keys() ^ there):
        raise DataError(
            f"{folder / name} must be there, as {METADATA} says, but it is missing; copy or prepare it again"
            if name in shards
            else f"{METADATA} must list all shards, but not {folder / name}; remove the file or prepare the set again"
        )
    if not shards:
        raise DataError(f"{folder / METADATA} must list shards, but it lists none; prepare the set again")
    return shards


def _exactly(count: int, path: Path) -> Iterator[bytes]:
    number = 0
    for data in records(path):
        yield data
        number += 1
    if number != count:
        raise DataError(f"{path} must hold {count} examples, as {METADATA} says, got {number}; prepare the set again")
