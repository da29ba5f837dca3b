"""Where a run goes on from."""

from __future__ import annotations

from resflax.build.run import Run
from resflax.config import to_dict
from resflax.config.serial import changed_keys
from resflax.errors import ConfigError, DataError
from resflax.files import Workdir
from resflax.training import distributed
from resflax.training.checkpoint_files import to_stderr
from resflax.training.checkpoints import Saved, latest_checkpoint, open_checkpoint
from resflax.training.non_finite import Start
from resflax.training.progress import Progress
from resflax.tree import differences, signature


def choose_checkpoint(files: Workdir) -> Saved | None:
    """The checkpoint to go on from: process 0 looks for it, all open the same one."""
    saved = None
    if distributed.is_primary():
        saved = latest_checkpoint(files.checkpoints, to_stderr, set_aside=True)
    step = distributed.from_primary(-1 if saved is None else saved.step)
    if step < 0:
        return None
    return saved or open_checkpoint(files.checkpoints / str(step))


def check_checkpoint(files: Workdir, saved: Saved | None, run: Run) -> None:
    """Raises, before an array is read, `ConfigError` for a checkpoint of another run and `DataError` for other data."""
    if saved is None:
        return
    changes = changed_keys(saved.metadata["config"], to_dict(run.config))
    if changes:
        changes += differences(saved.tree, signature(run.abstract_state()))
        raise ConfigError(
            f"checkpoint {saved.path} belongs to a run with another configuration ({'; '.join(changes[:8])}); remove it, or "
            "name another --workdir"
        )
    if saved.metadata["dataset_fingerprint"] != run.fingerprint:
        raise DataError(
            f"the data must be those that {files.root} was started with, but their fingerprint is {run.fingerprint} and was "
            f"{saved.metadata['dataset_fingerprint']}; restore the data, or name another --workdir"
        )
    if saved.step > run.total_steps:
        raise ConfigError(
            f"checkpoint {saved.path} lies beyond the {run.total_steps} steps of this run; remove it, or name another --workdir"
        )


def start_from(run: Run, saved: Saved | None) -> Start:
    """The step, the state and the progress that a checkpoint holds, or those before the first step."""
    if saved is None:
        return Start(0, run.initial_state(), Progress())
    return Start(saved.step, saved.restore(run.abstract_state()), Progress(**saved.progress))
