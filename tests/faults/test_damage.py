"""Every kind of damage to every file of a checkpoint is noticed before an array is used; the step before it is used instead."""

import os
import shutil

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from resflax.errors import StorageError
from resflax.training.checkpoints import Checkpoints, Saved, committed_steps, latest_checkpoint, open_checkpoint
from resflax.tree import digest


def state(step):
    return {"params": {"kernel": jnp.arange(12.0).reshape(3, 4) * step, "bias": jnp.ones(3)}, "step": jnp.int32(step)}


def abstract(tree):
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one), tree)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    root = tmp_path_factory.mktemp("pristine") / "checkpoints"
    checkpoints = Checkpoints(epath.Path(root), keep_last=3)
    for step in (1, 2):
        checkpoints.save(step, state(step), {"seen": step}, {"name": "x", "config": {"seed": step}})
    checkpoints.close()
    return root


@pytest.fixture
def root(pristine, tmp_path):
    """Steps 1 and 2."""
    return epath.Path(shutil.copytree(pristine, tmp_path / "checkpoints"))


def arrays(step):
    """The files that hold array data, largest first."""
    return sorted((step / "state" / "ocdbt.process_0" / "d").iterdir(), key=lambda file: (-file.stat().st_size, file.name))


FILES = {
    "manifest.json": lambda step: step / "manifest.json",
    "progress.json": lambda step: step / "progress.json",
    "metadata.json": lambda step: step / "metadata.json",
    "_METADATA": lambda step: step / "state" / "_METADATA",
    "_CHECKPOINT_METADATA": lambda step: step / "state" / "_CHECKPOINT_METADATA",
    "_sharding": lambda step: step / "state" / "_sharding",
    "commit_success.txt": lambda step: step / "state" / "commit_success.txt",
    "manifest.ocdbt": lambda step: step / "state" / "manifest.ocdbt",
    "manifest.ocdbt of the process": lambda step: step / "state" / "ocdbt.process_0" / "manifest.ocdbt",
    "index of the arrays": lambda step: next((step / "state" / "d").iterdir()),
    "array data": lambda step: arrays(step)[0],
    "smaller array data": lambda step: arrays(step)[-1],
}


def edited(change):
    def edit(file, _):
        content = bytearray(file.read_bytes())
        change(content)
        file.write_bytes(bytes(content))

    return edit


