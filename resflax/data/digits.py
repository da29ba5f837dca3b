"""The embedded data set: scikit-learn's 1,797 handwritten digits as a tfds data set of PNG files.

Needs neither the network nor TensorFlow. scikit-learn ships 8x8 images with 17 grey levels and no split. The split here
is stratified, every fifth image of a class drawn at random, and is committed (`digits_test_ids.json`), so that it
depends on no library's random numbers.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from resflax.data.datasets import DATASETS

INFO = DATASETS["digits"]
TEST_IDS = Path(__file__).with_name("digits_test_ids.json")


class Digits(tfds.core.GeneratorBasedBuilder):
    """8x8 grey images of the digits 0 to 9, 1,437 for training and 360 for testing."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=INFO.image_shape, encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=INFO.class_names),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        test = frozenset(json.loads(TEST_IDS.read_text()))
        train = frozenset(range(sum(INFO.sizes.values()))) - test
        return {"train": self._generate_examples(train), "test": self._generate_examples(test)}

    def _generate_examples(self, ids: frozenset[int]) -> Iterator[tuple[str, dict[str, Any]]]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        for index in sorted(ids):
            levels = np.rint(digits.images[index] * (255 / 16)).astype(np.uint8)  # 0..16 -> 0..255
            # tfds encodes arrays through TensorFlow, but takes bytes that are already encoded.
            png = io.BytesIO()
            Image.fromarray(levels).save(png, "PNG")
            png.seek(0)
            yield f"{index:04d}", {"image": png, "label": int(digits.target[index])}
