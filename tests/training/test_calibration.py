"""The calibration error of an evaluation, summed on the devices, against one that looks at all examples at once."""

import jax.numpy as jnp
import numpy as np
import pytest

from resflax.results.scores import calibration
from resflax.training.metrics import BINS, evaluate_logits, zero_sums
from tests.training.test_evaluation import score, split


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("batch", [3, 8])
@pytest.mark.parametrize("scale", [0.02, 0.3, 128.0])
def test_it_is_that_of_all_examples_at_once(scale, batch, devices):
    arrays = split(203, seed=3)
    logits = arrays.images[:, 0, 0].astype(float) / 40 * scale
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    expected = calibration(probabilities, arrays.labels).expected_error
    assert score(arrays, batch, devices, scale).expected_calibration_error == pytest.approx(expected, rel=1e-5)


def test_by_hand():
    """Two sure and right, one half sure and wrong, one half sure and right, one under the mask."""
    sure, half = np.log([0.97, 0.01, 0.01, 0.01]), np.log([0.5, 0.2, 0.2, 0.1])
    logits = jnp.asarray([sure, sure, half, half, half])
    sums = evaluate_logits(logits, jnp.array([0, 0, 1, 0, 0]), jnp.array([True, True, True, True, False]))
    sums = zero_sums(4).merge(sums)
    np.testing.assert_array_equal(np.flatnonzero(sums.bin_count), [7, BINS - 1])
    np.testing.assert_array_equal(sums.bin_count[jnp.array([7, 14])], [2, 2])
    np.testing.assert_array_equal(sums.bin_correct[jnp.array([7, 14])], [1, 2])
    np.testing.assert_allclose(sums.bin_confidence[jnp.array([7, 14])], [1.0, 1.94], rtol=1e-6)
