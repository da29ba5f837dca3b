"""SIGTERM and Ctrl-C: outside of training they end a command at once, in training the loop hears of them and saves."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class SignalFlag:
    """`with SignalFlag() as flag:` - `flag.received` is the number of the first signal, or None.

    Later signals are ignored, but a second SIGINT does what it does outside of the block. After `deadline`, a time of
    `time.monotonic`, `received` is SIGALRM, as from an alarm clock.
    """

    def __init__(self, deadline: float = math.inf) -> None:
        self._deadline = deadline
        self._heard: list[int] = []
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> SignalFlag:
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def heard(self) -> int | None:
        """The number of the first signal, whatever the deadline."""
        return self._heard[0] if self._heard else None

    @property
    def received(self) -> int | None:
        """The number of the first signal; without one, SIGALRM after the deadline."""
        return self.heard or (int(signal.SIGALRM) if time.monotonic() > self._deadline else None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = number == signal.SIGINT and number in self._heard
        self._heard.append(number)
        if again and callable(previous := self._previous[number]):
            previous(number, frame)


def end_at_once() -> None:
    """From now on SIGTERM and SIGINT end this process at once, but where a `SignalFlag` listens; a second SIGINT always does.

    For commands. Python runs its handlers between two of its own instructions, so it may come to them only when XLA has
    compiled for a minute; but a signal wakes a thread that waits for it. What a command leaves is whole at any time, so
    there is nothing to wait for.
    """
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    threading.Thread(target=_listen, args=(woken,), name="signals", daemon=True).start()
    for number in SIGNALS:  # now there is a thread to hear of them
        signal.signal(number, _heard_by_the_thread)


class Ended(KeyboardInterrupt):
    """SIGTERM or SIGINT, its number the first argument."""


def end_by_unwinding() -> None:
    """From now on SIGTERM and SIGINT raise `Ended`: for a command that has to clear away what it has half made."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise Ended(number)

    for number in SIGNALS:
        signal.signal(number, stop)


def end_undisturbed() -> None:
    """From now on SIGTERM is ignored: how the command ended is decided and said. Ctrl-C still helps where the exit hangs."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _heard_by_the_thread(number: int, frame: FrameType | None) -> None:
    """A handler in Python, without which nothing is written to the pipe.

    It does not return, for the thread ends the process: a `SignalFlag` that is entered before the thread gets to it would
    listen to signals that come later, and this one would be lost.
    """
    threading.Event().wait()


def _listen(woken: int) -> None:
    interrupts = 0
    while True:
        for number in os.read(woken, 64):  # a byte a signal
            interrupts += number == signal.SIGINT
            if interrupts > 1:
                _end(number, "ended by a second SIGINT without saving more; checkpoints are whole, run again to go on")
            if signal.getsignal(number) is _heard_by_the_thread:
                _end(number, f"ended by {signal.Signals(number).name} with nothing to save; run again")


def _end(number: int, sentence: str) -> NoReturn:
    restore = "\r\x1b[J\x1b[?25h" if os.isatty(2) else ""  # what a progress bar leaves: its lines, and no cursor
    with contextlib.suppress(OSError):
        os.write(2, f"{restore}resflax: {sentence}\n".encode())
    os._exit(128 + number)
