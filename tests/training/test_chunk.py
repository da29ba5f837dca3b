"""Batches are made and put ahead of the device, each once, none beyond the end; an error waits for its batch."""

import numpy as np
import pytest

from resflax.errors import InputError
from resflax.training.chunk import StepwiseChunk
from resflax.training.steps import StepMetrics

BAD = 6


@pytest.fixture
def chunk():
    """Counts its steps; step `BAD` has no batch."""
    events = []

    def host_batch(step):
        if step == BAD:
            raise InputError(f"no image for step {step}")
        events.append(("made", step))
        return {"step": np.int32(step)}

    def step(state, batch, resident):
        assert batch["step"] == state
        events.append(("trained", int(state)))
        return state + 1, StepMetrics(np.float32(state), np.float32(0), np.float32(1), np.array([True]))

    made = StepwiseChunk(step, host_batch, {}, lambda batch: batch, total_steps=8)
    made.events = events
    return made


def test_the_first_batch_of_the_next_chunk_is_put_before_this_one_is_waited_for(chunk):
    state, reports = chunk(0, 0, 2)
    assert chunk.events == [("made", 0), ("trained", 0), ("made", 1), ("trained", 1), ("made", 2)]
    state, reports = chunk(state, 2, 4)
    assert reports.loss.tolist() == [2, 3]
    assert chunk.events[5:] == [("trained", 2), ("made", 3), ("trained", 3), ("made", 4)]


def test_a_jump_makes_its_own_batches(chunk):
    chunk(0, 0, 1)
    assert chunk(4, 4, 5)[1].loss.tolist() == [4]
    assert [step for what, step in chunk.events if what == "made"] == [0, 1, 4, 5]


def test_an_error_is_raised_by_the_chunk_whose_batch_it_is(chunk):
    state, _ = chunk(4, 4, BAD)
    with pytest.raises(InputError, match="no image for step 6"):
        chunk(state, BAD, 8)


def test_nothing_is_made_beyond_the_end(chunk):
    chunk(7, 7, 8)
    assert [step for what, step in chunk.events if what == "made"] == [7]
