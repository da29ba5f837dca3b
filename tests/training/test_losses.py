"""Losses against NumPy in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflax.training.losses import agreement, binary_cross_entropy, cross_entropy

RNG = np.random.default_rng(0)
LOGITS = (RNG.normal(size=(7, 5)) * 5).astype(np.float32)
LABELS = RNG.integers(0, 5, 7)
MIXED = (0.7 * np.eye(5)[LABELS] + 0.3 * np.eye(5)[LABELS[::-1]]).astype(np.float32)


def in_numpy(target, smoothing, threshold=None):
    logits, target = LOGITS.astype(np.float64), (1 - smoothing) * target + smoothing / 5
    if threshold is None:
        return -(target * (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))).sum(axis=1)
    p = 1 / (1 + np.exp(-logits))
    target = np.where(target > threshold, 1.0, 0.0) if threshold >= 0 else target
    return -(target * np.log(p) + (1 - target) * np.log1p(-p)).mean(axis=1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_targets_of_a_mixed_batch(smoothing):
    found = jax.jit(cross_entropy, static_argnums=2)(LOGITS, MIXED, smoothing)
    np.testing.assert_allclose(found, in_numpy(MIXED, smoothing), rtol=1e-5)
    np.testing.assert_allclose(cross_entropy(LOGITS, jnp.eye(5)[LABELS], smoothing), cross_entropy(LOGITS, LABELS, smoothing))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("threshold", [None, 0.2, 0.5])
def test_binary_cross_entropy(smoothing, threshold):
    for labels, target in ((LABELS, np.eye(5)[LABELS]), (MIXED, MIXED)):
        found = binary_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(labels), smoothing, threshold)
        expected = in_numpy(target, smoothing, -1 if threshold is None else threshold)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_binary_cross_entropy_of_large_logits_is_finite():
    value, gradient = jax.value_and_grad(lambda x: binary_cross_entropy(x, jnp.array([0]))[0])(jnp.array([[-1e4, 1e4]]))
    assert float(value) == pytest.approx(1e4)
    np.testing.assert_allclose(gradient, [[-0.5, 0.5]])


def test_agreement_is_accuracy_and_the_labels_share_of_it():
    prediction = LOGITS.argmax(axis=1)
    np.testing.assert_array_equal(agreement(LOGITS, LABELS), prediction == LABELS)
    np.testing.assert_array_equal(agreement(LOGITS, jnp.asarray(MIXED)), MIXED[np.arange(7), prediction])
