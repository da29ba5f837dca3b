"""Ends a process that hangs, or whose job can no longer go on, with exit code 75, so that a scheduler starts it again.

A main thread that waits in a collective operation, a file system or a driver cannot be woken by an exception: a thread of
its own watches it and ends the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NoReturn

import jax

from resflax.errors import ConfigError, DataError, Interrupted, ResflaxError, TemporaryError
from resflax.training.moments import phase
from resflax.training.peers import Peers

_TICK = 0.25  # seconds
_LEAP = 5.0  # as many at most pass between two looks at the clock: a process that was suspended is not late


@dataclass
class _Work:
    """What a thread is doing."""

    since: float  # the last news, as a time of the watchdog's clock
    phases: list[str] = field(default_factory=list)  # innermost last
    step: int = 0


class Watchdog:
    """`with Watchdog(limits):` - an event of `resflax.training.moments` is news; without news for too long all ends.

    The limit is that of the innermost phase of the thread. When it is over, the stacks of all threads are written to stderr,
    then one sentence, and the process ends with code 75. Time in which the process was suspended does not count.

    In a job of several processes each also watches the others (`resflax.training.peers`): when one fails, hangs or is gone,
    the rest end within seconds of knowing it, with 75 and a sentence that names it. An error that leaves the block ends the
    process there and then, with its own exit code: what follows otherwise would wait for the others.
    """

    def __init__(self, limits: Mapping[str, float]):
        self._limits = limits
        self._awake = 0.0
        self._works: dict[int, _Work] = {}
        self._stop = threading.Event()
        self._ending = threading.Lock()
        self._peers: Peers | None = None

    def __enter__(self) -> Watchdog:
        self._main = threading.get_ident()
        self._works[self._main] = _Work(self._awake)
        jax.monitoring.register_event_listener(self._note)
        if jax.distributed.is_initialized():
            from jax._src.distributed import global_state  # JAX offers the service nowhere in public

            job = global_state.client, global_state.process_id, global_state.num_processes
            self._peers = Peers(*job, socket.gethostname(), self._doing, lambda: self._awake, self._limits["silence"])
            self._abort = _OnAbort(self._blame)
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._peers is not None:
            if error is not None and not isinstance(error, Interrupted):
                self._fail(error, self._peers)
            with phase("wait"):
                self._peers.finish()
            self._abort.restore()
        self._stop.set()
        self._thread.join()
        jax.monitoring.unregister_event_listener(self._note)

    def _note(self, event: str, **details: Any) -> None:
        if not event.startswith("/resflax/"):
            return
        thread = threading.get_ident()
        work = self._works.setdefault(thread, _Work(self._awake))
        work.step = details.get("step", work.step)
        if event == "/resflax/begin":
            work.phases.append(details["phase"])
        elif event == "/resflax/end" and work.phases:
            work.phases.pop()
        work.since = self._awake
        if not work.phases and thread != self._main:
            del self._works[thread]

    def _doing(self) -> str:
        """What the main thread is doing."""
        work = self._works[self._main]
        return f"{_innermost(work)} at step {work.step}"

    def _run(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(_TICK):
            now = time.monotonic()
            self._awake += min(now - last, _LEAP)
            last = now
            works = list(self._works.values())
            for work in works:
                if self._share(work) > 1:
                    self._expire(work)
            if self._peers is not None and (why := self._peers.trouble()):
                if any(self._share(work) > 0.5 for work in works):  # it may be this one that the other waited for
                    faulthandler.dump_traceback(file=2, all_threads=True)
                self._give_up(why)

    def _share(self, work: _Work) -> float:
        """How much of its limit a thread has used up, 1: all of it."""
        return (self._awake - work.since) / self._limits[_innermost(work)]

    def _expire(self, work: _Work) -> NoReturn:
        faulthandler.dump_traceback(file=2, all_threads=True)
        name, who = _innermost(work), f"the process on {socket.gethostname()}"
        if self._peers is not None:
            who = self._peers.name()
            print(*self._peers.report(), sep="\n", file=sys.stderr)
        self._give_up(
            f"{who} must get on within {self._limits[name]:g} s, but hangs in phase {name} at step {work.step}",
            f", or allow more with --limits={name}:SECONDS",
        )

    def _fail(self, error: BaseException, peers: Peers) -> NoReturn:
        """Ends the process after `error`, of which another process may be the reason."""
        if not isinstance(error, (ConfigError, DataError)) and (lost := peers.lost()):
            self._give_up(lost)
        if isinstance(error, ResflaxError):
            self._end(error.exit_code, str(error), f"{peers.name()} failed: {error}")
        if failed := peers.failed():
            self._give_up(failed)
        traceback.print_exception(error)
        text = f"{type(error).__name__}: {error}".partition("\n")[0]
        self._end(130 if isinstance(error, KeyboardInterrupt) else 1, text, f"{peers.name()} failed: {text}")

    def _blame(self) -> None:
        """JAX calls `abort` as soon as process 0 is gone; returns if the others are all there, so that it has its way."""
        assert self._peers is not None
        if why := self._peers.lost() or self._peers.failed():
            self._give_up(why)

    def _give_up(self, why: str, otherwise: str = "") -> NoReturn:
        self._end(TemporaryError.exit_code, f"{why}; run again to go on from the last checkpoint{otherwise}", why)

    def _end(self, code: int, message: str, why: str) -> NoReturn:
        """Ends the process; `why` is for the others."""
        if not self._ending.acquire(blocking=False):
            threading.Event().wait()  # another thread is about to
        print(f"resflax: {message}", file=sys.stderr)
        if self._peers is not None:
            self._peers.fail(why)
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)  # not `sys.exit`: only the main thread could, and JAX would wait for the other processes


def _innermost(work: _Work) -> str:
    return work.phases[-1] if work.phases else "other"


class _OnAbort:
    """Has the C library call `action` on `abort`, which ends the process afterwards as ever.

    Not by `signal.signal`: Python would run `action` later, in the main thread, and there is no later.
    """

    def __init__(self, action: Callable[[], None]):
        self._signal = ctypes.CDLL(None).signal
        self._signal.argtypes, self._signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p

        def handle(number: int) -> None:
            self.restore()
            action()

        self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(handle)  # must outlive its use
        self._previous = self._signal(signal.SIGABRT, ctypes.cast(self._handler, ctypes.c_void_p))

    def restore(self) -> None:
        """Leaves `abort` as it was."""
        self._signal(signal.SIGABRT, self._previous)
