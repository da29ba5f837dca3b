"""What the processes of a job know of each other while they run: who lives, what each is doing, who failed and why.

Each writes one entry into JAX's coordination service, which process 0 holds, again and again, and reads those of all. A
collective operation on the devices waits for ever for a process that is stuck, and says nothing of why one is gone.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

_KEY = "resflax/processes/"
_INTERVAL = 0.5  # seconds between two entries of a process, in jobs of up to 64
GRACE = 2.0  # seconds in which a process may meet the error of another by itself, and so end with its own exit code


@dataclass
class Entry:
    """What a process says of itself."""

    host: str
    doing: str = "starting"
    beat: int = 0  # counts the entries, which shows that the process runs
    failed: str = ""  # why the job cannot go on
    finished: bool = False


class Peers:
    """The entries of all processes.

    Args:
      client: of the coordination service.
      index: of this process.
      count: of all processes.
      host: the name of this machine.
      doing: says what this process is doing.
      clock: seconds in which this process was not suspended.
      silence: how many of them another process may be silent.
    """

    def __init__(
        self,
        client: Any,
        index: int,
        count: int,
        host: str,
        doing: Callable[[], str],
        clock: Callable[[], float],
        silence: float,
    ):
        self._client, self._index, self._doing, self._clock, self._silence = client, index, doing, clock, silence
        self._own = Entry(host)
        self._entries = {other: Entry("a host not yet known") for other in range(count) if other != index}
        self._interval = _INTERVAL * max(1, count / 64)
        self._heard = dict.fromkeys(self._entries, clock())
        self._contact = clock()  # when the service last answered
        self._rounds = 0
        self._failure_seen: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="peers", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(Exception):  # of whatever class: the service does not answer, and `trouble` will say so
                self._round()
            self._stop.wait(self._interval)

    def _round(self) -> None:
        self._own.beat += 1
        self._own.doing = self._doing()
        self._client.key_value_set(f"{_KEY}{self._index}", json.dumps(asdict(self._own)), allow_overwrite=True)
        for key, value in self._client.key_value_dir_get(_KEY):
            index, entry = int(key.rpartition("/")[2]), Entry(**json.loads(value))
            if index != self._index and entry.beat != self._entries[index].beat:
                self._entries[index], self._heard[index] = entry, self._clock()
        self._contact = self._clock()
        self._rounds += 1

    def name(self, index: int | None = None) -> str:
        """For example "process 1 on host1"; None: this process."""
        entry = self._own if index is None else self._entries[index]
        return f"process {self._index if index is None else index} on {entry.host}"

    def report(self) -> list[str]:
        """A line for each other process: what it does, and when it said so."""
        now = self._clock()
        return [
            f"{self.name(index)}: {entry.doing}, heard {now - self._heard[index]:.0f} s ago"
            for index, entry in sorted(self._entries.items())
        ]

    def trouble(self) -> str | None:
        """Why the job cannot go on, if it cannot: a process failed `GRACE` seconds ago, or was silent for too long."""
        now = self._clock()
        if failed := self.failed():
            self._failure_seen = now if self._failure_seen is None else self._failure_seen
            return failed if now - self._failure_seen > GRACE else None
        if now - self._contact > self._silence:
            return self._unanswered(now - self._contact)
        return self._unheard([one for one, when in self._heard.items() if now - when > self._silence])

    def failed(self) -> str | None:
        """Why the first process that failed did."""
        return next((entry.failed for entry in self._entries.values() if entry.failed), None)

    def lost(self) -> str | None:
        """Which processes are not there any more, if any; takes a few seconds, for after an error that it may explain."""
        time.sleep(2 * self._interval + 0.5)  # last words may still be on their way
        rounds, heard = self._rounds, dict(self._heard)
        time.sleep(4 * self._interval + 1)
        if self._rounds == rounds and not self.failed():
            return self._unanswered(self._clock() - self._contact)
        return self._unheard([one for one, when in heard.items() if self._heard[one] == when])

    def _unanswered(self, seconds: float) -> str:
        if self._index == 0:
            return f"{self.name()} has not got an answer from its own coordination service for {seconds:.0f} s"
        return f"{self.name(0)}, which coordinates the job, has not answered for {seconds:.0f} s"

    def _unheard(self, silent: list[int]) -> str | None:
        lost = [one for one in silent if not (self._entries[one].failed or self._entries[one].finished)]
        now = self._clock()
        each = [f"{self.name(one)} has been silent for {now - self._heard[one]:.0f} s" for one in lost]
        return "; ".join(f"{text} (then: {self._entries[one].doing})" for text, one in zip(each, lost, strict=True)) or None

    def fail(self, why: str) -> None:
        """Tells the others why the job cannot go on; returns when they can know."""
        self._own.failed = why
        self._until_told()
        if self._index == 0:  # with the entries in it, so that it stays until all that live have read them and are gone
            limit = time.monotonic() + GRACE + 4 * self._interval + 1
            while time.monotonic() < limit and any(map(self._lives, self._entries)):
                time.sleep(self._interval / 4)
            time.sleep(2 * self._interval)

    def _lives(self, index: int) -> bool:
        entry = self._entries[index]
        return not (entry.failed or entry.finished) and self._clock() - self._heard[index] < 4 * self._interval + 1

    def finish(self) -> None:
        """Tells the others that nothing can fail here any more, and returns when that holds for all."""
        self._own.finished = True
        while not all(entry.finished for entry in self._entries.values()):
            time.sleep(self._interval / 4)
        self._until_told()
        self._stop.set()
        self._thread.join()

    def _until_told(self) -> None:
        rounds, limit = self._rounds, time.monotonic() + 4 * self._interval + 1
        while self._rounds < rounds + 2 and time.monotonic() < limit:  # the round under way may have begun before
            time.sleep(self._interval / 4)
