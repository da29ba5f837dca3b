"""Input as TensorFlow users write it: a `tf.data` pipeline with a function an image, one thread a core."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resflax.bench.workload import Contender, Program
from resflax.data.arrays import ImageArrays

PAD = 4


def photographs(paths: Sequence[Path], batch_size: int, size: int) -> Contender:
    """A random part of each file, decoded and cropped in one operation and resized with antialiasing, as uint8 batches."""

    def make() -> Program:
        tf = _tensorflow()

        def read(path: Any) -> Any:
            data = tf.io.read_file(path)
            begin, shape, _ = tf.image.sample_distorted_bounding_box(
                tf.io.extract_jpeg_shape(data),
                tf.zeros((1, 0, 4)),
                area_range=(0.08, 1.0),
                aspect_ratio_range=(3 / 4, 4 / 3),
                max_attempts=10,
                use_image_if_no_bounding_boxes=True,
            )
            window = tf.stack([begin[0], begin[1], shape[0], shape[1]])
            part = tf.image.decode_and_crop_jpeg(data, window, channels=3)
            return tf.cast(tf.image.resize(part, (size, size), antialias=True) + 0.5, tf.uint8)

        files = tf.data.Dataset.from_tensor_slices([str(path) for path in paths]).repeat()
        return Program(_advance(tf, files, read, batch_size))

    return Contender("tf.data", make, "draws its parts itself")


def cifar(arrays: ImageArrays, mean: np.ndarray, std: np.ndarray, batch_size: int) -> Contender:
    """Padded, cropped, mirrored and normalised to float32 image by image; `mean` and `std` are per channel."""

    def make() -> Program:
        tf = _tensorflow()
        _, height, width, channels = arrays.images.shape
        scale, shift = (1 / (255 * std)).astype("float32"), (-mean / std).astype("float32")

        def augment(image: Any, label: Any) -> Any:
            # Normalised first, so that padding with zeros pads with the mean.
            image = tf.cast(image, tf.float32) * scale + shift
            image = tf.image.resize_with_crop_or_pad(image, height + 2 * PAD, width + 2 * PAD)
            return tf.image.random_flip_left_right(tf.image.random_crop(image, (height, width, channels))), label

        source = tf.data.Dataset.from_tensor_slices((arrays.images, arrays.labels)).repeat()
        return Program(_advance(tf, source, augment, batch_size))

    return Contender("tf.data", make, "takes the images in order")


def _tensorflow() -> Any:
    from resflax.bench.peers import require

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    tf = require("tensorflow", "tf.data")
    tf.config.set_visible_devices([], "GPU")  # JAX has it
    return tf


def _advance(tf: Any, source: Any, function: Callable[..., Any], batch_size: int) -> Callable[[int], float]:
    cores = os.cpu_count() or 1
    options = tf.data.Options()
    options.threading.private_threadpool_size = cores

    def advance(steps: int) -> float:
        # A finite pass: nothing is left running when the clock stops, and nothing was made before it started.
        examples = source.take(steps * batch_size).map(function, num_parallel_calls=cores)
        for batch in examples.batch(batch_size).prefetch(2).with_options(options).as_numpy_iterator():
            last = batch
        return float((last[0] if isinstance(last, tuple) else last).mean(dtype="float64"))

    return advance
