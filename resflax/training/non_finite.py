"""What a run does about steps that were not finite; the steps themselves have changed nothing, see `resflax.training.steps`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from resflax.errors import DataError
from resflax.training.progress import Progress
from resflax.training.state import TrainState
from resflax.training.steps import CHECKED, StepMetrics

_REMEDY = "lower config.optim.learning_rate, clip with config.optim.clip_norm, or check the data"


class Start(NamedTuple):
    """Where training goes on."""

    step: int
    state: TrainState
    progress: Progress


class Recover(Protocol):
    """`(failures, progress, saved) -> where to go on`; None: behind the chunk, with the state it left.

    Args:
      failures: the numbers of the steps of a chunk that were not finite, counted from 1, and what was not; at least one.
      progress: before the chunk.
      saved: the step of the newest checkpoint, or 0.

    Raises:
      DataError: the run must end.
    """

    def __call__(self, failures: Mapping[int, str], progress: Progress, saved: int) -> Start | None: ...


def failures(start: int, reports: StepMetrics) -> dict[int, str]:
    """`{number of a step: what was not finite in it}` of the chunk that began after step `start`."""
    names = np.array(CHECKED)
    return {start + 1 + int(index): ", ".join(names[~reports.checks[index]]) for index in np.flatnonzero(~reports.finite)}


def abort(failures: Mapping[int, str], progress: Progress, saved: int) -> None:
    """Ends the run at the first failure, see `Recover`."""
    step, what = next(iter(failures.items()))
    raise DataError(f"step {step} is not finite ({what}); {_REMEDY}")


@dataclass(frozen=True)
class Skip:
    """Leaves out the batches of the failures."""

    max_consecutive: int  # more steps than this in a row, and the run ends
    say: Callable[[str], None]

    def __call__(self, failures: Mapping[int, str], progress: Progress, saved: int) -> None:
        """See `Recover`."""
        for step, what in failures.items():
            progress.skipped_steps.append(step)
            if _in_a_row(progress.skipped_steps) > self.max_consecutive:
                raise DataError(
                    f"at most {self.max_consecutive} steps in a row (config.non_finite.max_consecutive) may be left out, but "
                    f"step {step} is not finite either ({what}); {_REMEDY}, or set config.non_finite.policy=roll_back"
                )
            self.say(f"step {step} is not finite ({what}) and left out")


@dataclass(frozen=True)
class RollBack:
    """Goes back to the newest checkpoint, and leaves out the batch of the first failure when it comes again."""

    max_consecutive: int  # more often than this to the same checkpoint, and the run ends
    restore: Callable[[], Start]  # from the newest checkpoint, or the beginning
    say: Callable[[str], None]

    def __call__(self, failures: Mapping[int, str], progress: Progress, saved: int) -> Start:
        """See `Recover`."""
        step, what = next(iter(failures.items()))
        skipped = sorted([*progress.skipped_steps, step])
        if sum(one > saved for one in skipped) > self.max_consecutive:
            raise DataError(
                f"a run may go back to step {saved} at most {self.max_consecutive} times (config.non_finite.max_consecutive), "
                f"but step {step} is not finite either ({what}); {_REMEDY}"
            )
        start = self.restore()
        start.progress.skipped_steps = skipped
        start.progress.wall_seconds = progress.wall_seconds  # what is done again took its time
        self.say(f"step {step} is not finite ({what}): back to step {start.step}, and step {step} will be left out")
        return start


def _in_a_row(steps: list[int]) -> int:
    """How many consecutive numbers the list ends with."""
    return next((count for count in range(1, len(steps)) if steps[-1 - count] != steps[-1] - count), len(steps))
