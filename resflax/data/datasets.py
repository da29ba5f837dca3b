"""The table of data sets. Importing it imports neither JAX nor tfds.

`mean` and `std` are per channel, in units of the pixel range: a uint8 value divided by 255. They are those of the whole
training split, every pixel counted once.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetInfo:
    """What is known about a data set before it is read."""

    image_shape: tuple[int, int, int]  # height, width, channels
    class_names: tuple[str, ...]
    sizes: dict[str, int]  # examples a split
    mean: tuple[float, ...]  # pixel range 0..1
    std: tuple[float, ...]
    source: str


DATASETS: dict[str, DatasetInfo] = {
    "digits": DatasetInfo(
        (8, 8, 1),
        tuple("0123456789"),
        {"train": 1437, "test": 360},
        (0.30523,),
        (0.37568,),
        "Optical Recognition of Handwritten Digits (Alpaydin and Kaynak 1998, UCI), the test part, as in scikit-learn",
    ),
    "cifar10": DatasetInfo(
        (32, 32, 3),
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        {"train": 50_000, "test": 10_000},
        (0.49140, 0.48216, 0.44653),
        (0.24703, 0.24349, 0.26159),
        "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
    ),
}
