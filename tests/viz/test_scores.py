import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from resflax.results.scores import calibration, class_scores


def test_scores_of_the_classes_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 7, 500), rng.integers(0, 8, 500)  # class 7 has no example
    labels[labels == 3] = 4  # and class 3 is only ever predicted
    predictions[predictions == 5] = 6  # class 5 never is
    found = class_scores(confusion_matrix(labels, predictions, labels=range(8)))
    expected = precision_recall_fscore_support(labels, predictions, labels=range(8), zero_division=0)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def expected_error(confidence, right, bins):
    """Guo et al. 2017, Eq. 3, as it is written."""
    total = 0.0
    for index in range(bins):
        members = [n for n, value in enumerate(confidence) if index / bins < value <= (index + 1) / bins]
        if members:
            accuracy = sum(right[n] for n in members) / len(members)
            mean = sum(confidence[n] for n in members) / len(members)
            total += len(members) / len(confidence) * abs(accuracy - mean)
    return total


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_calibration_error_is_that_of_the_paper(bins):
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet(np.full(4, 0.4), 300)
    labels = rng.integers(0, 4, 300)
    found = calibration(probabilities, labels, bins)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    assert found.expected_error == pytest.approx(expected_error(confidence, right, bins), abs=1e-12)
    assert found.counts.sum() == 300
    assert (np.isnan(found.accuracy) == (found.counts == 0)).all()
    assert (found.counts[: bins // 4] == 0).all()  # of four classes none can be less sure than a quarter


def test_a_network_that_is_as_often_right_as_it_says_has_no_error():
    probabilities = np.tile([0.75, 0.25], (8, 1))
    found = calibration(probabilities, np.array([0, 0, 0, 1] * 2))
    assert found.expected_error == 0
    assert found.counts.tolist() == [0] * 11 + [8] + [0] * 3
    assert calibration(np.tile([1.0, 0.0], (4, 1)), np.array([1, 1, 1, 1])).expected_error == 1
