"""python -m resflax.prepare: brings a data set into the form that training reads without TensorFlow."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from resflax.cli import Parser, run
from resflax.errors import ConfigError, nearest
from resflax.training.signals import end_by_unwinding

if TYPE_CHECKING:
    from resflax.data.folders import ImageFiles


def main(argv: Sequence[str]) -> int:
    """The command; the last line of stdout is a JSON object. Returns the exit code."""
    parser = Parser(prog="python -m resflax.prepare", description=__doc__)
    parser.add_argument(
        "source", metavar="NAME", help="a tfds data set, as in cifar10 or emnist/balanced; or a folder of images"
    )
    parser.add_argument("--data_dir", metavar="DIR", help="default: TFDS_DATA_DIR, else ~/tensorflow_datasets")
    parser.add_argument("--from_tfrecord", action="store_true", help="convert what is prepared as TFRecord in DIR")
    parser.add_argument("--name", help="pack the folder NAME as the data set of this name")
    parser.add_argument("--unreadable", choices=("error", "skip"), help="what to do about images that cannot be decoded")
    parser.add_argument("--shorter_side", metavar="PIXELS", help="shrink larger images of the folder to this, and encode anew")
    parser.add_argument("--npz", metavar="FILE", help="also write the images, decoded, into a file for machines without tfds")
    arguments = parser.parse_args(argv)
    if arguments.name is None and arguments.unreadable:
        parser.error("--unreadable is for folders of images, and needs --name")
    if arguments.name is None and arguments.shorter_side:
        parser.error("--shorter_side is for folders of images, and needs --name")
    if arguments.shorter_side and not (arguments.shorter_side.isdecimal() and int(arguments.shorter_side)):
        parser.error(
            f"--shorter_side must be a whole number at least 1, got {arguments.shorter_side!r}; 256 suits crops of 224"
        )
    if arguments.name is not None and arguments.from_tfrecord:
        parser.error("--from_tfrecord is for tfds data sets, and --name for folders of images; give one of them")
    if "://" in (arguments.data_dir or os.environ.get("TFDS_DATA_DIR", "")):
        parser.error("--data_dir must be a local folder; copy it to a bucket afterwards")
    if arguments.name is not None:
        shorter_side = int(arguments.shorter_side) if arguments.shorter_side else None
        done = pack(arguments.source, arguments.name, arguments.data_dir, arguments.unreadable == "skip", shorter_side)
    else:
        done = prepare(arguments.source, arguments.data_dir, arguments.from_tfrecord)
    if arguments.npz:
        write_npz(arguments.name or arguments.source, list(done["examples"]), Path(arguments.npz), arguments.data_dir)
        done["npz"] = arguments.npz
    print(json.dumps(done))
    return 0


def prepare(name: str, data_dir: str | None = None, from_tfrecord: bool = False) -> dict[str, Any]:
    """Downloads a tfds data set, or converts it where it is there as TFRecord; nothing is done twice.

    Args:
      name: `NAME[/CONFIGURATION][:VERSION]`.
      data_dir: None: TFDS_DATA_DIR, else `~/tensorflow_datasets`.
      from_tfrecord: convert what is there.

    Returns:
      `{"name", "version", "folder", "examples": {split: count}}`.

    Raises:
      ResflaxError: see `resflax.data.preparing`.
    """
    from resflax.data import preparing, tfds_source

    builder = tfds_source.find(name, data_dir)
    if builder is None:
        if Path(name).is_dir():
            raise ConfigError(f"--name must say what the folder {name} is packed as; for example --name=flowers")
        raise ConfigError(
            f"NAME must be a tfds data set or a folder of images, got {name!r}; "
            f"did you mean {nearest(name, tfds_source.known_names())[0]}?"
        )
    if tfds_source.is_prepared(builder):
        _say_done(builder)
    elif from_tfrecord:
        preparing.from_tfrecord(builder)
    else:
        preparing.download(builder)
    return _describe(builder)


def pack(
    folder: str, name: str, data_dir: str | None = None, skip: bool = False, shorter_side: int | None = None
) -> dict[str, Any]:
    """Packs a folder of images (see `resflax.data.folders`) as a data set of that name.

    Args:
      folder: holds `train/<class>/*` and other splits, or `<class>/*`.
      name: lower-case letters, digits and underscores.
      data_dir: as for `prepare`.
      skip: leave out files that cannot be decoded, as `config.data.unreadable=skip` does, and say which.
      shorter_side: shrink larger images to so many pixels, see `resflax.data.packing.pack`; None: keep every byte.

    Returns:
      As `prepare`.

    Raises:
      ResflaxError: see `resflax.data.packing`.
    """
    from resflax.data import packing, tfds_source

    root = Path(folder)
    if not root.is_dir():
        raise ConfigError(f"with --name, NAME must be a folder of images, but there is no folder {folder}; correct the path")
    splits = packing.folder_splits(root)
    if skip:
        splits = {split: _without_unreadable(files) for split, files in splits.items()}
    else:
        for files in splits.values():
            packing.check_readable(files, os.cpu_count() or 1)
    written = packing.pack(splits, name, data_dir, shorter_side)
    builder = tfds_source.find(name, data_dir)
    if not written:
        _say_done(builder)
    return _describe(builder)


def write_npz(name: str, splits: Sequence[str], path: Path, data_dir: str | None = None) -> None:
    """Writes the decoded images of a prepared data set as `resflax.data.arrays.load_npz` reads them.

    Raises:
      ConfigError: its images differ in size, or the file's name does not end in .npz.
      StorageError: the file cannot be written.
    """
    import numpy as np

    from resflax.data.arrays import ImageArrays, load_split
    from resflax.files import storage

    if path.suffix != ".npz":
        raise ConfigError(f"--npz must name a file that ends in .npz, got {path}; add the ending")
    content: dict[str, Any] = {}
    for split in splits:
        arrays = load_split(name, split, data_dir)
        if not isinstance(arrays, ImageArrays):
            raise ConfigError(f"--npz needs images of one size, but those of {name} differ; leave it out")
        content |= {f"{split}_images": arrays.images, f"{split}_labels": arrays.labels, "class_names": arrays.class_names}
    with storage("write", path):
        np.savez(path, **content)


def _without_unreadable(files: ImageFiles) -> ImageFiles:
    from resflax.build.inputs import without_unreadable
    from resflax.config import Config

    skipped: dict[str, str] = {}
    kept = cast("ImageFiles", without_unreadable(Config(), files, skipped))
    for reason in skipped.values():
        print(f"left out: {reason}", file=sys.stderr)
    return kept


def _say_done(builder: Any) -> None:
    print(f"{builder.info.full_name} is already prepared in {builder.data_path}", file=sys.stderr)


def _describe(builder: Any) -> dict[str, Any]:
    examples = {split: info.num_examples for split, info in builder.info.splits.items()}
    name, version = builder.info.full_name.rsplit("/", 1)
    return {"name": name, "version": version, "folder": str(builder.data_path), "examples": examples}


if __name__ == "__main__":
    run(main, end_by_unwinding)
