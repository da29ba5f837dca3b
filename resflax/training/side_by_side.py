"""Commands side by side, each in a process that ends no later than this one; imports nothing heavy."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from resflax.errors import Interrupted
from resflax.training.signals import SignalFlag

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Job:
    """A command and what it is called in messages."""

    name: str
    command: Sequence[str]


@dataclass(frozen=True)
class Ended:
    """How a job's process ended."""

    code: int  # exit code; of one that was killed, the negative number of the signal
    output: str  # all of stdout
    last_line: str  # of stderr


def run_side_by_side(
    jobs: Iterator[Job], environments: Sequence[Mapping[str, str]], ended: Callable[[Job, Ended], None]
) -> None:
    """Runs the jobs in order, as many at a time as there are environments, and calls `ended` as each ends.

    The next job is asked for when there is room for it. What the processes write to stderr appears on this one's, a line
    at a time, after the job's name.

    Raises:
      Interrupted: SIGTERM or SIGINT came; the processes were sent SIGTERM and have ended.
      Exception: whatever `ended` or `jobs` raised; likewise.
    """
    free = list(environments)
    running: list[_Process] = []
    with SignalFlag() as signals:
        try:
            while not signals.received:
                while free and not signals.received and (job := next(jobs, None)) is not None:
                    running.append(_Process(job, free.pop(0)))
                if not running:
                    return
                time.sleep(POLL_SECONDS)
                for process in [one for one in running if one.has_ended()]:
                    running.remove(process)
                    free.append(process.environment)
                    ended(process.job, process.collect())
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.collect()
        number = signals.received
    assert number is not None
    raise Interrupted(number, f"stopped by signal {number} with {len(running)} runs under way; run again to go on")


class _Process:
    """A job under way."""

    def __init__(self, job: Job, environment: Mapping[str, str]) -> None:
        self.job, self.environment = job, environment
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # a pipe would have to be emptied meanwhile
        self._last_line = ""
        self._process = subprocess.Popen(
            job.command,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,  # never written to: see `end_with_stdin`
            stdout=self._output,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
        )
        self._relay = threading.Thread(target=self._pass_on, daemon=True)
        self._relay.start()

    def _pass_on(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            text = line.decode(errors="replace").rstrip()
            self._last_line = text or self._last_line
            with contextlib.suppress(OSError):  # nobody reads any more; the process must still get rid of its lines
                print(f"{self.job.name}: {text}", file=sys.stderr, flush=True)

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def terminate(self) -> None:
        self._process.terminate()

    def collect(self) -> Ended:
        """Waits for the end."""
        code = self._process.wait()
        self._relay.join(timeout=5)  # longer only where a child that was left behind holds stderr
        self._output.seek(0)
        output = self._output.read().decode(errors="replace")
        self._output.close()
        assert self._process.stdin is not None
        self._process.stdin.close()
        return Ended(code, output, self._last_line)


def end_with_stdin() -> None:
    """Kills this process when its stdin ends: then whoever started it is gone, and the next one shall find nobody at work."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
