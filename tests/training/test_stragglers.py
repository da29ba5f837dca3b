import numpy as np

from resflax.training.stragglers import CHUNKS, Stragglers


def say(stragglers, *host_seconds, seconds=1.0, steps=10):
    return stragglers.note(np.array(host_seconds, np.float32), seconds, steps)


def test_who_is_slow_for_several_chunks_is_named_once():
    stragglers = Stragglers()
    said = [say(stragglers, 0.1, 0.1, 0.5, 0.1) for _ in range(CHUNKS + 5)]
    assert said[: CHUNKS - 1] == [None] * (CHUNKS - 1)
    assert said[CHUNKS - 1] == "slow hosts: to make the batch of a step takes process 2 50 ms, where 10 ms are usual"
    assert said[CHUNKS:] == [None] * 5


def test_one_of_two_can_be_slow():
    stragglers = Stragglers()
    assert "process 0 90 ms, where 10 ms" in [say(stragglers, 0.9, 0.1) for _ in range(CHUNKS)][-1]


def test_what_is_slow_once_alike_or_in_vain_is_not_named():
    stragglers = Stragglers()
    for _ in range(CHUNKS):
        assert say(stragglers, 0.1, 0.9) is None  # now and then
        assert say(stragglers, 0.1, 0.1) is None
    for _ in range(2 * CHUNKS):
        assert say(stragglers, 0.8, 0.9) is None  # hardly slower
    for _ in range(2 * CHUNKS):
        assert say(stragglers, 0.001, 0.05) is None  # much slower, but of little account in a second
    for _ in range(2 * CHUNKS):
        assert say(stragglers, 0.9) is None  # alone
