"""Turns SIGTERM, SIGINT and a deadline into a flag that the loop reads between chunks."""

from __future__ import annotations

import math
import signal
import time
from types import FrameType, TracebackType
from typing import Any


class SignalFlag:
    """`with SignalFlag() as flag:` - `flag.received` is the number of the first signal, or None.

    After `deadline`, a time of `time.monotonic`, it is SIGALRM, as from an alarm clock.
    """

    def __init__(self, deadline: float = math.inf) -> None:
        self._deadline = deadline
        self._received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> SignalFlag:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def received(self) -> int | None:
        """The number of the signal."""
        if self._received is None and time.monotonic() > self._deadline:
            self._received = int(signal.SIGALRM)
        return self._received

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received is None:
            self._received = number
