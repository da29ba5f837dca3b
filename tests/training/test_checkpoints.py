import shutil

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


FILES = ["manifest.json", "progress.json", "metadata.json", "state/_METADATA", "state/manifest.ocdbt", "data"]


def locate(checkpoint, name):
    if name != "data":
        return checkpoint / name
    arrays = (checkpoint / "state" / "ocdbt.process_0" / "d").iterdir()
    return max(arrays, key=lambda file: file.stat().st_size)


def flip_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


DAMAGE = {
    "flipped bit": flip_bit,
    "deleted": lambda file: file.unlink(),
    "emptied": lambda file: file.write_bytes(b""),
    "halved": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "extended": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_detected_and_the_previous_step_used(two_steps, tmp_path, name, kind):
    victim = locate(tmp_path / "checkpoints" / "2", name)
    DAMAGE[kind](victim)
    if not (name == "manifest.json" and kind == "deleted"):  # without a manifest the step was never committed
        with pytest.raises(StorageError, match=victim.name):
            open_checkpoint(two_steps / "2")
    said = []
    saved = latest_checkpoint(two_steps, said.append)
    assert saved.step == 1
    assert digest(saved.restore(abstract(STATE))) == digest({**STATE, "step": jnp.int32(1)})
    assert len(said) == (0 if name == "manifest.json" and kind == "deleted" else 1)


def test_a_file_from_another_step_or_too_many_is_detected(two_steps, tmp_path):
    root = tmp_path / "checkpoints"
    shutil.copy(root / "1" / "progress.json", root / "2" / "progress.json")
    with pytest.raises(StorageError, match=r"progress.json is damaged"):
        open_checkpoint(two_steps / "2")
    (root / "1" / "stray").write_text("x")
    with pytest.raises(StorageError, match="stray does not belong"):
        open_checkpoint(two_steps / "1")
    assert latest_checkpoint(two_steps) is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"params": {"kernel": jnp.zeros((3, 5))}, "step": jnp.int32(0)},
            r"params/kernel is float32\[3,4\], expected float32\[3,5\]",
        ),
        ({"params": {"kernel": jnp.zeros((3, 4), jnp.bfloat16)}, "step": jnp.int32(0)}, r"expected bfloat16\[3,4\]"),
        (
            {"params": {"weight": jnp.zeros((3, 4))}, "step": jnp.int32(0)},
            "params/weight is missing; params/kernel is not expected",
        ),
        ({"params": {"kernel": jnp.zeros((3, 4))}}, "step is not expected"),
    ],
)
def test_another_tree_is_refused_before_anything_is_read(two_steps, changed, message):
    saved = latest_checkpoint(two_steps)
    with pytest.raises(StorageError, match=message):
        saved.restore(abstract(changed))


def test_what_a_killed_process_left_is_cleared(two_steps, tmp_path):
    root = tmp_path / "checkpoints"
    (root / "3" / "state.orbax-checkpoint-tmp-1").mkdir(parents=True)
    assert latest_checkpoint(two_steps).step == 2
    checkpoints = Checkpoints(two_steps, keep_last=2)
    assert not (root / "3").exists()
    checkpoints.save(3, STATE, {}, {})
    checkpoints.close()
    assert committed_steps(two_steps) == [2, 3]


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


def test_restoring_onto_other_devices(two_steps):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), STATE)
    restored = latest_checkpoint(two_steps).restore(target)
    assert restored["params"]["kernel"].sharding == where
    np.testing.assert_array_equal(restored["params"]["kernel"], STATE["params"]["kernel"])
