"""How well a trained network does on corrupted images."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from resflax.build.parts import program_options
from resflax.build.trained import Trained
from resflax.data.corruptions import SEVERITIES
from resflax.data.views import average_over_views
from resflax.training import sharding
from resflax.training.evaluation import Evaluation, evaluate
from resflax.training.metrics import zero_sums
from resflax.training.steps import make_eval_step


def evaluate_shift(trained: Trained, names: Sequence[str]) -> Iterator[tuple[str, int, Evaluation]]:
    """Scores the split under each corruption and severity; uint8 images are corrupted as the network's data set has them.

    Yields `(name, severity, evaluation)`. All severities of a corruption share one compiled program.
    """
    mesh, everywhere = trained.mesh, sharding.replicated(trained.mesh)
    shard = functools.partial(sharding.shard_batch, mesh=mesh)
    score = functools.partial(average_over_views, views=trained.config.data.eval_views)
    put = functools.partial(sharding.put_rows, sharding=sharding.batch_sharded(mesh))
    zero = sharding.put(zero_sums(len(trained.images.class_names)), everywhere)
    resident = sharding.put(trained.pipeline.resident, everywhere)
    options = program_options(trained.config.precision, mesh)
    for name in names:
        pipeline: Any = dataclasses.replace(trained.pipeline, corruption=name)
        step = jax.jit(
            make_eval_step(trained.model, pipeline.materialise, shard, score),
            out_shardings=everywhere,
            compiler_options=options,
        )
        for severity in SEVERITIES:
            at = {**resident, "severity": sharding.put(np.int32(severity), everywhere)}
            batches = pipeline.evaluation_batches()
            yield (
                name,
                severity,
                evaluate(step, trained.variables, batches, at, zero=zero, num_examples=len(pipeline), put=put),
            )
