"""Where scalars go: `metrics.jsonl`, TensorBoard events, and the terminal."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from resflax.files import Workdir, append_line, is_remote, truncate_lines

if TYPE_CHECKING:
    from rich.progress import Progress


class MetricsWriter:
    """Writes one line a step that has scalars."""

    def __init__(self, workdir: Workdir, start_step: int):
        self._path = workdir.metrics
        truncate_lines(workdir.metrics, start_step)
        self._tensorboard = None
        if importlib.util.find_spec("tensorboardX") and not is_remote(workdir.root):
            SummaryWriter = _summary_writer()
            # purge_step hides the events of steps that a crash left behind and that are now redone.
            self._tensorboard = SummaryWriter(str(workdir.root), purge_step=start_step + 1 if start_step else None)

    def write(self, step: int, epoch: float, scalars: Mapping[str, float]) -> None:
        """Appends `{"step", "epoch", **scalars}` everywhere."""
        append_line(self._path, {"step": step, "epoch": round(epoch, 4), **scalars})
        if self._tensorboard is not None:
            for name, value in scalars.items():
                self._tensorboard.add_scalar(name, value, step)
            self._tensorboard.flush()

    def close(self) -> None:
        """Ends the event file."""
        if self._tensorboard is not None:
            self._tensorboard.close()


def _summary_writer() -> Any:
    """tensorboardX imports PyTorch and clients of clouds wherever they are installed, for seconds; here it finds none."""
    absent = {"torch", "google.cloud.storage", "boto3"} - sys.modules.keys()
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # an import of them now raises ImportError
    try:
        from tensorboardX import SummaryWriter
    finally:
        for name in absent:
            del sys.modules[name]
    return SummaryWriter


class Display:
    """Lines on stderr, and below them, on a terminal, a live bar with rate and time left."""

    def __init__(self, total_steps: int, start_step: int, quiet: bool = False):
        self._total = total_steps
        self._progress: Progress | None = None
        self._quiet = quiet
        if sys.stderr.isatty() and not quiet:
            self._progress = self._open_bar(start_step)

    def _open_bar(self, start_step: int) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = progress.add_task("", total=self._total, completed=start_step, rate="")
        progress.start()
        return progress

    def say(self, text: str) -> None:
        """One line that stays."""
        if self._quiet:
            return
        if self._progress is not None:
            self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def advance(self, step: int, images_per_second: float) -> None:
        """Moves the bar to `step`."""
        if self._progress is not None:
            self._progress.update(self._task, completed=step, rate=f"{images_per_second:,.0f} images/s")

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """A log line for a person."""
        shown = [
            f"{name} {value * 100:.2f} %" if name.endswith("accuracy") else f"{name} {value:.4g}"
            for name, value in scalars.items()
            if name not in ("gradient_norm",) and not name.endswith("top5_accuracy")
        ]
        self.say(f"step {step}/{self._total}  " + "  ".join(shown))

    def close(self) -> None:
        """Removes the bar."""
        if self._progress is not None:
            with contextlib.suppress(BrokenPipeError):
                self._progress.stop()


def quiet() -> None:
    """Keeps the libraries' own notes (absl, Orbax) off the terminal; what goes wrong is raised, and said once by us."""
    import logging

    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)
