"""Evaluation that counts every example exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from resflax.data.order import census
from resflax.errors import DataError
from resflax.training import distributed
from resflax.training.metrics import Sums
from resflax.training.moments import phase, reached
from resflax.training.steps import EvalStep
from resflax.types import Batch, Tree, Variables


@dataclass(frozen=True)
class Evaluation:
    """Scores over a whole split; accuracies are fractions."""

    loss: float
    accuracy: float
    top5_accuracy: float
    images_scored: int
    confusion: np.ndarray  # int32[K, K]: [label, prediction]
    expected_calibration_error: float  # Guo et al. 2017, Eq. 3, with 15 bins

    def scalars(self, split: str) -> dict[str, float]:
        """`{"test_loss": ..., "test_accuracy": ..., "test_top5_accuracy": ..., "test_expected_calibration_error": ...}`."""
        name = split.partition("[")[0]
        return {
            f"{name}_loss": self.loss,
            f"{name}_accuracy": self.accuracy,
            f"{name}_top5_accuracy": self.top5_accuracy,
            f"{name}_expected_calibration_error": self.expected_calibration_error,
        }


def evaluate(
    eval_step: EvalStep,
    variables: Variables,
    batches: Iterable[dict[str, np.ndarray]],
    resident: Batch,
    *,
    zero: Sums,
    num_examples: int,
    put: Callable[[Any], Any] = lambda batch: batch,
) -> Evaluation:
    """Scores `batches` and checks that they held the examples 0 .. `num_examples` - 1, each once.

    Sums stay on the device until the end, starting from `zero`; there is one division. The device counts the examples, the host
    their ids, over all processes.

    Raises:
      DataError: the split is empty, what was scored is not each example once, or a logit is not finite.
    """
    sums, seen = zero, 0
    with phase("evaluate"):
        for batch in batches:
            seen += census(batch["id"][batch["mask"]])
            sums = eval_step(sums, variables, put(batch), resident)
            reached("scored")
        total = jax.device_get(sums)
    count = int(total.count)
    if not count:
        raise DataError("the split to evaluate must hold at least one example, but it is empty; check the split's name")
    if count != num_examples:
        raise DataError(f"an evaluation must score each of the {num_examples} examples once, but it scored {count}")
    if distributed.total(seen % 2**64) != census(np.arange(num_examples)):
        raise DataError(
            f"an evaluation must score each of the {num_examples} examples once, but it lost some and scored others twice; "
            "check what makes its batches"
        )
    if total.non_finite:
        raise DataError(
            f"{int(total.non_finite)} of {count} examples have logits that are not finite, so there is no accuracy; "
            "the weights are unusable"
        )
    return Evaluation(
        loss=float(total.loss) / count,
        accuracy=int(total.correct) / count,
        top5_accuracy=int(total.correct_top5) / count,
        images_scored=count,
        confusion=total.confusion,
        # |accuracy - mean confidence| of a bin, weighed by its share of the examples
        expected_calibration_error=float(np.sum(np.abs(total.bin_correct - total.bin_confidence.astype(np.float64))) / count),
    )


def reestimate_batch_stats(
    stats_step: Callable[[Tree, Batch, Batch], Tree],
    params: Tree,
    batches: Iterable[dict[str, np.ndarray]],
    resident: Batch,
    put: Callable[[Any], Any] = lambda batch: batch,
) -> Tree:
    """Running statistics as the plain mean, over `batches`, of each batch's own; the weights stay fixed.

    The moving average of training lags behind the weights; this does not (the released models of He et al. 2015 were
    made so). `stats_step(params, batch, resident)` returns the `batch_stats` of one batch alone: those of a network
    whose normalisation has momentum 0.
    """
    total, count = None, 0
    with phase("evaluate"):
        for batch in batches:
            stats = stats_step(params, put(batch), resident)
            total = stats if total is None else jax.tree.map(lambda a, b: a + b, total, stats)
            count += 1
            reached("scored")
    return jax.tree.map(lambda x: x / count, total)
