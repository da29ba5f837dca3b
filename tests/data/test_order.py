import hashlib

import numpy as np
import pytest

from resflax.data.order import census, evaluation_batches, order, training_batch


@pytest.mark.parametrize("n", [1, 2, 7, 60, 1437])
def test_order_is_a_permutation_that_differs_by_epoch_and_seed(n):
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (2**32 - 1, 10**6)):
        np.testing.assert_array_equal(np.sort(order(seed, epoch, n)), np.arange(n))
    if n > 10:
        orders = {order(seed, epoch, n).tobytes() for seed in range(8) for epoch in range(8)}
        assert len(orders) == 64


def test_order_never_changes():
    # Records are replayed by their seed: these digests hold in every version and on every platform.
    assert order(0, 0, 10).tolist() == [7, 4, 8, 6, 0, 2, 5, 1, 3, 9]
    content = b"".join(order(seed, epoch, 1437).astype("<i4").tobytes() for seed in range(3) for epoch in range(3))
    assert hashlib.sha256(content).hexdigest()[:16] == "dd31912a43ab5d74"


def test_positions_are_uniform():
    # The mean position of an id over many epochs, in units of its standard error.
    n, epochs = 50, 4000
    position = np.zeros(n)
    for epoch in range(epochs):
        position[order(0, epoch, n)] += np.arange(n)
    z = (position / epochs - (n - 1) / 2) / np.sqrt((n**2 - 1) / 12 / epochs)
    assert np.abs(z).max() < 4


@pytest.mark.parametrize(("n", "batch"), [(60, 8), (7, 8), (5, 16), (64, 64)])
def test_batches_are_slices_of_the_concatenated_epochs(n, batch):
    steps = 3 * n // batch + 2
    stream = np.concatenate([order(5, epoch, n) for epoch in range(steps * batch // n + 1)])
    for step in range(steps):
        got = training_batch(5, step, batch, n)
        np.testing.assert_array_equal(got["id"], stream[step * batch : (step + 1) * batch])
        np.testing.assert_array_equal(got["epoch"], np.arange(step * batch, (step + 1) * batch) // n)
        assert got["mask"].all()
        assert (got["id"].dtype, got["epoch"].dtype) == (np.int32, np.int32)


@pytest.mark.parametrize("n", range(12))
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_evaluation_sees_each_example_once(n, batch):
    batches = list(evaluation_batches(n, batch))
    assert all(len(one["id"]) == batch for one in batches)
    seen = np.concatenate([one["id"][one["mask"]] for one in batches]) if batches else np.array([])
    np.testing.assert_array_equal(seen, np.arange(n))


def test_a_census_tells_which_ids_there_are_and_how_often():
    ids = np.arange(1000, dtype=np.int32)
    whole = census(ids)
    assert census(ids[order(0, 0, 1000)]) == whole
    assert (census(ids[:300]) + census(ids[300:])) % 2**64 == whole
    assert census(ids[:0]) == 0
    for lost in range(1000):
        for doubled in (0, 1, 500, 999):
            if lost != doubled:
                assert census(np.where(ids == lost, doubled, ids)) != whole
    # What a plain sum and an exclusive or would both miss: 1 + 2 + 12 = 4 + 8 + 3 and 1 ^ 2 ^ 12 = 4 ^ 8 ^ 3.
    assert census(np.array([1, 2, 12])) != census(np.array([4, 8, 3]))
