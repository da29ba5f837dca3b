"""Metrics as sums and counts, divided once at the end."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from resflax.training.losses import cross_entropy
from resflax.types import Array

BINS = 15  # of confidence, equally wide


class Sums(struct.PyTreeNode):
    """What a set of examples adds up to; `a.merge(b)` is the union's."""

    loss: Array  # shape=(), float32
    correct: Array  # shape=(), int32
    correct_top5: Array  # shape=(), int32
    count: Array  # shape=(), int32
    non_finite: Array  # shape=(), int32: examples with a logit that is not finite
    confusion: Array  # shape=(K, K), int32: [label, prediction]
    # by the probability of the prediction, in (0, 1/15], (1/15, 2/15], ...
    bin_count: Array  # shape=(BINS,), int32
    bin_correct: Array  # shape=(BINS,), int32
    bin_confidence: Array  # shape=(BINS,), float32: sum of the probabilities

    def merge(self, other: Sums) -> Sums:
        """The sums over both sets."""
        return Sums(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def zero_sums(num_classes: int) -> Sums:
    """The sums over no example."""
    zero = jnp.zeros((), jnp.int32)
    confusion, bins = jnp.zeros((num_classes, num_classes), jnp.int32), jnp.zeros(BINS, jnp.int32)
    return Sums(jnp.zeros((), jnp.float32), zero, zero, zero, zero, confusion, bins, bins, jnp.zeros(BINS, jnp.float32))


def evaluate_logits(logits: Array, labels: Array, mask: Array) -> Sums:
    """The sums over the rows of `logits` float[B, K] whose `mask` bool[B] is true; others have no influence, NaN or not.

    An example's prediction is its first largest logit. It counts for the top 5 if fewer than five logits are larger
    than the label's or equal to it at a lower index.
    """
    num_classes = logits.shape[-1]
    clean = jnp.where(mask[:, None], logits, 0)
    label_logit = jnp.take_along_axis(clean, labels[:, None], axis=-1)
    earlier = jnp.arange(num_classes) < labels[:, None]
    rank = jnp.sum((clean > label_logit) | ((clean == label_logit) & earlier), axis=-1)
    prediction = jnp.argmax(clean, axis=-1)
    confidence = jnp.max(jax.nn.softmax(clean), axis=-1)
    place = jnp.digitize(confidence, np.linspace(0, 1, BINS + 1)[1:-1], right=True)
    no_count, no_confidence = jnp.zeros(BINS, jnp.int32), jnp.zeros(BINS, jnp.float32)
    return Sums(
        loss=jnp.sum(jnp.where(mask, cross_entropy(clean, labels), 0), dtype=jnp.float32),
        correct=jnp.sum(mask & (rank == 0), dtype=jnp.int32),
        correct_top5=jnp.sum(mask & (rank < 5), dtype=jnp.int32),
        count=jnp.sum(mask, dtype=jnp.int32),
        non_finite=jnp.sum(mask & ~jnp.all(jnp.isfinite(clean), axis=-1), dtype=jnp.int32),
        confusion=jnp.zeros((num_classes, num_classes), jnp.int32).at[labels, prediction].add(mask.astype(jnp.int32)),
        bin_count=no_count.at[place].add(mask.astype(jnp.int32)),
        bin_correct=no_count.at[place].add((mask & (rank == 0)).astype(jnp.int32)),
        bin_confidence=no_confidence.at[place].add(jnp.where(mask, confidence, 0).astype(jnp.float32)),
    )
