"""What a power cut could undo is on the disk before what relies on it: every file before the manifest, every name likewise."""

import os

import jax.numpy as jnp
import pytest
from etils import epath

from resflax.files import write_bytes
from resflax.training.checkpoints import Checkpoints, open_checkpoint


@pytest.fixture
def recorded(monkeypatch):
    """`[("sync" | "rename" | "unlink", path), ...]` in order; of a rename the new path."""
    events = []
    fsync, replace, unlink = os.fsync, os.replace, os.remove

    def record_fsync(descriptor):
        fsync(descriptor)
        events.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))

    def record_replace(source, target):
        replace(source, target)
        events.append(("rename", str(target)))

    def record_remove(path, **options):
        unlink(path, **options)
        events.append(("unlink", str(path)))

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    monkeypatch.setattr(os, "remove", record_remove)
    return events


def test_all_of_a_step_is_on_the_disk_before_its_manifest_and_its_manifest_before_an_old_step_goes(recorded, tmp_path):
    root = epath.Path(tmp_path / "checkpoints")
    checkpoints = Checkpoints(root, keep_last=1)
    checkpoints.save(1, {"x": jnp.ones(3)}, {}, {})
    checkpoints.wait()
    recorded.clear()
    checkpoints.save(2, {"x": jnp.zeros(3)}, {}, {})
    checkpoints.close()
    open_checkpoint(root / "2")

    step, manifest = str(root / "2"), str(root / "2" / "manifest.json")
    committed = recorded.index(("rename", manifest))
    before, after = recorded[:committed], recorded[committed + 1 :]
    synced = {path for kind, path in before if kind == "sync"}
    files = {str(path) for path in (tmp_path / "checkpoints" / "2").rglob("*") if path.is_file()} - {manifest}
    folders = {step, str(root), *(str(path) for path in (tmp_path / "checkpoints" / "2").rglob("*") if path.is_dir())}
    assert len(files) > 10
    assert not files - synced
    assert not folders - synced
    # The manifest itself is synced under its temporary name, and its new name before the mark goes.
    assert f"{manifest}.tmp{os.getpid()}" in synced
    named, unmarked = after.index(("sync", step)), after.index(("unlink", f"{step}.unfinished"))
    assert named < unmarked
    # Of the old step the mark is on the disk before the manifest goes, and that before anything else does.
    old = str(root / "1")
    gone = after.index(("unlink", f"{old}/manifest.json"))
    assert unmarked < after.index(("sync", str(root)), unmarked) < gone < after.index(("sync", old), gone)
    removed = [index for index, (kind, path) in enumerate(after) if kind == "unlink" and index > gone and "/" not in path]
    assert all(index > after.index(("sync", old), gone) for index in removed)
    assert after[-1] == ("unlink", f"{old}.unfinished")


def test_a_written_file_is_on_the_disk_under_its_name(recorded, tmp_path):
    path = str(tmp_path / "x.json")
    write_bytes(path, b"x")
    assert recorded == [("sync", f"{path}.tmp{os.getpid()}"), ("rename", path), ("sync", str(tmp_path))]
