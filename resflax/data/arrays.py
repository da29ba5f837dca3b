"""A split in memory, and where it comes from: a prepared tfds data set, the embedded digits, or an `.npz` file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resflax.data.datasets import DATASETS
from resflax.data.npz import open_npz
from resflax.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from resflax.data.folders import ImageFiles
    from resflax.data.tfds_source import TfdsImages

_MOST_CLASSES = 2**20  # of a file that does not name them


@dataclass(frozen=True)
class ImageArrays:
    """Decoded images of one split."""

    images: np.ndarray  # uint8[N, H, W, C]
    labels: np.ndarray  # int32[N], 0 <= label < len(class_names)
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or images.ndim != 4:
            raise DataError(f"images must be uint8[N, H, W, C], got {images.dtype}{list(images.shape)}")
        if labels.shape != images.shape[:1] or labels.dtype != np.int32:
            raise DataError(f"labels must be int32[{len(images)}], got {labels.dtype}{list(labels.shape)}")
        wrong = np.flatnonzero((labels < 0) | (labels >= len(self.class_names)))
        if wrong.size:
            raise DataError(
                f"labels must lie in 0..{len(self.class_names) - 1}, got {labels[wrong[0]]} at example {wrong[0]} "
                f"({wrong.size} in all); correct the labels or the class names"
            )

    def __len__(self) -> int:
        return len(self.images)

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with any pixel, label, class name or the order of examples."""
        sha = hashlib.sha256(repr((self.images.shape, self.class_names)).encode())
        sha.update(np.ascontiguousarray(self.images).data)
        sha.update(np.ascontiguousarray(self.labels).data)
        return sha.hexdigest()[:16]


def load_split(name: str, split: str, data_dir: str | None = None) -> ImageArrays | ImageFiles | TfdsImages:
    """Opens one split of a data set.

    Args:
      name: `digits`, a prepared tfds data set (`cifar10`), the path of an `.npz` file (see `load_npz`), or of a folder
        of images (see `resflax.data.folders`).
      split: `train`, `test`, or any sub-split in tfds' notation (`train[:45000]`).
      data_dir: where tfds data sets lie; None: TFDS_DATA_DIR, else `~/tensorflow_datasets`.

    Returns:
      Decoded images where they have one shape and are held whole (`.npz`, tfds), else a source that decodes on demand.

    Raises:
      ConfigError: there is no such data set or split, or the split is empty.
      DataError: its images or labels are not what they must be.
    """
    arrays: ImageArrays | ImageFiles | TfdsImages
    if name.endswith(".npz"):
        arrays = load_npz(Path(name), split)
    elif name not in DATASETS and Path(name).is_dir():  # `./digits` names a folder of that name
        from resflax.data import folders

        arrays = folders.load_folder(Path(name), split)
    else:
        from resflax.data import tfds_source

        arrays = tfds_source.load(name, split, data_dir)
    if not len(arrays):
        raise ConfigError(f"split {split!r} of {name} must hold at least one example, but it is empty")
    return arrays


def load_npz(path: Path, split: str) -> ImageArrays:
    """Reads `{split}_images` uint8[N, H, W(, C)], `{split}_labels` int[N] and, if there, `class_names` str[K]."""
    if not path.exists():
        raise ConfigError(f"config.data.name must be a data set or an existing .npz file, but there is no {path}")
    try:
        with open_npz(path) as file:
            splits = [key.removesuffix("_images") for key in file.files if key.endswith("_images")]
            if split not in splits:
                raise ConfigError(f"{path} has no split {split!r}; it has {', '.join(splits) or 'none'}")
            images, labels = file[f"{split}_images"], file[f"{split}_labels"]
            names: Any = file["class_names"] if "class_names" in file.files else None
    except (ValueError, OSError) as error:
        raise DataError(f"{path} must be an .npz of plain arrays, but {error}; write it with numpy.savez") from error
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{path}: labels must be integers, got {labels.dtype}")
    most = _MOST_CLASSES if names is None else len(names)
    wrong = np.flatnonzero((labels < 0) | (labels >= most))  # before they become 32 bits, in which 2 ** 32 would be 0
    if wrong.size:
        raise DataError(
            f"{path}: labels must lie in 0..{most - 1}, got {labels.flat[wrong[0]]} at example {wrong[0]} "
            f"({wrong.size} in all); correct the labels or the class names"
        )
    if names is None:
        names = [str(index) for index in range(int(labels.max()) + 1 if len(labels) else 0)]
    if images.ndim == 3:
        images = images[..., np.newaxis]
    return ImageArrays(images, labels.astype(np.int32), tuple(str(one) for one in names))


def unknown_dataset(name: str, known: list[str]) -> ConfigError:
    """The error for a name that is no data set."""
    if name.startswith(("/", ".", "~")):
        return ConfigError(f"config.data.name must be a data set or an existing path, but there is no {name}; correct it")
    return ConfigError(
        f"config.data.name must be digits, a prepared tfds data set, a folder of images or an .npz file, got {name!r}, and "
        f"there is no such folder in {Path.cwd()}; did you mean {nearest(name, known)[0]}?"
    )
