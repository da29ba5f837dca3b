"""What the loop does between chunks, beside saving."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from resflax.optim.schedules import Schedule
from resflax.training.evaluation import Evaluation
from resflax.training.progress import Progress
from resflax.training.state import TrainState
from resflax.training.utilization import model_flops_utilization


@dataclass
class LogHook:
    """The means since the last line, the share of the devices' peak, and the learning rate of the last update.

    Where steps were left out, also how many so far.
    """

    is_long: ClassVar[bool] = False
    every_steps: int
    batch_size: int
    schedule: Schedule
    peak_rate: float | None = None  # images a second; None: not known, and then there is no share

    def __call__(self, step: int, state: TrainState, progress: Progress) -> dict[str, float]:
        """See `resflax.training.loop.Hook`."""
        skipped = progress.skipped_until(step)
        left_out: dict[str, float] = {"skipped_steps": skipped} if skipped else {}
        scalars = progress.take_window(self.batch_size)
        if not scalars:
            return left_out
        share = model_flops_utilization(scalars["images_per_second"], self.peak_rate)
        if share is not None:
            scalars["model_flops_utilization"] = share
        return {**scalars, "learning_rate": float(self.schedule(step - skipped - 1)), **left_out}


@dataclass
class EvaluateHook:
    """Scores the evaluation split; remembers the last result and the best accuracy."""

    is_long: ClassVar[bool] = True
    every_steps: int
    split: str
    evaluate: Callable[[TrainState], Evaluation]
    last: tuple[int, Evaluation] | None = None

    def __call__(self, step: int, state: TrainState, progress: Progress) -> dict[str, float]:
        """See `resflax.training.loop.Hook`."""
        evaluation = self.evaluate(state)
        self.last = (step, evaluation)
        if progress.best_accuracy is None or evaluation.accuracy > progress.best_accuracy:
            progress.best_accuracy, progress.best_step = evaluation.accuracy, step
        return evaluation.scalars(self.split)

    def score(self, step: int) -> float | None:
        """The accuracy at `step`, where it was measured."""
        return self.last[1].accuracy if self.last is not None and self.last[0] == step else None
