"""Scores of a classifier beside its accuracy: of each class, and of its confidence."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class ClassScores(NamedTuple):
    """Of K classes, as fractions; 0 where nothing was predicted, or there was nothing to predict."""

    precision: np.ndarray  # float64[K]: of the examples taken for the class, those that are
    recall: np.ndarray  # float64[K]: of the examples of the class, those taken for it
    f1: np.ndarray  # float64[K]: the harmonic mean of the two
    support: np.ndarray  # int[K]: examples of the class


def class_scores(confusion: np.ndarray) -> ClassScores:
    """Of a matrix of counts int[K, K], rows true and columns predicted classes."""
    correct, predicted, support = np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1)

    def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)

    return ClassScores(share(correct, predicted), share(correct, support), share(2 * correct, predicted + support), support)


class Calibration(NamedTuple):
    """How often a classifier is right where it says how sure it is; M bins of equal width, `edges[m] < p <= edges[m + 1]`."""

    edges: np.ndarray  # float64[M + 1], from 0 to 1
    counts: np.ndarray  # int[M]
    confidence: np.ndarray  # float64[M]: the mean of the predicted class's probability; NaN in an empty bin
    accuracy: np.ndarray  # float64[M]: the share that is right; NaN in an empty bin
    expected_error: float  # ECE: the mean, over all examples, of |accuracy - confidence| of their bins


def calibration(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> Calibration:
    """The reliability of predictions and their expected calibration error (Guo et al. 2017, Sec. 2, Eq. 3).

    Args:
      probabilities: float[N, K].
      labels: int[N].
      bins: the paper has 15.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, bins + 1)
    index = np.digitize(confidence, edges[1:-1], right=True)
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 of an empty bin
        mean = np.bincount(index, confidence, bins) / counts
        accuracy = np.bincount(index, right, bins) / counts
    error = float(np.nansum(counts * np.abs(accuracy - mean)) / len(labels))
    return Calibration(edges, counts, mean, accuracy, error)
