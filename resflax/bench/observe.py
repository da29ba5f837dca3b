"""Runs another module as `python -m MODULE` would, and writes down when JAX and resflax said what they were doing.

    python -m resflax.bench.observe EVENTS.json MODULE [ARGUMENTS...]

EVENTS.json becomes a list of `[when, event, seconds]`: the time of day in seconds, the name given to `jax.monitoring`, and the
duration that came with it (0 without one).
"""

from __future__ import annotations

import json
import runpy
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from resflax.pages import use_huge_pages

Event = tuple[float, str, float]


def main(argv: Sequence[str]) -> None:
    """The command; it ends as the module does."""
    path, module, *arguments = argv
    if module.startswith("resflax."):  # as the module itself would do it; the imports before that, about 0.1 s, are not seen
        use_huge_pages()
    import jax

    events: list[Event] = []

    def note(event: str, seconds: float) -> None:
        events.append((time.time(), event, seconds))

    jax.monitoring.register_event_listener(lambda event, **_: note(event, 0.0))
    jax.monitoring.register_event_duration_secs_listener(lambda event, duration_secs, **_: note(event, duration_secs))
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        Path(path).write_text(json.dumps(events))


if __name__ == "__main__":
    main(sys.argv[1:])
