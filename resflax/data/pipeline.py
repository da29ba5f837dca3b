"""The contract between data and steps, and its resident form.

A pipeline gives host batches `{id, epoch, mask}` starting at any step, and a pure `materialise(host_batch, resident)`
that runs inside `jit` and makes `{image, label, mask, id}`. In the resident form the uint8 data set lives in accelerator
memory, passed as an argument and never closed over, and only ids cross the bus.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from resflax.data.arrays import ImageArrays
from resflax.data.augment import make_augmentation
from resflax.data.order import evaluation_batches, training_batch
from resflax.data.preprocess import Preprocessing
from resflax.prng import stream_key
from resflax.types import Array, Batch, DType


@dataclass(frozen=True)
class ResidentPipeline:
    """One split, held whole. `augment` and `seed` matter only for training batches."""

    arrays: ImageArrays
    preprocessing: Preprocessing
    batch_size: int  # global
    seed: int = 0
    augment: tuple[str, ...] = ()
    dtype: DType = jnp.float32

    @property
    def resident(self) -> dict[str, np.ndarray]:
        """What is to be put on the devices once: `image` uint8[N, H, W, C], `label` int32[N]."""
        return {"image": self.arrays.images, "label": self.arrays.labels}

    def training_batch(self, step: int) -> dict[str, np.ndarray]:
        """Global batch `step`, see `resflax.data.order`."""
        return training_batch(self.seed, step, self.batch_size, len(self.arrays))

    def evaluation_batches(self) -> Iterator[dict[str, np.ndarray]]:
        """Every example once, the last batch filled up under the mask."""
        return evaluation_batches(len(self.arrays), self.batch_size)

    def materialise(self, batch: Batch, resident: Batch) -> dict[str, Array]:
        """`{image: float[B, H, W, C], label: int32[B], mask: bool[B], id: int32[B]}`; pure, for use inside `jit`.

        The key of an example's augmentation depends on (seed, epoch, id) alone, so it is the same in any batch, on any
        device, after any restart.
        """
        images = self.preprocessing(resident["image"][batch["id"]], self.dtype)
        if self.augment:
            base = stream_key(self.seed, "augment")
            keys = jax.vmap(lambda epoch, one: jax.random.fold_in(jax.random.fold_in(base, epoch), one))(
                batch["epoch"], batch["id"]
            )
            images = make_augmentation(self.augment)(keys, images)
        return {"image": images, "label": resident["label"][batch["id"]], "mask": batch["mask"], "id": batch["id"]}
