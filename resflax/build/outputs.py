"""What a trained network says of each example of a split, and what it says it from."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resflax.build.parts import program_options
from resflax.build.trained import Trained
from resflax.data.views import average_over_views
from resflax.errors import DataError
from resflax.models.intermediates import PRE_LOGITS, intermediates
from resflax.training import sharding
from resflax.types import Array, Batch, Variables

IN_MEMORY = 512 * 2**20  # bytes; a larger array is kept in a file


class Outputs(NamedTuple):
    """Of N examples, in the order of the split."""

    ids: np.ndarray  # int32[N], within the split
    labels: np.ndarray  # int32[N]
    logits: np.ndarray  # float32[N, K]
    features: np.ndarray  # float32[N, C]: what the classifier is given


def output_batches(trained: Trained) -> Iterator[Outputs]:
    """One pass over the split as `evaluate` makes it, a batch at a time: each example once, averaged over `data.eval_views`.

    Features are averaged over the views as well, so that the classifier makes the logits of them.

    Raises `DataError` where a logit is not finite.
    """
    config, model, pipeline, mesh = trained.config, trained.model, trained.pipeline, trained.mesh
    image = jax.ShapeDtypeStruct((1, *pipeline.preprocessing.image_size, len(pipeline.preprocessing.std)), jnp.float32)
    width = jax.eval_shape(functools.partial(model.apply, train=False), trained.variables, image).shape[-1]  # of the logits
    everywhere = sharding.replicated(mesh)
    resident = sharding.put(pipeline.resident, everywhere)

    def logits_and_features(variables: Variables, images: Array) -> Array:
        logits, found = intermediates(model, variables, images, [PRE_LOGITS])
        return jnp.concatenate([one.astype(jnp.float32) for one in (logits, found[PRE_LOGITS])], axis=-1)

    def step(variables: Variables, batch: Batch, resident: Batch) -> dict[str, Array]:
        examples = sharding.shard_batch(pipeline.materialise(batch, resident), mesh)
        network = functools.partial(logits_and_features, variables)
        both = average_over_views(network, examples.pop("image"), config.data.eval_views)
        return {**examples, "logits": both[:, :width], "features": both[:, width:]}

    jitted = jax.jit(step, out_shardings=everywhere, compiler_options=program_options(config.precision, mesh))
    put = functools.partial(sharding.put_rows, sharding=sharding.batch_sharded(mesh))
    for host_batch in pipeline.evaluation_batches():
        found = jax.device_get(jitted(trained.variables, put(host_batch), resident))
        rows = np.flatnonzero(found["mask"])
        made = Outputs(*(found[name][rows] for name in ("id", "label", "logits", "features")))
        wrong = np.flatnonzero(~np.isfinite(made.logits).all(axis=1))
        if wrong.size:
            raise DataError(
                f"the logits of every example must be finite, but those of example {made.ids[wrong[0]]} of split "
                f"{trained.split} are not; the weights are unusable"
            )
        yield made


def split_outputs(trained: Trained) -> Outputs:
    """The outputs of the whole split; an array of more than 512 MiB lies in a temporary file that vanishes with it.

    Raises `DataError` where a logit is not finite or an example was not seen exactly once.
    """
    count, seen = len(trained.pipeline), 0
    whole: Outputs | None = None
    for batch in output_batches(trained):
        if whole is None:
            whole = Outputs(*(_allocate((count, *part.shape[1:]), part.dtype) for part in batch))
        for target, part in zip(whole, batch, strict=True):
            target[seen : seen + len(part)] = part
        seen += len(batch.ids)
    if whole is None or seen != count or not np.array_equal(np.sort(whole.ids), np.arange(count)):
        raise DataError(f"each of the {count} examples of split {trained.split} must be seen once, but {seen} were")
    return whole


def _allocate(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    if np.prod(shape, dtype=np.int64) * np.dtype(dtype).itemsize <= IN_MEMORY:
        return np.empty(shape, dtype)
    return np.memmap(tempfile.TemporaryFile(), dtype, "w+", shape=shape)
