"""The files of a checkpoint: which steps are committed, unfinished or damaged, and how one is removed.

A step is the folder `<step>/{state, progress.json, metadata.json, manifest.json}`. While it is being written or removed, the
marker `<step>.unfinished` lies beside the folder: it is made before all the rest of the step and removed after all the rest.

| marker | manifest | the step is |
|---|---|---|
| no | yes | committed |
| yes | yes | committed; its process was killed before it removed the marker |
| yes | no | unfinished: being written or removed, or what a killed process left of that |
| no | no | damaged: it was committed, and its manifest got lost |

That needs no more than writing and removing single files, which object stores have too. The marker lies beside the folder so
that there is no moment at which a folder is without it, and so that a folder holds what its manifest lists and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from resflax.errors import StorageError
from resflax.files import is_remote, read_json, storage, sync

MANIFEST = "manifest.json"
Say = Callable[[str], None]


def to_stderr(text: str) -> None:
    """Says a sentence where nothing else is shown."""
    print(text, file=sys.stderr, flush=True)


def all_steps(root: epath.Path) -> list[int]:
    """The steps under `root` that have a folder, whatever it holds, in increasing order."""
    with storage("read", root):
        names = [path.name for path in root.iterdir()] if root.exists() else []
    return sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)


def committed_steps(root: epath.Path) -> list[int]:
    """The steps under `root` that have a manifest, true or not, in increasing order."""
    with storage("read", root):
        return [step for step in all_steps(root) if (root / str(step) / MANIFEST).exists()]


def is_unfinished(path: epath.Path) -> bool:
    """Whether the step in the folder `path` is being written or removed, or was when its process was killed."""
    with storage("read", path):  # a folder without a file is no loss
        return not (path / MANIFEST).exists() and (_marker(path).exists() or not contents(path))


def begin(path: epath.Path) -> None:
    """Marks the step that will be in the folder `path` as unfinished."""
    with storage("write", _marker(path)):
        _marker(path).write_bytes(b"")
        sync(path.parent)


def end(path: epath.Path) -> None:
    """Removes the mark."""
    with storage("remove", _marker(path)):
        _marker(path).unlink(missing_ok=True)


def clear(path: epath.Path) -> None:
    """Removes a step, but leaves it marked, for somebody may still be writing to it."""
    begin(path)
    with storage("remove", path):
        if (path / MANIFEST).exists():
            (path / MANIFEST).unlink()
            sync(path)
        path.rmtree(missing_ok=True)


def remove(path: epath.Path) -> None:
    """Removes a step; a kill in between leaves it unfinished, never damaged."""
    clear(path)
    end(path)


def remove_unfinished(root: epath.Path) -> None:
    """Removes all steps that are unfinished, and marks that a kill left beside a committed one."""
    with storage("read", root):
        marked = [root / path.stem for path in root.glob("*.unfinished")]
    for path in {*marked, *(root / str(step) for step in all_steps(root))}:
        if is_unfinished(path):
            remove(path)
        else:
            end(path)


def set_aside(path: epath.Path, reason: object, say: Say) -> None:
    """Moves a damaged step to `damaged-<step>-<time>`, so that it is not tried again and nothing is lost."""
    target = path.parent / f"damaged-{path.name}-{int(time.time())}"
    with storage("move", path):
        path.rename(target)
    say(f"checkpoint {path.name} is not used: {reason}; it is set aside as {target}")


def recover(root: epath.Path, say: Say) -> None:
    """Clears what a killed process left, and sets steps aside whose manifest is lost or not true.

    Only for the process that writes to `root`.
    """
    remove_unfinished(root)
    for step in all_steps(root):
        try:
            read_manifest(root / str(step))
        except StorageError as error:
            set_aside(root / str(step), error, say)


def contents(path: epath.Path) -> list[str]:
    """Paths, relative to a step's folder, of all its files but the manifest."""
    found, folders = [], [path]
    with storage("read", path):
        while folders:
            for child in folders.pop().iterdir():
                if child.is_dir() and not _is_link(child):
                    folders.append(child)
                elif child != path / MANIFEST:
                    found.append(str(child.relative_to(path)))
    return sorted(found)


def read_manifest(path: epath.Path) -> dict[str, Any]:
    """The manifest of a step; raises `StorageError` where there is none, or where it is not as it was written."""
    if not (path / MANIFEST).exists():
        raise StorageError(f"{path / MANIFEST} is missing")
    manifest = read_json(path / MANIFEST)
    if not _has_form(manifest) or manifest["sha256"] != manifest_digest(manifest):
        raise StorageError(f"{path / MANIFEST} is damaged; the checkpoint cannot be trusted")
    if str(manifest["step"]) != path.name:
        raise StorageError(f"{path / MANIFEST} is that of step {manifest['step']}")
    return manifest


def is_plain(path: epath.Path) -> bool:
    """Whether it is a file and nothing that only leads to one, or never ends."""
    return path.is_file() and not _is_link(path)


def _is_link(path: epath.Path) -> bool:
    return not is_remote(path) and os.path.islink(path)


def _has_form(value: Any) -> bool:
    """Whether a value of JSON has what a manifest has."""
    fields: dict[str, Any] = {"format": int, "step": int, "tree": dict, "files": dict, "sha256": str}
    fields["score"] = (int, float, type(None))
    if not isinstance(value, dict) or not all(name in value and isinstance(value[name], kind) for name, kind in fields.items()):
        return False
    return all(isinstance(file, dict) and {"size", "sha256"} <= file.keys() for file in value["files"].values())


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's content without the digest itself."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sync_all(path: epath.Path, names: list[str]) -> None:
    """Waits until the files `names` of a step, and their names in all folders, would survive a power cut."""
    files = [path / name for name in names]
    with storage("write", path):
        for one in files:
            sync(one)
        for folder in {parent for one in files for parent in one.parents if parent.is_relative_to(path.parent)}:
            sync(folder)


def _marker(path: epath.Path) -> epath.Path:
    return path.parent / f"{path.name}.unfinished"
