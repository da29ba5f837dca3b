"""Checkpoints that can be believed: written in the background, verified, then committed by their manifest.

Orbax writes the arrays. The manifest is written last; it names every file with its size and SHA-256, and a step without a
true manifest does not exist (`resflax.training.checkpoint_files` has the protocol). What Orbax does not do and this does:
check the bytes, read a new checkpoint back before an older one is removed, compare the saved tree with the expected one before
reading, fall back to an older step, and tell the run when a background save failed. Orbax is imported when arrays are read or
written: a run that starts anew does that while it waits for the compiler.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from concurrent import futures
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import jax
import numpy as np
from etils import epath

from resflax.errors import DataError, Interrupted, StorageError
from resflax.files import is_bomb, is_remote, read_json, sha256, storage, sync, write_json
from resflax.training import checkpoint_files as protocol
from resflax.training.checkpoint_files import MANIFEST, Say, committed_steps, to_stderr
from resflax.training.distributed import anywhere
from resflax.training.moments import phase
from resflax.training.state import snapshot
from resflax.tree import all_finite, differences, named_leaves, signature
from resflax.types import Tree

FORMAT = 1
_all_finite = jax.jit(all_finite)


@dataclass(frozen=True)
class Saved:
    """A verified checkpoint, its arrays not yet read."""

    path: epath.Path
    step: int
    tree: dict[str, str]  # signature of the state
    score: float | None  # accuracy on the evaluation split at this step, where it was measured
    progress: dict[str, Any]
    metadata: dict[str, Any]

    def restore(self, abstract: Tree) -> Tree:
        """Reads the arrays onto the devices of `abstract`, a tree of `jax.ShapeDtypeStruct` with shardings.

        Raises `StorageError` before anything is read unless paths, shapes and dtypes all agree.
        """
        import orbax.checkpoint as ocp

        wrong = differences(self.tree, signature(abstract))
        if wrong:
            raise StorageError(
                f"checkpoint {self.path} does not fit this model and optimizer: {'; '.join(wrong[:3])}"
                f"{f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''}; use the configuration it was made with"
            )
        stored = sum((self.path / name).stat().length for name in protocol.contents(self.path))
        needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract))
        if is_bomb(needed, stored):
            raise StorageError(f"{stored} bytes in {self.path} cannot hold the {needed} of such a network; copy it again")
        with phase("restore", step=self.step), storage("read", self.path), ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(_absolute(self.path / "state"), abstract)


def open_checkpoint(path: epath.Path) -> Saved:
    """Verifies every byte of a checkpoint; raises `StorageError` naming the first file that is not what it was."""
    manifest = protocol.read_manifest(path)
    if manifest["format"] != FORMAT:
        raise StorageError(f"{path} has checkpoint format {manifest['format']}, this version reads {FORMAT}; update resflax")
    found, expected = set(protocol.contents(path)), manifest["files"]
    for name in sorted(found | expected.keys()):
        if name not in found:
            raise StorageError(f"{path / name} is missing")
        if name not in expected:
            raise StorageError(f"{path / name} does not belong to the checkpoint")
        if not protocol.is_plain(path / name):
            raise StorageError(f"{path / name} must be a file, but it is a link, a pipe or a device; copy the checkpoint again")
        with storage("read", path / name):
            intact = (path / name).stat().length == expected[name]["size"] and sha256(path / name) == expected[name]["sha256"]
        if not intact:
            raise StorageError(f"{path / name} is damaged: its bytes are not those that were written")
    return Saved(
        path,
        manifest["step"],
        manifest["tree"],
        manifest["score"],
        read_json(path / "progress.json"),
        read_json(path / "metadata.json"),
    )


def latest_checkpoint(root: epath.Path, say: Say | None = None, set_aside: bool = False) -> Saved | None:
    """The newest checkpoint under `root` that verifies; None when there is none.

    Args:
      root: the `checkpoints` folder of a workdir.
      say: called with one sentence for each damaged step that is passed over.
      set_aside: move damaged steps to `root/damaged-<step>-<time>`, so that they are not tried again; for the trainer.
    """
    for step in reversed(protocol.all_steps(root)):
        path = root / str(step)
        if protocol.is_unfinished(path):
            continue
        try:
            return open_checkpoint(path)
        except StorageError as error:
            if set_aside:
                protocol.set_aside(path, error, say or to_stderr)
            elif say is not None:
                say(f"checkpoint {step} is not used: {error}; the previous one is tried")
    return None


class Checkpoints:
    """Saves, in the background, and keeps the last few and the best few.

    Every process of a job calls it alike; process 0 writes everything but the arrays. As a context it waits at the end for the
    save under way; that it failed replaces no other error than `Interrupted`, which says that the state was saved.
    """

    def __init__(self, root: epath.Path, keep_last: int, keep_best: int = 0, max_failed_saves: int = 1, say: Say = to_stderr):
        """Beside the fields of the configuration: `say` is told of each save that failed, when it fails."""
        import orbax.checkpoint as ocp

        self._root, self._keep_last, self._keep_best = root, keep_last, keep_best
        self._max_failed_saves, self._failed_saves, self._say = max_failed_saves, 0, say
        self._committing: futures.Future[None] | None = None
        self._primary, self._alone = jax.process_index() == 0, jax.process_count() == 1
        if self._primary:
            with storage("write", root):
                root.mkdir(parents=True, exist_ok=True)
                sync(root.parent)
            protocol.recover(root, say)
        self._args, self._orbax, self._reader = ocp.args, _writer(), ocp.StandardCheckpointHandler()
        self._thread = futures.ThreadPoolExecutor(1, "commit")

    def save(
        self,
        step: int,
        state: Tree,
        progress: Mapping[str, Any],
        metadata: Mapping[str, Any],
        score: float | None = None,
    ) -> None:
        """Starts saving; waits only for an earlier save. A step that is committed already is only compared with `state`.

        A single process leaves all the rest to a thread. Several start to write together, which takes the devices, so that
        their callers must do it between two steps.

        Raises:
          StorageError: `max_failed_saves` saves in a row have failed. The last one that may fail is waited for: there is
            nothing to be gained by training on.
          DataError: a number of the state is not finite; no such checkpoint is ever written.
        """
        self.settle()
        path = self._root / str(step)
        committed = (path / MANIFEST).exists()
        # The caller goes on to donate these buffers, while they are still being read, and to change its progress.
        copied, frozen = snapshot(state), json.loads(json.dumps(progress))
        if not _all_finite(copied):
            bad = [name for name, leaf in named_leaves(copied).items() if not np.isfinite(leaf).all()]
            raise DataError(
                f"a state must be finite to be saved, but at step {step} {bad[0]} is not"
                f"{f', and {len(bad) - 1} more' if len(bad) > 1 else ''}; run again to go on from the checkpoint before"
            )
        error = None
        if not (self._alone or committed):
            try:
                self._start_writing(path, copied)
            except Exception as caught:  # the other processes wait for this one in `_outcome`
                error = caught
        content = {"progress.json": frozen, "metadata.json": dict(metadata)}
        manifest = {"format": FORMAT, "step": step, "score": score}
        finish = phase("save", step=step)(self._finish)
        self._committing = self._thread.submit(finish, path, copied, content, manifest, committed, error)
        if self._failed_saves and self._failed_saves == self._max_failed_saves - 1:
            self.wait()

    def _start_writing(self, path: epath.Path, copied: Tree) -> None:
        if self._primary:
            protocol.begin(path)
        with storage("write", path):
            path.mkdir(parents=True, exist_ok=True)
            self._orbax.save(_absolute(path / "state"), args=self._args.StandardSave(copied))

    def _finish(
        self,
        path: epath.Path,
        copied: Tree,
        content: Mapping[str, Any],
        manifest: Mapping[str, Any],
        committed: bool,
        error: Exception | None,
    ) -> None:
        """Runs in a thread: all of a save that the caller need not wait for."""
        try:
            if error is not None:
                raise error
            if committed:
                self._confirm(path, copied)
            else:
                self._commit(path, copied, content, manifest)
        except Exception as caught:  # whatever the threads met, the run must not go on as if the state were saved
            failure = StorageError(f"checkpoint {path} could not be saved, {self._space(copied)}: {_reason(caught)}")
            with contextlib.suppress(OSError):  # where it is said may be as full
                self._say(str(failure))
            if self._primary and not committed:
                with contextlib.suppress(StorageError):  # Orbax' threads may still write there; see below and `_release`
                    protocol.clear(path)
            raise failure from caught
        if self._primary:
            self._remove_unfinished()
            self._remove_old()

    def _commit(self, path: epath.Path, copied: Tree, content: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
        """Has Orbax put the arrays in place, writes the rest, compares what can be read with what was meant, and commits."""
        if self._alone:
            self._start_writing(path, copied)
        self._orbax.wait_until_finished()
        if not self._primary:
            return
        for name, value in content.items():
            write_json(path / name, value)
        names = protocol.contents(path)
        protocol.sync_all(path, names)
        self._compare(path, copied)
        with storage("read", path):
            files = {name: {"size": (path / name).stat().length, "sha256": sha256(path / name)} for name in names}
        whole = {**manifest, "tree": signature(copied), "files": files}
        write_json(path / MANIFEST, {**whole, "sha256": protocol.manifest_digest(whole)})
        saved = open_checkpoint(path)
        if {"progress.json": saved.progress, "metadata.json": saved.metadata} != json.loads(json.dumps(content)):
            raise StorageError(f"{path} holds other values than were written")
        protocol.end(path)

    def _confirm(self, path: epath.Path, copied: Tree) -> None:
        """Raises `StorageError` unless a step that is there already is intact and holds the same arrays."""
        if self._primary:
            open_checkpoint(path)
            self._compare(path, copied)

    def _compare(self, path: epath.Path, copied: Tree) -> None:
        """Raises `StorageError` unless the arrays that can be read from a step are those of `copied`, bit for bit."""
        # Read by the handler alone: it meets no other process, and onto the host, as the devices may be full.
        like = jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), copied)
        with storage("read", path):
            read = named_leaves(self._reader.restore(_absolute(path / "state"), args=self._args.StandardRestore(like)))
        for name, leaf in named_leaves(copied).items():
            if read[name].dtype != leaf.dtype or read[name].tobytes() != np.asarray(leaf).tobytes():
                raise StorageError(f"{path}: {name} reads back as another array than was saved")

    def _space(self, copied: Tree) -> str:
        needed = f"{sum(leaf.nbytes for leaf in jax.tree.leaves(copied)):,} bytes of arrays are needed"
        if is_remote(self._root):
            return needed
        return f"{needed} and {shutil.disk_usage(self._root).free:,} are free"

    def _remove_unfinished(self) -> None:
        """What saves that failed have left; what cannot be removed stays marked, and `recover` tries again."""
        with contextlib.suppress(StorageError):
            protocol.remove_unfinished(self._root)

    def _remove_old(self) -> None:
        """Leaves steps whose manifest cannot be read to `recover`; that one cannot be removed does not fail a save."""
        scores = {}
        for step in committed_steps(self._root):
            with contextlib.suppress(StorageError):
                scores[step] = protocol.read_manifest(self._root / str(step))["score"]
        best = sorted(((score, step) for step, score in scores.items() if score is not None), reverse=True)
        keep = {*list(scores)[-self._keep_last :], *(step for _, step in best[: self._keep_best])}
        for step in scores.keys() - keep:
            try:
                protocol.remove(self._root / str(step))
            except StorageError as error:
                self._say(f"an old checkpoint stays where it is: {error}")

    def _outcome(self) -> StorageError | None:
        """Waits for the save under way, if any; returns why it failed, on every process if it did on one."""
        if self._committing is None:
            return None
        committing, self._committing = self._committing, None
        failure: Any = committing.exception()
        if anywhere(failure is not None) and failure is None:
            failure = StorageError("a checkpoint could not be saved by another process of the job; see what it says")
        self._failed_saves = self._failed_saves + 1 if failure else 0
        if failure is not None:
            self._orbax = _writer()  # the old one would raise what is left of its errors at the next save
        if self._failed_saves > 1:
            return StorageError(f"{failure}; {self._failed_saves} saves in a row have failed")
        return failure

    def settle(self) -> None:
        """Waits for the save under way; raises `StorageError` if `max_failed_saves` saves in a row have failed."""
        failure = self._outcome()
        if failure is not None and self._failed_saves >= self._max_failed_saves:
            raise failure

    def wait(self) -> None:
        """Returns when the save under way is committed; raises `StorageError` if it failed."""
        failure = self._outcome()
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Waits, then releases Orbax' threads."""
        try:
            self.wait()
        finally:
            self._release()

    def _release(self) -> None:
        self._thread.shutdown()
        self._orbax.close()
        self._reader.close()
        if self._primary:
            self._remove_unfinished()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None or issubclass(kind, Interrupted):
            self.close()
        elif self._alone:  # of several processes one may be gone, and its part of a save would be waited for in vain
            self._release()


def _reason(error: Exception) -> str:
    """TensorStore's errors are paragraphs; of what the system refused, its own words are kept."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return f"cannot write the arrays: {os.strerror(int(code[1]))}" if code else str(error) or repr(error)


def _writer() -> Any:
    import orbax.checkpoint as ocp

    return ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())


def _absolute(path: epath.Path) -> epath.Path:
    """Orbax takes no relative paths."""
    return path if is_remote(path) else path.absolute()
