"""Repeated augmentation: which examples are in a batch, how often, and that each time is another one."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from resflax.build import build
from resflax.config import Config, DataConfig, ModelConfig
from resflax.data.order import order, training_batch

SEED, COUNT = 3, 10


def listed(repeats, steps, batch_size):
    """A loop over permutations, each example `repeats` times in a row: [(id, repeat, how often it was seen before)]."""
    seen, found = dict.fromkeys(range(COUNT), 0), []
    for epoch in itertools.count():
        for one in order(SEED, epoch, COUNT).tolist():
            for repeat in range(repeats):
                found.append((one, repeat, seen[one]))
                seen[one] += 1
                if len(found) == steps * batch_size:
                    return found


@pytest.mark.parametrize(("repeats", "batch_size"), [(1, 4), (3, 6), (3, 8), (2, 7), (4, 3)])
def test_batches_are_the_listed_ones(repeats, batch_size):
    everything = listed(repeats, 9, batch_size)
    for step in range(9):
        batch = training_batch(SEED, step, batch_size, COUNT, repeats)
        expected = sorted(everything[step * batch_size : (step + 1) * batch_size], key=lambda one: one[1])
        assert list(zip(batch["id"].tolist(), batch["epoch"].tolist(), strict=True)) == [(i, n) for i, _, n in expected]
        assert batch["mask"].all()


def test_once_is_what_it_was():
    for step in range(5):
        one, other = training_batch(0, step, 7, COUNT), training_batch(0, step, 7, COUNT, 1)
        assert all((one[name] == other[name]).all() for name in one)


def make_run(**changes):
    data = DataConfig(name="digits", train_split="train[:50]", batch_size=12, repeats=3, augment=("pad_crop:2",), **changes)
    return build(Config(total_steps=4, data=data, model=ModelConfig("cifar_resnet8", {"width": 4})), jax.devices()[:1])


@pytest.mark.parametrize("form", ["resident", "host"])
def test_each_time_is_augmented_anew_and_alike_on_any_number_of_hosts(form):
    run = make_run(input=form)
    batch = run.train.training_batches()(2)
    made = run.train.materialise(batch, run.train.resident)
    images, ids = np.asarray(made["image"]), np.asarray(made["id"])
    one, other = (np.flatnonzero(ids == i) for i in np.unique(ids)[:2])
    assert len(one) == len(other) == 3
    assert len({images[row].tobytes() for row in (*one, *other)}) >= 5  # of 25 places two may be the same
    for hosts in (2, 4):
        parts = []
        for host in range(hosts):
            rows = (host * 12 // hosts, (host + 1) * 12 // hosts)
            part = dataclasses.replace(run.train, rows=rows)
            parts.append(part.materialise(part.training_batches()(2), part.resident)["image"])
        np.testing.assert_array_equal(np.concatenate(parts), images)
