"""Turns SIGTERM and SIGINT into a flag that the loop reads between chunks."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any


class SignalFlag:
    """`with SignalFlag() as flag:` - `flag.received` is the number of the first signal, or None."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> SignalFlag:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
