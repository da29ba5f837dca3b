"""Moments and phases of a run, told to whoever listens: `jax.monitoring.register_event_listener`, beside JAX's own events.

Moments, in order: `imported`, `read` (the data), `built` (the objects), `lowered` and `compiled` (the training step), `chunk`
after each chunk of steps, so that the first one ends the start, and `trained` when all is saved. Meanwhile `batch` comes before
each batch of an evaluation or a re-estimation, `scored` after it, and `saving` when a save has begun. Phases are what a process
may hang in, see `resflax.training.limits`. Without a listener nothing happens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax


def reached(moment: str, **details: int) -> None:
    """Sends the event `/resflax/<moment>`; `chunk` and `saving` say the `step`."""
    jax.monitoring.record_event(f"/resflax/{moment}", **details)


@contextlib.contextmanager
def phase(name: str, **details: int) -> Iterator[None]:
    """Sends `/resflax/begin` and, however the block ends, `/resflax/end`, both from the thread that works."""
    jax.monitoring.record_event("/resflax/begin", phase=name, **details)
    try:
        yield
    finally:
        jax.monitoring.record_event("/resflax/end", phase=name, **details)
