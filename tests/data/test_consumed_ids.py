"""Which examples reach the compiled step: each once an epoch, on any number of hosts, and after any restart the same."""

import functools
import itertools

import numpy as np
import pytest

from resflax.data.arrays import ImageArrays
from resflax.data.pipeline import HostPipeline, ResidentPipeline
from resflax.data.preprocess import Preprocessing
from resflax.training.chunk import FusedChunk, StepwiseChunk
from resflax.training.steps import StepMetrics

N, BATCH, EPOCHS = 60, 8, 3
STEPS = EPOCHS * N // BATCH + 1  # the last one goes on into the fourth epoch
PLAIN = Preprocessing((1, 1), np.zeros(1), np.ones(1))
DONE = StepMetrics(np.float32(0), np.float32(0), np.float32(0), np.ones(1, bool))


def resident(rows):
    arrays = ImageArrays(np.arange(N, dtype=np.uint8).reshape(N, 1, 1, 1), np.zeros(N, np.int32), ("only",))
    return ResidentPipeline(PLAIN, BATCH, seed=3, arrays=arrays, rows=rows)


def host(rows, workers=2):
    def read(epoch, example):
        return np.full((1, 1, 1), example, np.uint8)

    return HostPipeline(PLAIN, BATCH, seed=3, read=read, labels=np.zeros(N, np.int32), workers=workers, rows=rows)


class Stepwise:
    """A chunk whose step notes the ids, and for the host path what is on the images."""

    def __init__(self, pipeline):
        self.seen = []
        self.chunk = StepwiseChunk(self._step, pipeline.training_batches(), {}, lambda batch: batch, STEPS)

    def _step(self, state, batch, resident):
        if "image" in batch:
            np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["id"])
        self.seen.append((batch["epoch"].tolist(), batch["id"].tolist()))
        return state, DONE


class Fused:
    """The same of a chunk that is one dispatch."""

    def __init__(self, pipeline):
        self.seen = []
        self.chunk = FusedChunk(self._steps, pipeline.training_batches(), {}, lambda batches: batches, STEPS)

    def _steps(self, state, batches, count, resident):
        self.seen += [(batches["epoch"][index].tolist(), batches["id"][index].tolist()) for index in range(int(count))]
        return state, StepMetrics(*(np.zeros(STEPS) for _ in range(3)), np.ones((STEPS, 1), bool))


FORMS = {
    "resident, a step a dispatch": (resident, Stepwise),
    "resident, a chunk a dispatch": (resident, Fused),
    "host, two threads": (host, Stepwise),
    "host, no thread": (functools.partial(host, workers=0), Stepwise),
}


def consumed(form, rows=None, start=0, cuts=()):
    """What the steps from `start` on see, a pair of lists a step, in chunks that end at `cuts`."""
    make, kind = FORMS[form]
    taker = kind(make(rows))
    for stop in (*(cut for cut in cuts if cut > start), STEPS):
        taker.chunk(None, start, stop)
        start = stop
    return taker.seen


@pytest.fixture(scope="module")
def unbroken():
    return consumed("resident, a step a dispatch")


@pytest.mark.parametrize("form", FORMS)
def test_each_example_is_seen_once_an_epoch(form, unbroken):
    seen = consumed(form)
    assert seen == unbroken
    pairs = [pair for epochs, ids in seen for pair in zip(epochs, ids, strict=True)]
    for epoch in range(EPOCHS):
        assert sorted(one for when, one in pairs if when == epoch) == list(range(N))
    assert len(pairs) == STEPS * BATCH


@pytest.mark.parametrize("form", FORMS)
def test_a_restart_at_any_step_sees_the_tail_of_the_unbroken_run(form, unbroken):
    rng = np.random.default_rng(0)
    for start in range(STEPS):
        cuts = sorted(rng.choice(np.arange(1, STEPS), 4, replace=False))
        assert consumed(form, start=start, cuts=cuts) == unbroken[start:], start


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("hosts", [2, 4, 8])
def test_the_hosts_slices_make_up_the_same_batches(form, hosts, unbroken):
    share = BATCH // hosts
    slices = [consumed(form, (index * share, (index + 1) * share), start=5, cuts=(11, 12)) for index in range(hosts)]
    for step, parts in enumerate(zip(*slices, strict=True), start=5):
        epochs, ids = (list(itertools.chain(*column)) for column in zip(*parts, strict=True))
        assert (epochs, ids) == unbroken[step]


def test_going_back_gives_the_same_batches_again(unbroken):
    """As after a roll-back, within one process, with a batch made ahead."""
    for form in FORMS:
        make, kind = FORMS[form]
        taker = kind(make(None))
        for start, stop in ((0, 9), (4, 6), (7, 9), (9, STEPS)):
            taker.chunk(None, start, stop)
        assert taker.seen == [*unbroken[:9], *unbroken[4:6], *unbroken[7:9], *unbroken[9:]]
