"""The contract between data and steps, in two forms.

A pipeline gives host batches starting at any step, and a pure `materialise(host_batch, resident)` that runs inside `jit` and
makes `{image, label, mask, id}`. *Resident*: the uint8 data set lives in accelerator memory, passed as an argument and
never closed over; a host batch is `{id, epoch, mask}` and only ids cross the bus. *Host*: worker threads decode, crop and
resize to uint8, and a host batch holds `{..., image, label}` too. Both normalise and augment on the device by the same
code, so that a data set that fits both gives bit-equal batches. The seed is an argument too: all seeds of an experiment
share one compiled program.

With several hosts a pipeline gives each its contiguous `rows` of the global batch.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resflax.data.arrays import ImageArrays
from resflax.data.augment import make_augmentation, make_draws
from resflax.data.corruptions import corrupt
from resflax.data.order import evaluation_batches, training_batch
from resflax.data.preprocess import Preprocessing
from resflax.data.reading import Gather, Read
from resflax.prng import stream_key
from resflax.types import Array, Batch, DType

HostBatch = dict[str, np.ndarray]
AHEAD = 2  # batches that are decoded while the device works on another


@dataclass(frozen=True)
class _Settings:
    """What both forms share. `augment`, `repeats` and `seed` matter only for training batches."""

    preprocessing: Preprocessing
    batch_size: int  # global
    seed: int = 0
    augment: tuple[str, ...] = ()  # on the device
    dtype: DType = jnp.float32
    repeats: int = field(default=1, kw_only=True)  # how often in a row a training example is taken
    rows: tuple[int, int] | None = field(default=None, kw_only=True)  # start and stop in a global batch; None: all
    corruption: str | None = field(default=None, kw_only=True)  # of `corruptions`, of the severity `resident["severity"]`

    def finish(self, images: Array, labels: Array, batch: Batch, resident: Batch) -> dict[str, Array]:
        """`{image: float[B, H, W, C], label: int32[B], mask: bool[B], id: int32[B]}` from uint8[B, H', W', C].

        The key of an example's augmentation depends on (seed, epoch, id) alone, so it is the same in any batch, on any
        device, after any restart.
        """
        if self.corruption is not None:
            images = corrupt(self.corruption, resident["seed"], batch["id"], images, resident["severity"])
        images = self.preprocessing.scale(images, self.dtype)
        if self.augment:
            draws = make_draws(stream_key(resident["seed"], "augment"), batch["epoch"], batch["id"])
            images = make_augmentation(self.augment, self.preprocessing.normalise)(draws, images)
        else:
            images = self.preprocessing.normalise(images)
        return {"image": images, "label": labels, "mask": batch["mask"], "id": batch["id"]}

    def local(self, batch: HostBatch) -> HostBatch:
        """This host's rows of a global batch."""
        return {name: value[slice(*(self.rows or (None,)))] for name, value in batch.items()}


@dataclass(frozen=True)
class ResidentPipeline(_Settings):
    """One split, held whole."""

    arrays: ImageArrays = field(kw_only=True)

    def __len__(self) -> int:
        return len(self.arrays)

    @property
    def resident(self) -> dict[str, np.ndarray]:
        """What is to be put on the devices once: `seed` uint32[], `image` uint8[N, H, W, C], `label` int32[N]."""
        return {"seed": np.array(self.seed, np.uint32), "image": self.arrays.images, "label": self.arrays.labels}

    def training_batches(self) -> Callable[[int], HostBatch]:
        """`step -> this host's rows of global batch step`, see `resflax.data.order`."""
        return lambda step: self.local(training_batch(self.seed, step, self.batch_size, len(self), self.repeats))

    def evaluation_batches(self) -> Iterator[HostBatch]:
        """Every example once, the last batch filled up under the mask."""
        return map(self.local, evaluation_batches(len(self), self.batch_size))

    def materialise(self, batch: Batch, resident: Batch) -> dict[str, Array]:
        """See `_Settings.finish`; pure, for use inside `jit`."""
        return self.finish(resident["image"][batch["id"]], resident["label"][batch["id"]], batch, resident)


