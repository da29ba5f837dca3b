"""Finds the process that the others wait for, by the time each spends on the host to make its batches."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

FACTOR = 1.5  # as slow as that, compared to the median
SHARE = 0.1  # and by so much of the time of a step: less is not worth a word
CHUNKS = 3  # so often in a row: an evaluation, a full disk cache or a neighbour make anybody slow for once
PAUSE = 600.0  # seconds until a process is named again


@dataclass
class Stragglers:
    """Remembers how often in a row each process was slow, and when it was last named."""

    _slow: dict[int, int] = field(default_factory=dict)
    _named: dict[int, float] = field(default_factory=dict)

    def note(self, host_seconds: np.ndarray, seconds: float, steps: int) -> str | None:
        """A sentence that names the slow processes, if it is time for one.

        A device that computes slowly cannot be told from one that waits for another: only the host's own work is compared.

        Args:
          host_seconds: float[processes], of a chunk.
          seconds: of the whole chunk.
          steps: in it.
        """
        usual = float(np.sort(host_seconds)[(len(host_seconds) - 1) // 2])  # the lower median: one of two may be slow
        limit = max(FACTOR * usual, usual + SHARE * seconds)
        slow = [index for index, one in enumerate(host_seconds) if len(host_seconds) > 1 and one > limit]
        self._slow = {index: self._slow.get(index, 0) + 1 for index in slow}
        now = time.monotonic()
        due = [
            index for index, count in self._slow.items() if count >= CHUNKS and now - self._named.get(index, -PAUSE) >= PAUSE
        ]
        if not due:
            return None
        self._named |= dict.fromkeys(due, now)
        each = ", ".join(f"process {index} {1e3 * host_seconds[index] / steps:.0f} ms" for index in due)
        return f"slow hosts: to make the batch of a step takes {each}, where {1e3 * usual / steps:.0f} ms are usual"
