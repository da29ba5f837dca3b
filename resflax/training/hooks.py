"""What the loop does between chunks, beside saving."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from resflax.optim.schedules import Schedule
from resflax.training.evaluation import Evaluation
from resflax.training.progress import Progress
from resflax.training.state import TrainState


@dataclass
class LogHook:
    """The means since the last line, and the learning rate of the last step."""

    every_steps: int
    batch_size: int
    schedule: Schedule

    def __call__(self, step: int, state: TrainState, progress: Progress) -> dict[str, float]:
        """See `resflax.training.loop.Hook`."""
        scalars = progress.take_window(self.batch_size)
        return {**scalars, "learning_rate": float(self.schedule(step - 1))} if scalars else {}


@dataclass
class EvaluateHook:
    """Scores the evaluation split; remembers the last result and the best accuracy."""

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
