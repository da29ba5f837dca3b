"""Loss functions, one value an example.

Labels are int32[B], 0 <= label < K, or the probabilities float[B, K] of a mixed batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from resflax.types import Array


def cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
    """Softmax cross-entropy, optionally against smoothed labels (Szegedy et al. 2016, Sec. 7).

    The target is `1 - label_smoothing` times the label plus `label_smoothing / K` on every class.

    Args:
      logits: float[B, K].
      labels: int32[B] or float[B, K].
      label_smoothing: 0 <= value < 1.

    Returns:
      float[B].
    """
    log_probabilities = jax.nn.log_softmax(logits)
    if labels.ndim == 1:
        label = jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)[:, 0]
    else:
        label = jnp.sum(labels * log_probabilities, axis=-1)
    if not label_smoothing:
        return -label
    return -(1 - label_smoothing) * label - label_smoothing * jnp.mean(log_probabilities, axis=-1)


def binary_cross_entropy(
    logits: Array, labels: Array, label_smoothing: float = 0.0, target_threshold: float | None = None
) -> Array:
    """Sigmoid cross-entropy, the mean over the classes, each of which is there or not (Wightman et al. 2021, Sec. 3.2).

    Args:
      logits: float[B, K].
      labels: int32[B] or float[B, K].
      label_smoothing: as in `cross_entropy`.
      target_threshold: the target of a class is 1 where it is above this, and else 0, so that both labels of a mixed
        image count in full; None: it stays as it is.

    Returns:
      float[B].
    """
    num_classes = logits.shape[-1]
    target = labels if labels.ndim == 2 else jax.nn.one_hot(labels, num_classes, dtype=logits.dtype)
    target = (1 - label_smoothing) * target + label_smoothing / num_classes
    if target_threshold is not None:
        target = (target > target_threshold).astype(logits.dtype)
    terms = target * jax.nn.log_sigmoid(logits) + (1 - target) * jax.nn.log_sigmoid(-logits)
    return -jnp.mean(terms, axis=-1)


def agreement(logits: Array, labels: Array) -> Array:
    """What the labels give the class of the largest logit: float32[B], 0 or 1 where no labels are mixed.

    Args:
      logits: float[B, K].
      labels: int32[B] or float[B, K].
    """
    prediction = jnp.argmax(logits, axis=-1)
    if labels.ndim == 1:
        return (prediction == labels).astype(jnp.float32)
    return jnp.take_along_axis(labels, prediction[:, None], axis=-1)[:, 0]
