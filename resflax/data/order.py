"""Which example is seen when: a pure function of the seed and the step, computed on the host.

Global batch s holds positions s*B .. (s+1)*B-1 of the concatenated epochs, each epoch a permutation of all examples.
Nothing is carried from step to step, so a run resumes from its step number alone, and any number of hosts sees the same
global batch, each its contiguous slice.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014, Fig. 17): a bijection of uint64 that scatters its argument."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@functools.lru_cache(maxsize=4)
def order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """A permutation of 0..num_examples-1, int32[num_examples]; the same on every platform and in every version.

    Examples are sorted by a hash of (seed, epoch, id). NumPy's own generators promise no stable permutation.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):  # the arithmetic is modulo 2^64
        base = _mix(np.array([seed], np.uint64) + golden)
        base = _mix(base ^ (np.array([epoch], np.uint64) * golden + np.uint64(1)))
        keys = _mix(base + np.arange(num_examples, dtype=np.uint64) * golden)
    permutation = np.argsort(keys, kind="stable").astype(np.int32)
    permutation.flags.writeable = False  # it is cached
    return permutation


def uniforms(seed: int, epoch: int, example: int, count: int) -> np.ndarray:
    """float64[count] in 0 <= u < 1, a pure function of its arguments: the randomness of host-side augmentation."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        base = np.zeros(1, np.uint64)
        for value in (seed, epoch, example):
            base = _mix(base * golden + np.array([value], np.uint64) + golden)
        bits = _mix(base + np.arange(1, count + 1, dtype=np.uint64) * golden)
    return (bits >> np.uint64(11)) * 2.0**-53


def training_batch(seed: int, step: int, batch_size: int, num_examples: int, repeats: int = 1) -> dict[str, np.ndarray]:
    """Global batch `step`: `id` int32[B], `epoch` int32[B], `mask` bool[B] (all true). It may straddle epochs.

    With `repeats` each example of a permutation is taken so many times in a row (Hoffer et al. 2020, Sec. 3). Within the batch
    the first times come first, then the second: what is made of one image lies far apart, on other devices and in other groups
    of statistics. `epoch` then counts how many times the example was seen before, so that each time it is augmented anew.
    """
    position = step * batch_size + np.arange(batch_size, dtype=np.int64)
    drawn, repeat = np.divmod(position, repeats)
    rows = np.argsort(repeat, kind="stable")
    drawn, repeat = drawn[rows], repeat[rows]
    epoch, within = np.divmod(drawn, num_examples)
    ids = np.empty(batch_size, np.int32)
    for one in np.unique(epoch):
        here = epoch == one
        ids[here] = order(seed, int(one), num_examples)[within[here]]
    return {"id": ids, "epoch": (epoch * repeats + repeat).astype(np.int32), "mask": np.ones(batch_size, bool)}


def census(ids: np.ndarray) -> int:
    """The sum of the hashes of `ids`, modulo 2^64: tells which ids there are and how often, whatever their order.

    The numbers of parts of a set add up to the set's own. Two sets that differ share it by a chance of 2^-64; one example lost
    and another one taken twice, which no count shows, do not.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        return int(np.sum(_mix((ids.astype(np.uint64) + np.uint64(1)) * golden), dtype=np.uint64))


def evaluation_batches(num_examples: int, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Every example exactly once, in order; the last batch is filled up with rows whose `mask` is false."""
    for start in range(0, num_examples, batch_size):
        position = np.arange(start, start + batch_size)
        mask = position < num_examples
        ids = np.where(mask, position, 0).astype(np.int32)
        yield {"id": ids, "epoch": np.zeros(batch_size, np.int32), "mask": mask}
