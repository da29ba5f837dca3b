"""Checkpoints that can be believed: `<step>/{state, progress.json, metadata.json, manifest.json}`.

Orbax writes the arrays in the background. The manifest is written last; it names every file with its size and SHA-256,
and a step without a true manifest does not exist. What Orbax does not do and this does: check the bytes, compare the
saved tree with the expected one before reading, fall back to an older step, and fail the run when a background save
failed.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from concurrent import futures
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from resflax.errors import StorageError
from resflax.files import is_remote, read_json, sha256, storage, write_json
from resflax.tree import differences, signature
from resflax.types import Tree

FORMAT = 1
_MANIFEST = "manifest.json"


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
        wrong = differences(self.tree, signature(abstract))
        if wrong:
            raise StorageError(
                f"checkpoint {self.path} does not fit this model and optimizer: {'; '.join(wrong[:3])}"
                f"{f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''}; use the configuration it was made with"
            )
        with storage("read", self.path), ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(_absolute(self.path / "state"), abstract)


def open_checkpoint(path: epath.Path) -> Saved:
    """Verifies every byte of a checkpoint; raises `StorageError` naming the first file that is not what it was."""
    manifest = read_json(path / _MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("sha256") != _manifest_digest(manifest):
        raise StorageError(f"{path / _MANIFEST} is damaged; the checkpoint cannot be trusted")
    if manifest["format"] != FORMAT:
        raise StorageError(f"{path} has checkpoint format {manifest['format']}, this version reads {FORMAT}; update resflax")
    found, expected = set(_files(path)), manifest["files"]
    for name in sorted(found | expected.keys()):
        if name not in found:
            raise StorageError(f"{path / name} is missing")
        if name not in expected:
            raise StorageError(f"{path / name} does not belong to the checkpoint")
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


def latest_checkpoint(root: epath.Path, say: Any = None, set_aside: bool = False) -> Saved | None:
    """The newest checkpoint under `root` that verifies; None when there is none.

    Args:
      root: the `checkpoints` folder of a workdir.
      say: called with one sentence for each damaged step that is passed over.
      set_aside: move damaged steps to `root/damaged-<step>-<time>`, so that they are not tried again; for the trainer.
    """
    for step in reversed(committed_steps(root)):
        path = root / str(step)
        try:
            return open_checkpoint(path)
        except StorageError as error:
            if say is not None:
                say(f"checkpoint {step} is not used: {error}; the previous one is tried")
            if set_aside:
                path.rename(root / f"damaged-{step}-{int(time.time())}")
    return None


def committed_steps(root: epath.Path) -> list[int]:
    """The steps under `root` that have a manifest, true or not, in increasing order."""
    with storage("read", root):
        if not root.exists():
            return []
        return sorted(int(path.name) for path in root.iterdir() if path.name.isdecimal() and (path / _MANIFEST).exists())


class Checkpoints:
    """Saves, in the background, and keeps the last few and the best few.

    Every process of a job calls it alike; process 0 writes everything but the arrays.
    """

    def __init__(self, root: epath.Path, keep_last: int, keep_best: int = 0):
        self._root, self._keep_last, self._keep_best = root, keep_last, keep_best
        self._committing: futures.Future[None] | None = None
        self._snapshot = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))
        self._primary, self._alone = jax.process_index() == 0, jax.process_count() == 1
        with storage("write", root):
            root.mkdir(parents=True, exist_ok=True)
            there = root.iterdir() if self._primary and root.exists() else ()  # an object store has no empty folders
            for path in there:  # what a killed process left unfinished
                if ".orbax-checkpoint-tmp" in path.name or (path.name.isdecimal() and not (path / _MANIFEST).exists()):
                    path.rmtree()
        self._orbax = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())
        self._thread = futures.ThreadPoolExecutor(1, "commit")

    def save(
        self,
        step: int,
        state: Tree,
        progress: Mapping[str, Any],
        metadata: Mapping[str, Any],
        score: float | None = None,
    ) -> None:
        """Starts saving; waits only for an earlier save. A step that is already committed is left alone.

        A single process leaves all the rest to a thread. Several start to write together, which takes the devices, so that
        their callers must do it between two steps.

        Raises `StorageError` if the earlier save failed.
        """
        self.wait()
        path = self._root / str(step)
        if (path / _MANIFEST).exists():
            return
        # The caller goes on to donate these buffers, while they are still being read, and to change its progress.
        snapshot, frozen = self._snapshot(state), json.loads(json.dumps(progress))
        if not self._alone:
            self._start_writing(path, snapshot)
        manifest = {"format": FORMAT, "step": step, "score": score}
        self._committing = self._thread.submit(self._commit, path, snapshot, manifest, frozen, dict(metadata))

    def _start_writing(self, path: epath.Path, snapshot: Tree) -> None:
        with storage("write", path):
            path.mkdir(parents=True, exist_ok=True)
            self._orbax.save(_absolute(path / "state"), args=ocp.args.StandardSave(snapshot))

    def _commit(self, path: epath.Path, snapshot: Tree, manifest: dict[str, Any], progress: Any, metadata: Any) -> None:
        """Runs in a thread: has Orbax put the arrays in place, then writes the rest, the manifest last."""
        if self._alone:
            self._start_writing(path, snapshot)
        self._orbax.wait_until_finished()
        if not self._primary:
            return
        write_json(path / "progress.json", progress)
        write_json(path / "metadata.json", metadata)
        files = {name: {"size": (path / name).stat().length, "sha256": sha256(path / name)} for name in _files(path)}
        manifest = {**manifest, "tree": signature(snapshot), "files": files}
        write_json(path / _MANIFEST, {**manifest, "sha256": _manifest_digest(manifest)})
        self._remove_old()

    def _remove_old(self) -> None:
        steps = committed_steps(self._root)
        scored = [(read_json(self._root / str(step) / _MANIFEST)["score"], step) for step in steps]
        best = sorted(((score, step) for score, step in scored if score is not None), reverse=True)
        keep = {*steps[-self._keep_last :], *(step for _, step in best[: self._keep_best])}
        for step in steps:
            if step not in keep:
                # Without its manifest a half-deleted step does not exist.
                (self._root / str(step) / _MANIFEST).unlink()
                (self._root / str(step)).rmtree()

    def wait(self) -> None:
        """Returns when the save under way is committed; raises `StorageError` if it failed."""
        if self._committing is None:
            return
        committing, self._committing = self._committing, None
        try:
            committing.result()
        except StorageError:
            raise
        except Exception as error:  # whatever the threads met, the run must not go on as if it were saved
            raise StorageError(f"a checkpoint could not be written to {self._root}: {error}; check the disk") from error

    def close(self) -> None:
        """Waits, then releases Orbax' threads."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._orbax.close()


def _absolute(path: epath.Path) -> epath.Path:
    """Orbax takes no relative paths."""
    return path if is_remote(path) else path.absolute()


def _files(path: epath.Path) -> list[str]:
    """Paths, relative to a checkpoint, of all its files but the manifest."""
    found, folders = [], [path]
    while folders:
        for child in folders.pop().iterdir():
            if child.is_dir():
                folders.append(child)
            elif child.name != _MANIFEST:
                found.append(str(child.relative_to(path)))
    return sorted(found)


def _manifest_digest(manifest: Mapping[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
