"""Frames one after another, as those of a camera: each is read, decoded, preprocessed and classified alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resflax.bench.forward import initial_variables
from resflax.bench.timing import Clock, seconds_of
from resflax.bench.workload import Workload
from resflax.data.preprocess import Preprocessing
from resflax.data.reading import file_reader
from resflax.errors import DataError
from resflax.models.zoo import create_model
from resflax.types import Array

Read = Callable[[Path], np.ndarray]  # a file's image as uint8[H, W, C]
Probabilities = Callable[[Array], Array]  # uint8[B, H, W, C] -> float32[B, classes]
PERCENTILES = (50, 95, 99)


def measure_frames(
    paths: Sequence[Path],
    read: Read,
    compile_classifier: Callable[[Any], Callable[[Any], Any]],
    repeats: int,
    clock: Clock = time.perf_counter,
) -> dict[str, Any]:
    """Times every frame from its file to its probabilities in host memory; nothing runs ahead or in batches.

    Args:
      paths: of at least one image. What was read before is in the page cache.
      read: gives images of one size.
      compile_classifier: makes, for images like its argument, the function that gives their probabilities, uint8[1, H, W, C]
        -> float32[1, classes]; see `resflax.weights.inference`.
      repeats: passes over the frames that count; one frame before them does not.
      clock: returns seconds.

    Returns:
      `frames`, how many were timed; `frames_per_second`, over all; `latency_p<N>_seconds`, percentiles of a frame's seconds,
      each one that was measured; `read_seconds` and `network_seconds`, the medians of the two parts, the first with decoding
      and resizing, the second with normalisation; `compile_seconds`.

    Raises:
      InputError: a frame cannot be read.
      DataError: a frame's probabilities are not finite.
    """
    first = read(paths[0])[None]
    classify: list[Callable[[np.ndarray], Any]] = []

    def prepare() -> None:
        classify.append(compile_classifier(first))
        np.asarray(classify[0](first))

    compile_seconds = seconds_of(prepare, clock)
    times = []
    for path in [path for _ in range(repeats) for path in paths]:
        began = clock()
        image = read(path)[None]
        decoded = clock()
        found = np.asarray(classify[0](image))
        times.append((began, decoded, clock()))
        if not np.isfinite(found).all():
            raise DataError(f"the probabilities of {path} must be finite, but they are not; choose another checkpoint")
    began_at, decoded_at, ended_at = np.transpose(times)
    latency = ended_at - began_at
    return {
        "frames": len(times),
        "frames_per_second": len(times) / float(latency.sum()),
        **{f"latency_p{one}_seconds": float(np.percentile(latency, one, method="higher")) for one in PERCENTILES},
        "read_seconds": float(np.median(decoded_at - began_at)),
        "network_seconds": float(np.median(ended_at - decoded_at)),
        "compile_seconds": compile_seconds,
    }


def random_classifier(model: str) -> tuple[Read, Probabilities]:
    """`(read, probabilities)` of a network of the zoo with random weights; it sees the middle of each image."""
    workload = Workload(model, 1)
    height, width, channels = workload.image_shape
    prepare = Preprocessing((height, width), mean=np.full(channels, 0.5), std=np.full(channels, 0.5))
    reading = {"source_shape": workload.image_shape, "crop": "center", "crop_ratio": 0.875, "interpolation": "bilinear"}
    network = create_model(model, workload.num_classes)
    variables = initial_variables(network, jnp.zeros((1, height, width, channels)))

    def probabilities(images: Array) -> Array:
        logits: Any = network.apply(variables, prepare(images), train=False)
        return jax.nn.softmax(logits)

    return file_reader({**reading, "preprocessing": prepare.to_dict()}), probabilities
