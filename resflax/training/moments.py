"""Moments of a run, told to whoever listens: `jax.monitoring.register_event_listener`, beside JAX's own events.

In order: `imported`, `read` (the data), `built` (the objects), `lowered` and `compiled` (the training step), and `chunk` after
each chunk of steps, so that the first one ends the start. Without a listener nothing happens.
"""

from __future__ import annotations

import jax


def reached(moment: str) -> None:
    """Sends the event `/resflax/<moment>`."""
    jax.monitoring.record_event(f"/resflax/{moment}")
