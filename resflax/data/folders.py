"""Folders of images: `train/<class>/*` and `test/<class>/*`, or one folder `<class>/*` that is divided here.

Rules. A class is a folder; hidden folders and files are passed over, folders inside a class are searched through, and files
without an image suffix are passed over as well. Classes are those of the training split, sorted by name; names that are
all whole numbers are sorted as numbers, so that class "10" follows "9". A class without an image in the training split, a
class that only another split has, and names that differ only in case or outer spaces are errors.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from resflax.data.decode import SUFFIXES, decode
from resflax.data.order import uniforms
from resflax.errors import ConfigError, DataError

_SPLIT_WORDS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation"})
HELD_OUT = 5  # of one undivided folder, every fifth image of a class is the `test` split


@dataclass(frozen=True)
class ImageFiles:
    """A split whose images are decoded when they are asked for."""

    root: Path
    paths: tuple[Path, ...]
    labels: np.ndarray  # int32[N]
    class_names: tuple[str, ...]
    channels: int = 3

    def __len__(self) -> int:
        return len(self.paths)

    def open(self, index: int) -> Image.Image:
        """The image upright, with 8 bits a channel; `InputError` naming the file where it cannot be read."""
        return decode(self.paths[index], self.channels)

    def file(self, index: int) -> Path:
        """Where its bytes are."""
        return self.paths[index]

    def name(self, index: int) -> str:
        """The file's path, for messages."""
        return str(self.paths[index])

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with any name, size, label or the order of files."""
        sha = hashlib.sha256(repr(self.class_names).encode())
        for path, label in zip(self.paths, self.labels, strict=True):
            sha.update(os.fsencode(f"{path.relative_to(self.root)} {path.stat().st_size} {label}\n"))
        return sha.hexdigest()[:16]

    def select(self, keep: np.ndarray) -> ImageFiles:
        """The examples `keep`, indices in order."""
        paths = tuple(self.paths[index] for index in keep)
        return ImageFiles(self.root, paths, self.labels[keep], self.class_names, self.channels)


def load_folder(root: Path, split: str) -> ImageFiles:
    """Lists a split: `train`, `test`, another folder's name, or a part of one (`train[:100]`, `test[50%:]`).

    Without a folder `root/train`, `root` itself holds the classes; then `train` is four fifths of each class and `test` the
    rest, chosen by a fixed hash of the file's name, so that adding a file moves no other.

    Raises:
      ConfigError: there is no such split.
      DataError: the folders are not what the rules above ask for.
    """
    name, part = _parse(split)
    if not (root / "train").is_dir():
        if name not in ("train", "test"):
            raise ConfigError(f"{root} has no folder train/, so its splits are train and test, got {split!r}")
        names = _classes(root)
        if {one.casefold() for one in names} <= _SPLIT_WORDS:
            raise DataError(
                f"a folder with the split {names[0]!r} must have its training images in {root / 'train'}, but there is no such "
                "folder; rename or add it"
            )
        everything = _list(root, names)
        held_out = np.array([_held_out(path.relative_to(root)) for path in everything.paths], bool)
        chosen = everything.select(np.flatnonzero(held_out == (name == "test")))
        _check_classes(chosen, name)
        return _part(chosen, part, split)
    if not (root / name).is_dir():
        there = ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")))
        raise ConfigError(
            f"{root} has no split {name!r}; it has {there}; set config.data.train_split or config.data.eval_split"
        )
    classes = _classes(root / "train")
    here = classes if name == "train" else _classes(root / name)
    strangers = [one for one in here if one not in classes]
    if strangers:
        raise DataError(
            f"every class must be one of the training split's, but {root / name} has {strangers[0]!r}; move or rename it"
        )
    files = _list(root / name, classes)
    if name == "train":
        _check_classes(files, name)
    return _part(files, part, split)


def _classes(folder: Path) -> tuple[str, ...]:
    names = [path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    seen: dict[str, str] = {}
    for one in sorted(names):
        twin = seen.setdefault(one.strip().casefold(), one)
        if twin != one:
            raise DataError(
                f"class names must differ in more than case and spaces, got {twin!r} and {one!r} in {folder}; rename one"
            )
    if not names:
        raise DataError(f"{folder} must hold a folder a class, but it has none; arrange the images as {folder}/<class>/*.jpg")
    numbers = all(re.fullmatch(r"\d+", one) for one in names)
    return tuple(sorted(names, key=lambda one: (int(one), one) if numbers else (0, one)))


def _list(folder: Path, classes: tuple[str, ...]) -> ImageFiles:
    paths, labels = [], []
    for label, name in enumerate(classes):
        inside = folder / name
        found = sorted(
            path
            for path in (inside.rglob("*") if inside.is_dir() else ())
            if path.suffix.lower() in SUFFIXES
            and path.is_file()
            and not any(p.startswith(".") for p in path.relative_to(folder).parts)
        )
        paths += found
        labels += [label] * len(found)
    return ImageFiles(folder, tuple(paths), np.array(labels, np.int32), classes)


def _check_classes(files: ImageFiles, split: str) -> None:
    counts = np.bincount(files.labels, minlength=len(files.class_names))
    empty = [name for name, count in zip(files.class_names, counts, strict=True) if not count]
    if empty and split == "train":
        raise DataError(
            f"every class must have an image in the training split, but {empty[0]!r} has none "
            f"({len(empty)} in all); add images ({', '.join(SUFFIXES)}) or remove the folder"
        )


def _held_out(path: Path) -> bool:
    digits = hashlib.sha256(os.fsencode(path.as_posix())).digest()
    return bool(uniforms(0, 0, int.from_bytes(digits[:8], "little"), 1)[0] < 1 / HELD_OUT)


def _parse(split: str) -> tuple[str, tuple[str, str] | None]:
    match = re.fullmatch(r"([^\[\]]+)(?:\[(\d+%?|):(\d+%?|)\])?", split)
    if not match:
        raise ConfigError(f"a split must read NAME, NAME[START:STOP] or NAME[START%:STOP%], got {split!r}")
    return match[1], None if match[2] is None else (match[2], match[3])


def _part(files: ImageFiles, part: tuple[str, str] | None, split: str) -> ImageFiles:
    if part is None:
        return files
    # Files are listed class by class; a part of them is drawn across all classes, in a fixed order.
    keys = [uniforms(1, 0, index, 1)[0] for index in range(len(files))]
    shuffled = np.argsort(keys, kind="stable")

    def position(text: str, default: int) -> int:
        if not text:
            return default
        return round(int(text[:-1]) / 100 * len(files)) if text.endswith("%") else int(text)

    start, stop = position(part[0], 0), position(part[1], len(files))
    return files.select(np.sort(shuffled[start:stop]))