@dataclass(frozen=True)
class HostPipeline(_Settings):
    """One split whose images are made on the host when they are needed."""

    read: Read | Gather = field(kw_only=True)  # (epoch, id) -> uint8[(V,) H, W, C], a pure function; or of all ids at once
    crops: int | None = field(default=None, kw_only=True)  # V: how many views of an image are read; None: no such axis
    labels: np.ndarray = field(kw_only=True)  # int32[N]
    workers: int = field(default=0, kw_only=True)  # threads; 0: the calling one

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def resident(self) -> dict[str, np.ndarray]:
        """What is to be put on the devices once: `seed` uint32[]."""
        return {"seed": np.array(self.seed, np.uint32)}

    def training_batches(self) -> Callable[[int], HostBatch]:
        """`step -> this host's rows of global batch step`; the following batches are made ahead by the workers."""
        settings = {"batch_size": self.batch_size, "num_examples": len(self), "repeats": self.repeats}
        return _Ahead(self, lambda step: self.local(training_batch(self.seed, step, **settings)))

    def evaluation_batches(self) -> Iterator[HostBatch]:
        """Every example once, the last batch filled up under the mask."""
        batches = map(self.local, evaluation_batches(len(self), self.batch_size))
        with _Workers(self.workers) as workers:
            pending: collections.deque[Any] = collections.deque()
            for batch in batches:
                pending.append(self.start(workers, batch))
                if len(pending) > AHEAD:
                    yield pending.popleft()()
            while pending:
                yield pending.popleft()()

    def start(self, workers: _Workers, batch: HostBatch) -> Callable[[], HostBatch]:
        """Begins to make the images of `batch`; the result waits for them. Rows under the mask are left black."""
        images = self._gathered(self.read, batch) if isinstance(self.read, Gather) else self._each(self.read, workers, batch)
        labels = np.where(batch["mask"], self.labels[batch["id"]], 0).astype(np.int32)
        return lambda: {**batch, "image": images(), "label": labels}

    def _gathered(self, read: Gather, batch: HostBatch) -> Callable[[], np.ndarray]:
        def finish() -> np.ndarray:
            made = read(batch["id"])
            made[~batch["mask"]] = 0
            return made

        return finish

    def _each(self, read: Read, workers: _Workers, batch: HostBatch) -> Callable[[], np.ndarray]:
        rows = np.flatnonzero(batch["mask"])
        images = workers.map(read, batch["epoch"][rows].tolist(), batch["id"][rows].tolist())

        def finish() -> np.ndarray:
            made = None
            for row, image in zip(rows, images, strict=True):
                if made is None:
                    made = np.zeros((len(batch["id"]), *image.shape), np.uint8)
                made[row] = image
            if made is None:
                shape = (*self.preprocessing.image_size, len(self.preprocessing.std))
                views = () if self.crops is None else (self.crops,)
                made = np.zeros((len(batch["id"]), *views, *shape), np.uint8)
            return made

        return finish

    def materialise(self, batch: Batch, resident: Batch) -> dict[str, Array]:
        """See `_Settings.finish`; pure, for use inside `jit`. What is read as several views, float[B, V, H, W, C], stays so."""

        def finish(images: Array) -> dict[str, Array]:
            return self.finish(images, batch["label"], batch, resident)

        if self.crops is None:
            return finish(batch["image"])
        return jax.vmap(finish, 1, {"image": 1, "label": None, "mask": None, "id": None})(batch["image"])


Pipeline = ResidentPipeline | HostPipeline


def examples(pipeline: Pipeline, ids: np.ndarray) -> dict[str, Array]:
    """The examples of any ids, int[B], of an evaluation, outside of its batches; see `_Settings.finish`."""
    ids = np.asarray(ids, np.int32)
    batch = {"id": ids, "epoch": np.zeros_like(ids), "mask": np.ones(len(ids), bool)}
    if isinstance(pipeline, HostPipeline):
        with _Workers(pipeline.workers) as workers:
            return pipeline.materialise(pipeline.start(workers, batch)(), pipeline.resident)
    chosen = {"image": pipeline.arrays.images[ids], "label": pipeline.arrays.labels[ids]}
    made = pipeline.materialise({**batch, "id": np.arange(len(ids))}, {**pipeline.resident, **chosen})
    return {**made, "id": jnp.asarray(ids)}


class _Workers:
    """Threads that run a function over examples; decoding and resizing release the interpreter's lock."""

    def __init__(self, count: int):
        self._pool = futures.ThreadPoolExecutor(count, "decode") if count else None

    def map(self, function: Callable[[int, int], np.ndarray], epochs: list[int], ids: list[int]) -> Iterable[np.ndarray]:
        """The results in order; an exception is raised where its result is taken."""
        return self._pool.map(function, epochs, ids) if self._pool else map(function, epochs, ids)

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)


class _Ahead:
    """Makes batches in the order of steps, some before they are asked for; a jump to another step starts anew."""

    def __init__(self, pipeline: HostPipeline, local_batch: Callable[[int], HostBatch]):
        self._pipeline, self._local_batch = pipeline, local_batch
        self._workers = _Workers(pipeline.workers)
        self._pending: dict[int, Callable[[], HostBatch]] = {}

    def __call__(self, step: int) -> HostBatch:
        ahead = AHEAD if self._pipeline.workers else 0
        self._pending = {one: batch for one, batch in self._pending.items() if step <= one <= step + ahead}
        for one in range(step, step + ahead + 1):
            if one not in self._pending:
                self._pending[one] = self._pipeline.start(self._workers, self._local_batch(one))
        return self._pending.pop(step)()
