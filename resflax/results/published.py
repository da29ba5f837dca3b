"""What a paper says about a row."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A test error as printed, in percent; None where the paper shows a curve only. `note` says what the number is."""

    error: float | None
    note: str = ""
