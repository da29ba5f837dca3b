import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from resflax.errors import StorageError
from resflax.training.checkpoints import Checkpoints, committed_steps, latest_checkpoint, open_checkpoint
from resflax.tree import digest

STATE = {"params": {"kernel": jnp.arange(12.0).reshape(3, 4)}, "step": jnp.int32(7)}


def abstract(tree):
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one), tree)


@pytest.fixture
def root(tmp_path):
    return epath.Path(tmp_path / "checkpoints")


@pytest.fixture
def two_steps(root):
    checkpoints = Checkpoints(root, keep_last=2)
    for step in (1, 2):
        checkpoints.save(step, {**STATE, "step": jnp.int32(step)}, {"seen": step}, {"name": "x"})
    checkpoints.close()
    return root


def test_what_is_saved_comes_back(two_steps):
    saved = latest_checkpoint(two_steps)
    assert (saved.step, saved.progress, saved.metadata) == (2, {"seen": 2}, {"name": "x"})
    assert digest(saved.restore(abstract(STATE))) == digest({**STATE, "step": jnp.int32(2)})


def test_a_donated_state_is_saved_as_it_was(root):
    bump = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    checkpoints = Checkpoints(root, keep_last=1)
    state = {"x": jnp.zeros((512, 512))}
    for step in range(1, 6):
        state = bump(state)
        checkpoints.save(step, state, {}, {})
        state = bump(bump(state))  # overwrites the buffers while the save runs
        checkpoints.wait()
        restored = latest_checkpoint(root).restore(abstract(state))
        np.testing.assert_array_equal(restored["x"], np.full((512, 512), 3 * (step - 1) + 1))
    checkpoints.close()


def test_the_last_and_the_best_are_kept(root):
    checkpoints = Checkpoints(root, keep_last=2, keep_best=2)
    for step, score in enumerate((0.5, 0.9, None, 0.8, 0.1, 0.2), start=1):
        checkpoints.save(step, STATE, {}, {}, score)
    checkpoints.close()
    assert committed_steps(root) == [2, 4, 5, 6]


def test_a_failed_background_save_is_reported(root, monkeypatch):
    checkpoints = Checkpoints(root, keep_last=1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("resflax.training.checkpoints.write_json", full)
    checkpoints.save(1, STATE, {}, {})
    with pytest.raises(StorageError, match="No space left on device"):
        checkpoints.wait()
    assert committed_steps(root) == []
    checkpoints.close()


def test_a_committed_step_is_left_as_it_is_and_compared(two_steps, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints" / "2").rglob("*")}
    checkpoints = Checkpoints(two_steps, keep_last=2)
    checkpoints.save(2, {**STATE, "step": jnp.int32(2)}, {}, {})
    checkpoints.wait()
    checkpoints.save(2, {**STATE, "step": jnp.int32(3)}, {}, {})
    with pytest.raises(StorageError, match="step reads back as another array than was saved"):
        checkpoints.close()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints" / "2").rglob("*")} == before


def test_restoring_onto_other_devices(two_steps):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), STATE)
    restored = latest_checkpoint(two_steps).restore(target)
    assert restored["params"]["kernel"].sharding == where
    np.testing.assert_array_equal(restored["params"]["kernel"], STATE["params"]["kernel"])


@pytest.mark.parametrize(("name", "value"), [("score", 0.9), ("format", 1.0), ("tree", {})])
def test_a_manifest_that_was_edited_is_noticed(two_steps, tmp_path, name, value):
    path = tmp_path / "checkpoints" / "2" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, name: value}))
    with pytest.raises(StorageError, match=r"manifest\.json is damaged"):
        open_checkpoint(two_steps / "2")
    assert latest_checkpoint(two_steps).step == 1
