"""Loss functions, one value an example."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from resflax.types import Array


def cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
    """Softmax cross-entropy, optionally against smoothed labels (Szegedy et al. 2016, Sec. 7).

    The target is `1 - label_smoothing` on the label plus `label_smoothing / K` on every class.

    Args:
      logits: float[B, K].
      labels: int32[B], 0 <= label < K.
      label_smoothing: 0 <= value < 1.

    Returns:
      float[B].
    """
    log_probabilities = jax.nn.log_softmax(logits)
    label = jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)[:, 0]
    if not label_smoothing:
        return -label
    return -(1 - label_smoothing) * label - label_smoothing * jnp.mean(log_probabilities, axis=-1)
