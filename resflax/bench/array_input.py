"""Input from small images in memory: padded, cropped, mirrored and normalised to the batch that a training step sees."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence

import jax
import numpy as np

from resflax.bench.workload import Contender, Program
from resflax.data.arrays import ImageArrays
from resflax.data.datasets import DATASETS
from resflax.data.pipeline import HostPipeline, Pipeline, ResidentPipeline
from resflax.data.preprocess import Preprocessing
from resflax.data.reading import array_reader

EXAMPLES, SIZE, CLASSES = 50_000, 32, 10  # of CIFAR-10
AUGMENT = ("pad_crop:4", "flip")


def contenders(batch_size: int, against: Sequence[str]) -> list[Contender]:
    """Ours with the images on the device and the peers that are asked for, see `resflax.bench.peers.PEERS`."""
    arrays, preprocessing = _images(), _preprocessing()
    shared = (preprocessing, batch_size, 0, AUGMENT)

    def on_host() -> Program:
        workers = os.cpu_count() or 1
        return _program(HostPipeline(*shared, read=array_reader(arrays), labels=arrays.labels, workers=workers))

    found = [Contender("resflax", lambda: _program(ResidentPipeline(*shared, arrays=arrays)))]
    if "host" in against:
        found.append(Contender("host", on_host, "keeps the images on the host and sends every batch to the device"))
    about = (arrays, preprocessing.mean, preprocessing.std, batch_size)
    if "torch-loader" in against:
        from resflax.bench import torch_loader

        found.append(torch_loader.contender(*about))
    if "tf.data" in against:
        from resflax.bench import tf_data_peer

        found.append(tf_data_peer.cifar(*about))
    return found


def _images() -> ImageArrays:
    """Random pixels: nothing here depends on what they show."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (EXAMPLES, SIZE, SIZE, 3), np.uint8)
    labels = generator.integers(0, CLASSES, EXAMPLES, np.int32)
    return ImageArrays(images, labels, tuple(map(str, range(CLASSES))))


def _preprocessing() -> Preprocessing:
    known = DATASETS["cifar10"]
    return Preprocessing((SIZE, SIZE), np.asarray(known.mean), np.asarray(known.std))


def _program(pipeline: Pipeline) -> Program:
    resident = jax.device_put(pipeline.resident)
    materialise = jax.jit(pipeline.materialise)
    return Program(_advance(pipeline, lambda batch: materialise(batch, resident)))


def _advance(pipeline: Pipeline, make: Callable[..., dict[str, jax.Array]]) -> Callable[[int], float]:
    batch_at, position = pipeline.training_batches(), itertools.count()

    def advance(steps: int) -> float:
        for _ in range(steps):
            last = make(batch_at(next(position)))
        return float(jax.block_until_ready(last)["image"].mean())

    return advance
