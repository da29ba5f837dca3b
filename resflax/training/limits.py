"""How long a process may go on without news of progress, by what it is doing; see `resflax.training.watchdog`."""

from __future__ import annotations

import math
from collections.abc import Mapping

from resflax.errors import ConfigError, nearest

# Seconds. Generous: they end what hangs for ever, and are no measure of what is slow.
DEFAULTS: Mapping[str, float] = {
    "compile": 3600,  # of the training step, with the making of the first state
    "read": 600,  # making one batch on the host
    "step": 600,  # a chunk of steps, of 1.5 s but for a single long step
    "evaluate": 1800,  # a batch of an evaluation; the first one compiles
    "restore": 1800,
    "save": 1800,
    "wait": 7200,  # for the other processes, which have limits of their own
    "other": 7200,  # all else: opening the data, looking for damaged files, writing records
    "silence": 60,  # of another process, or of the one that coordinates
}


def parse_limits(text: str | None) -> dict[str, float]:
    """`DEFAULTS` with the changes that `text` asks for: "PHASE:SECONDS,...", where `inf` is no limit.

    Raises `ConfigError` for an unknown phase or what is no positive number.
    """
    limits = dict(DEFAULTS)
    for part in text.split(",") if text else ():
        name, _, seconds = part.partition(":")
        if name not in DEFAULTS:
            raise ConfigError(
                f"--limits must read PHASE:SECONDS,... with phases of {', '.join(DEFAULTS)}, got {part!r}; "
                f"did you mean {nearest(name, DEFAULTS)[0]}?"
            )
        try:
            limits[name] = float(seconds)
        except ValueError:
            limits[name] = math.nan
        if not limits[name] > 0:
            raise ConfigError(f"--limits must give {name} a number of seconds above 0, got {seconds!r}; for example {name}:600")
    return limits
