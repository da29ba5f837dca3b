"""What a run remembers beside its arrays; saved with every checkpoint, so that a resumed run writes the same numbers."""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from resflax.training.steps import StepMetrics

DIGEST_STEPS = 100


@dataclass
class Progress:
    """Host-side counters; plain numbers, JSON keeps them exactly."""

    losses: list[float] = field(default_factory=list)  # of the steps since the last log line
    correct: int = 0  # likewise
    gradient_norm: float = 0.0  # of the last step
    window_seconds: float = 0.0  # likewise
    first_losses: list[float] = field(default_factory=list)  # of the first DIGEST_STEPS updates
    train_seconds: float = 0.0
    wall_seconds: float = 0.0
    best_accuracy: float | None = None  # on the evaluation split, and the step it was reached at
    best_step: int | None = None
    skipped_steps: list[int] = field(default_factory=list)  # left out, counted from 1; after a roll-back also steps ahead

    def add(self, reports: StepMetrics, seconds: float) -> None:
        """Takes in the reports of a chunk, but those of steps that were left out."""
        applied = reports.finite
        losses = [float(loss) for loss in reports.loss[applied]]
        self.losses += losses
        self.correct += round(float(np.sum(reports.correct[applied], dtype=np.float64)))
        if losses:
            self.gradient_norm = float(reports.gradient_norm[applied][-1])
        self.first_losses += losses[: DIGEST_STEPS - len(self.first_losses)]
        self.window_seconds += seconds
        self.train_seconds += seconds

    def skipped_until(self, step: int) -> int:
        """How many of the first `step` steps were left out."""
        return bisect.bisect_right(self.skipped_steps, step)

    def take_window(self, batch_size: int) -> dict[str, float]:
        """The means since the last call, which start anew."""
        if not self.losses:
            return {}
        images = len(self.losses) * batch_size
        scalars = {
            "train_loss": math.fsum(self.losses) / len(self.losses),
            "train_accuracy": self.correct / images,
            "gradient_norm": self.gradient_norm,
            "images_per_second": images / self.window_seconds,
        }
        self.losses, self.correct, self.window_seconds = [], 0, 0.0
        return scalars

    def loss_digest(self) -> str:
        """Sixteen hexadecimal digits over the first losses, as float32."""
        return hashlib.sha256(np.asarray(self.first_losses, "<f4").tobytes()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self)
