"""A checkpoint of one layout loads in every other, with the same logits."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from etils import epath

import resflax
from resflax import train
from resflax.build import build
from resflax.config import Config, DataConfig, EmaConfig, ModelConfig, OptimConfig
from resflax.data.preprocess import Preprocessing
from resflax.errors import ConfigError
from resflax.files import Workdir, write_json
from resflax.training.checkpoints import Checkpoints
from resflax.tree import digest, named_leaves
from tests import micro

LAYOUTS = ("loop", "scan", "scan_remat")
# Each with a state of its own, which is in the checkpoint too.
OPTIMIZERS = {
    "loop": OptimConfig("muon", 0.02, weight_decay=1e-3, decay="decoupled"),
    "scan": OptimConfig("lars", clip_adaptive=0.02),
    "scan_remat": OptimConfig("adam", 1e-3),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return micro.write_npz(tmp_path_factory.mktemp("images"))


def config(images, layout):
    return Config(
        total_steps=3,
        data=DataConfig(name=str(images), batch_size=8, eval_batch_size=24),
        model=ModelConfig("cifar_resnet20", {"width": 2, "repeat": layout}),
        optim=OPTIMIZERS[layout],
        ema=EmaConfig(decay=0.5),
    )


def save(config, workdir, steps):
    """Checkpoints of states whose every array differs from its initial value and from its average."""
    run = build(config, jax.devices()[:1])
    checkpoints = Checkpoints(epath.Path(workdir) / "checkpoints", keep_last=len(steps))
    for step in steps:
        rng = np.random.default_rng(step)
        noisy = jax.tree.map(
            lambda leaf, rng=rng: (leaf + 0.1 * rng.random(leaf.shape)).astype(leaf.dtype), run.initial_state()
        )
        checkpoints.save(step, noisy, {}, run.metadata())
    checkpoints.close()


@pytest.fixture(scope="module")
def workdirs(images, tmp_path_factory):
    """`{layout: workdir}`."""
    folder = tmp_path_factory.mktemp("layouts")
    for layout in LAYOUTS:
        save(config(images, layout), folder / layout, (2, 3))
    return {layout: folder / layout for layout in LAYOUTS}


def logits(model, variables, metadata, images):
    prepared = Preprocessing.from_dict(metadata["preprocessing"])(images)
    return jax.jit(lambda variables: model.apply(variables, prepared, train=False))(variables)


@pytest.mark.long
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_loads_in_every_layout(layout, workdirs, images):
    images = np.load(images)["test_images"][:4]
    model, variables, metadata = resflax.load(str(workdirs[layout]))
    assert (metadata["layout"], model.repeat, metadata["step"]) == (layout, layout, 3)
    expected = logits(model, variables, metadata, images)
    assert np.ptp(expected) > 0.01
    for wanted in (name for name in LAYOUTS if name != layout):
        model, converted, metadata = resflax.load(str(workdirs[layout]), repeat=wanted)
        assert (metadata["layout"], model.repeat) == (wanted, wanted)
        assert metadata["config"]["model"]["kwargs"]["repeat"] == layout  # that of the run
        name = "stage1/block3/conv1/kernel" if wanted == "loop" else "stage1/blocks/conv1/kernel"
        assert name in named_leaves(converted["params"])
        np.testing.assert_allclose(logits(model, converted, metadata, images), expected, rtol=1e-5, atol=1e-5)


def test_one_step_of_several_is_converted(workdirs):
    _, own, metadata = resflax.load(str(workdirs["loop"]), step=2)
    _, converted, again = resflax.load(str(workdirs["loop"]), step=2, repeat="scan")
    assert (metadata["step"], again["step"]) == (2, 2)
    stage, stacked = own["params"]["stage2"], converted["params"]["stage2"]["blocks"]
    for index in (0, 1):
        layer = jax.tree.map(lambda leaf, index=index: leaf[index], stacked)
        assert digest(layer) == digest(stage[f"block{index + 2}"])


def test_a_layout_that_does_not_exist_is_refused(workdirs):
    says = "config.model.kwargs.repeat must be one of loop, scan, scan_remat, got 'vmap'"
    with pytest.raises(ConfigError, match=re.escape(says)):
        resflax.load(str(workdirs["loop"]), repeat="vmap")


def test_a_network_without_repeated_blocks_has_one_layout(tmp_path):
    images, labels = np.zeros((8, 12, 12, 3), np.uint8), np.arange(8) % 2
    splits = {f"{split}_{name}": part for split in ("train", "test") for name, part in (("images", images), ("labels", labels))}
    np.savez(tmp_path / "images.npz", **splits)
    save(
        Config(total_steps=1, data=DataConfig(str(tmp_path / "images.npz")), model=ModelConfig("tutorial_cnn")), tmp_path, (1,)
    )
    assert resflax.load(str(tmp_path), repeat="loop")[2]["layout"] == "loop"
    with pytest.raises(ConfigError, match=r"config\.model\.kwargs\.repeat .*tutorial_cnn"):
        resflax.load(str(tmp_path), repeat="scan")


def test_a_workdir_of_another_layout_is_refused(images, tmp_path):
    """Training goes on in the layout it began in; loading converts."""
    loop, scan = config(images, "loop"), config(images, "scan")
    write_json(Workdir(epath.Path(tmp_path)).config, dataclasses.asdict(loop))
    with pytest.raises(ConfigError, match=r"another configuration .*config\.model\.kwargs\.repeat: loop -> scan"):
        train.check_workdir(Workdir(epath.Path(tmp_path)), dataclasses.replace(loop, model=scan.model))


@pytest.mark.long
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_record_of_a_run_is_confirmed_in_every_other_layout(layout, images, tmp_path, monkeypatch):
    """Ten real steps; then the evaluation split is scored by a network that was not trained in that layout."""
    monkeypatch.setattr("resflax.build.record.draw", lambda *_: None)
    train.train_and_evaluate(dataclasses.replace(config(images, layout), total_steps=10), str(tmp_path))
    record = json.loads((tmp_path / "result.json").read_text())
    split = np.load(images)
    for wanted in LAYOUTS:
        scores = logits(*resflax.load(str(tmp_path), repeat=wanted), split["test_images"])
        assert np.mean(np.argmax(scores, axis=-1) == split["test_labels"]) == pytest.approx(record["test_accuracy"])
        chosen = np.take_along_axis(np.asarray(jax.nn.log_softmax(scores)), split["test_labels"][:, None], axis=-1)
        assert -chosen.mean() == pytest.approx(record["test_loss"], rel=1e-4)
