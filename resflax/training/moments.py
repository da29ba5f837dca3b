"""Moments of a run, told to whoever listens: `jax.monitoring.register_event_listener`, beside JAX's own events.

In order: `imported`, `read` (the data), `built` (the objects), `lowered` and `compiled` (the training step), `chunk` after each
chunk of steps, so that the first one ends the start, and `trained` when all is saved. Meanwhile `batch` comes before each batch
of an evaluation or a re-estimation, and `saving` when a save has begun. Without a listener nothing happens.
"""

from __future__ import annotations

import jax


def reached(moment: str, **about: int) -> None:
    """Sends the event `/resflax/<moment>`; `chunk` and `saving` say the `step`."""
    jax.monitoring.record_event(f"/resflax/{moment}", **about)