def flip(mask):
    def change(content):
        content[len(content) // 2] ^= mask

    return edited(change)


def swap(file, _):
    """With another file of the checkpoint, of the same kind if there is one."""
    near = [other for other in file.parent.iterdir() if other.is_file() and other != file]
    other = next(iter(sorted(near)), file.parents[1] / "manifest.ocdbt")
    ours, theirs = file.read_bytes(), other.read_bytes()
    file.write_bytes(theirs)
    other.write_bytes(ours)


def from_another_step(file, twin):
    content = twin.read_bytes()
    file.write_bytes(content if content != file.read_bytes() else content[::-1])


def replaced_by_a_folder(file, _):
    file.unlink()
    file.mkdir()


def moved(file, _):
    file.rename(file.with_name(f"{file.name}.bak"))


DAMAGE = {
    "deleted": lambda file, _: file.unlink(),
    "emptied": lambda file, _: file.write_bytes(b""),
    "halved": edited(lambda content: content.__delitem__(slice(len(content) // 2, None))),
    "the end lost": edited(lambda content: content.__delitem__(slice(-3, None))),
    "extended": edited(lambda content: content.append(0)),
    "bit flipped": flip(1),
    "byte flipped": flip(0xFF),
    "overwritten with zeros": edited(lambda content: content.__setitem__(slice(None), bytes(len(content)))),
    "swapped with its neighbour": swap,
    "that of another step": from_another_step,
    "a folder in its place": replaced_by_a_folder,
    "renamed": moved,
}


def test_there_are_enough_cases():
    assert len(DAMAGE) * len(FILES) >= 72
    assert len(DAMAGE) >= 12


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_noticed_and_the_previous_step_used(root, tmp_path, kind, name):
    victim, twin = (FILES[name](tmp_path / "checkpoints" / step) for step in ("2", "1"))
    DAMAGE[kind](victim, twin)
    with pytest.raises(StorageError) as caught:
        open_checkpoint(root / "2")
    # Of two files that were swapped the first is named; a renamed one is missing, or its new name does not belong.
    named = {victim.name, *(other.name for other in victim.parent.parent.rglob("*") if kind == "swapped with its neighbour")}
    assert any(name in str(caught.value) for name in named)
    said = []
    saved = latest_checkpoint(root, said.append)  # what `evaluate` and `predict` do: they change nothing
    assert len(said) == 1
    assert str(caught.value) in said[0]
    assert (tmp_path / "checkpoints" / "2").exists()
    said.clear()
    saved = latest_checkpoint(root, said.append, set_aside=True)  # the trainer
    assert len(said) == 1
    assert str(caught.value) in said[0]
    assert saved.step == 1
    assert digest(saved.restore(abstract(state(1)))) == digest(state(1))
    assert sorted(path.name.rpartition("-")[0] or path.name for path in root.iterdir()) == ["1", "damaged-2"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(root, tmp_path):
    victim = arrays(tmp_path / "checkpoints" / "2")[0]
    victim.chmod(0)
    with pytest.raises(StorageError, match=f"cannot read .*{victim.name}: Permission denied"):
        open_checkpoint(root / "2")


def test_a_file_too_many_is_noticed(root):
    (root / "2" / "state" / "d" / "stray").write_text("x")
    with pytest.raises(StorageError, match="stray does not belong"):
        open_checkpoint(root / "2")


def test_a_step_under_another_steps_name_is_noticed(root, tmp_path):
    shutil.copytree(tmp_path / "checkpoints" / "1", tmp_path / "checkpoints" / "3")
    with pytest.raises(StorageError, match=r"3/manifest\.json is that of step 1"):
        open_checkpoint(root / "3")
    assert latest_checkpoint(root).step == 2


def test_all_steps_damaged_is_no_checkpoint(root, tmp_path):
    for step in ("1", "2"):
        (tmp_path / "checkpoints" / step / "progress.json").unlink()
    said = []
    assert latest_checkpoint(root, said.append) is None
    assert len(said) == 2


@pytest.mark.parametrize("lost", ["the manifest of the newest", "the manifest of an older one", "half of an older one"])
def test_without_marker_a_step_without_manifest_is_a_loss_and_set_aside(root, tmp_path, lost):
    step = "2" if lost == "the manifest of the newest" else "1"
    victim = tmp_path / "checkpoints" / step
    (victim / "manifest.json").unlink()
    if lost == "half of an older one":
        shutil.rmtree(victim / "state" / "ocdbt.process_0")
    left = sorted(path.name for path in victim.rglob("*"))
    said = []
    Checkpoints(root, keep_last=2, say=said.append).close()
    assert len(said) == 1
    assert f"checkpoint {step} is not used: {victim}/manifest.json is missing; it is set aside as" in said[0]
    (aside,) = (tmp_path / "checkpoints").glob(f"damaged-{step}-*")
    assert sorted(path.name for path in aside.rglob("*")) == left  # nothing is deleted that nobody wrote off
    assert committed_steps(root) == [3 - int(step)]


def test_with_its_marker_a_step_without_manifest_is_cleared_without_a_word(root, tmp_path):
    (tmp_path / "checkpoints" / "2" / "manifest.json").unlink()
    (tmp_path / "checkpoints" / "2.unfinished").touch()
    (tmp_path / "checkpoints" / "7.unfinished").touch()  # killed before it made the folder
    (tmp_path / "checkpoints" / "8").mkdir()  # another process of the job made it first
    said = []
    assert latest_checkpoint(root, said.append).step == 1
    Checkpoints(root, keep_last=2, say=said.append).close()
    assert not said
    assert [path.name for path in root.iterdir()] == ["1"]


def test_a_manifest_beside_a_leftover_marker_is_a_committed_step(root, tmp_path):
    (tmp_path / "checkpoints" / "2.unfinished").touch()
    assert latest_checkpoint(root).step == 2
    Checkpoints(root, keep_last=2).close()
    assert sorted(path.name for path in root.iterdir()) == ["1", "2"]
    assert latest_checkpoint(root).step == 2


def test_retention_counts_no_step_whose_manifest_is_not_true(root, tmp_path):
    checkpoints = Checkpoints(root, keep_last=2)
    manifest = tmp_path / "checkpoints" / "1" / "manifest.json"  # damaged while the run goes on
    manifest.write_bytes(manifest.read_bytes()[:-9])
    for step in (3, 4):
        checkpoints.save(step, state(step), {}, {})
    checkpoints.close()
    assert committed_steps(root) == [1, 3, 4]  # the damaged one is left to a person


def copied(tree):
    return jax.tree.map(lambda leaf: leaf, tree)


def without(tree, *path):
    tree = copied(tree)
    node = tree
    for key in path[:-1]:
        node = node[key]
    del node[path[-1]]
    return tree


FULL = {
    "step": jnp.int32(1),
    "params": {"stem_conv": {"kernel": jnp.ones((3, 3, 3, 4))}, "head": {"kernel": jnp.ones((4, 5)), "bias": jnp.ones(5)}},
    "opt_state": {"trace": jnp.ones((4, 5))},
    "ema": {"head": jnp.ones((4, 5))},
}


def changed(name, leaf):
    tree = copied(FULL)
    node = tree
    *path, last = name.split("/")
    for key in path:
        node = node.setdefault(key, {})
    node[last] = leaf
    return tree


TREES = {
    "width": (
        changed("params/stem_conv/kernel", jnp.ones((3, 3, 3, 8))),
        "params/stem_conv/kernel is float32[3,3,3,4], expected float32[3,3,3,8]",
    ),
    "depth": (changed("params/stage1/kernel", jnp.ones((3, 3, 4, 4))), "params/stage1/kernel is missing"),
    "less depth": (without(FULL, "params", "stem_conv"), "params/stem_conv/kernel is not expected"),
    "classes": (changed("params/head/bias", jnp.ones(7)), "params/head/bias is float32[5], expected float32[7]"),
    "stem": (changed("params/stem_conv/kernel", jnp.ones((7, 7, 3, 4))), "expected float32[7,7,3,4]"),
    "optimizer": (changed("opt_state", {"mu": jnp.ones((4, 5)), "nu": jnp.ones((4, 5))}), "opt_state/mu is missing"),
    "no average": (without(FULL, "ema"), "ema/head is not expected"),
    "an average more": (changed("ema/bias", jnp.ones(5)), "ema/bias is missing"),
    "missing leaf": (changed("params/head/scale", jnp.ones(5)), "params/head/scale is missing"),
    "extra leaf": (without(FULL, "params", "head", "bias"), "params/head/bias is not expected"),
    "renamed module": (changed("params/head", {"dense": FULL["params"]["head"]}), "params/head/dense/bias is missing"),
    "transposed kernel": (changed("params/head/kernel", jnp.ones((5, 4))), "is float32[4,5], expected float32[5,4]"),
    "dtype": (changed("params/head/kernel", jnp.ones((4, 5), jnp.bfloat16)), "is float32[4,5], expected bfloat16[4,5]"),
    "integer step": (changed("step", jnp.float32(1)), "step is int32[], expected float32[]"),
    "scalar for a vector": (changed("params/head/bias", jnp.float32(1)), "is float32[5], expected float32[]"),
    "another rank": (changed("params/head/bias", jnp.ones((5, 1))), "is float32[5], expected float32[5,1]"),
}


@pytest.mark.parametrize("name", TREES)
def test_another_tree_is_refused_before_an_array_is_read(name, tmp_path, monkeypatch):
    import orbax.checkpoint as ocp

    from resflax.tree import signature

    def read(*_):
        raise AssertionError("an array was read")

    monkeypatch.setattr(ocp, "StandardCheckpointer", read)
    tree, message = TREES[name]
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "arrays").write_bytes(bytes(1000))
    saved = Saved(epath.Path(tmp_path / "1"), 1, signature(FULL), None, {}, {})
    with pytest.raises(StorageError) as caught:
        saved.restore(abstract(tree))
    assert message in str(caught.value)
    assert str(saved.path) in str(caught.value)
    with pytest.raises(AssertionError, match="an array was read"):
        saved.restore(abstract(FULL))
