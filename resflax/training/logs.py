"""Where scalars go: `metrics.jsonl`, TensorBoard events, and the terminal."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from resflax.files import Workdir, append_line, is_remote, storage, truncate_lines

if TYPE_CHECKING:
    from rich.progress import Progress


class MetricsWriter:
    """Writes one line a step that has scalars."""

    def __init__(self, workdir: Workdir, start_step: int):
        self._path = workdir.metrics
        truncate_lines(workdir.metrics, start_step)
        self._events = None
        if importlib.util.find_spec("tensorboardX") and not is_remote(workdir.root):
            self._events = _Events(str(workdir.root / "events"), start_step)

    def rewind(self, step: int) -> None:
        """Takes back what was written of steps after `step`, which are now redone."""
        truncate_lines(self._path, step)
        if self._events is not None:
            self._events.hide_after(step)

    def write(self, step: int, epoch: float, scalars: Mapping[str, float]) -> None:
        """Appends `{"step", "epoch", **scalars}` everywhere."""
        append_line(self._path, {"step": step, "epoch": round(epoch, 4), **scalars})
        if self._events is not None:
            self._events.write(step, scalars)

    def close(self) -> None:
        """Ends the event file."""
        if self._events is not None:
            self._events.close()


class _Events:
    """One of TensorBoard's event files; what was written is on the disk.

    tensorboardX' SummaryWriter leaves the writing to a thread, and a kill loses what that has not yet come to.
    """

    def __init__(self, prefix: str, start_step: int):
        tensorboardx = _import_tensorboardx()
        self._prefix, self._proto = prefix, tensorboardx.proto
        with storage("write", prefix):
            self._file = tensorboardx.event_file_writer.EventsWriter(prefix)
        self.hide_after(start_step)

    def hide_after(self, step: int) -> None:
        """Hides the events of later steps that were written before: a crash left them behind, or they are now redone."""
        start = self._proto.event_pb2.SessionLog(status=self._proto.event_pb2.SessionLog.START)
        self._add(step + 1, session_log=start)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds the scalars of a step."""
        summary = self._proto.summary_pb2.Summary
        values = [summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._add(step, summary=summary(value=values))

    def _add(self, step: int, **content: Any) -> None:
        with storage("write", self._prefix):
            self._file.write_event(self._proto.event_pb2.Event(wall_time=time.time(), step=step, **content))
            self._file.flush()

    def close(self) -> None:
        with storage("write", self._prefix):
            self._file.close()


def _import_tensorboardx() -> Any:
    """It imports PyTorch and clients of clouds wherever they are installed, for seconds; here it finds none."""
    absent = {"torch", "google.cloud.storage", "boto3"} - sys.modules.keys()
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # an import of them now raises ImportError
    try:
        import tensorboardX
    finally:
        for name in absent:
            del sys.modules[name]
    return tensorboardX


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
            if name not in ("gradient_norm",) and not name.endswith(("top5_accuracy", "expected_calibration_error"))
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
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # further errors of a save that failed
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _without_late_answers


def _without_late_answers(report: sys.UnraisableHookArgs) -> None:
    """When a save has failed and Orbax has raised that, TensorStore still reports the other arrays, to nobody."""
    if not (isinstance(report.exc_value, RuntimeError) and str(report.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(report)
