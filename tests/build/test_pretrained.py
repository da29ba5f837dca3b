"""Runs that start from the weights of another, and rates of single layers."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest

from resflax import export, train
from resflax.build import build
from resflax.build.verify import verify
from resflax.config import BatchNormConfig, Config, DataConfig, EmaConfig, InitConfig, ModelConfig, OptimConfig, from_dict
from resflax.data.arrays import load_split
from resflax.errors import ConfigError, DataError
from resflax.files import read_json
from resflax.nn import unstack_blocks
from resflax.training import sharding
from resflax.training.checkpoints import latest_checkpoint
from resflax.tree import named_leaves
from tests import micro

LAYOUTS = ("loop", "scan", "scan_remat")
HEAD = {"params/head/dense/kernel", "params/head/dense/bias"}


def write_digits(path, classes, count=None):
    """Some classes of the digits, `count` training images of each."""
    arrays = {"class_names": np.array([str(one) for one in classes])}
    for name in ("train", "test"):
        split = load_split("digits", name)
        of_class = [np.flatnonzero(split.labels == one)[: count if name == "train" else None] for one in classes]
        keep = np.sort(np.concatenate(of_class))
        arrays[f"{name}_images"], arrays[f"{name}_labels"] = split.images[keep], np.searchsorted(classes, split.labels[keep])
    np.savez(path, **arrays)
    return path


def config(path, depth=14, **changes):
    base = Config(
        total_steps=3,
        data=DataConfig(str(path), batch_size=16, eval_batch_size=64),
        model=ModelConfig(f"cifar_resnet{depth}", {"width": 4}),
        optim=OptimConfig(learning_rate=0.1, nesterov=True, weight_decay=1e-2),
    )
    return dataclasses.replace(base, **changes)


def layout(config, repeat):
    return dataclasses.replace(config, model=ModelConfig(config.model.name, {**config.model.kwargs, "repeat": repeat}))


def leaves(state):
    """Of the network, averages too, under their unrolled names."""
    trees = {"params": state.params, "batch_stats": state.batch_stats}
    if state.ema is not None:
        trees["ema"] = {"params": state.ema.params, "batch_stats": state.ema.batch_stats}
    return {name: np.asarray(leaf) for name, leaf in named_leaves(unstack_blocks(trees)).items()}


def final(config, workdir):
    """The record of a run, and its last state."""
    record = train.train_and_evaluate(config, str(workdir))
    saved = latest_checkpoint(train_root(workdir))
    return record, leaves(saved.restore(build(config, resumed=saved.metadata).abstract_state()))


def train_root(workdir):
    from etils import epath

    return epath.Path(workdir) / "checkpoints"


def equal(one, other):
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()


@pytest.fixture(scope="module", autouse=True)
def one_device_and_no_figures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resflax.build.record.draw", lambda *_: None)
        make_mesh = sharding.make_mesh
        patch.setattr(sharding, "make_mesh", lambda devices=None: make_mesh(devices or jax.devices()[:1]))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """`low`: digits 0 to 4. `high`: 5 to 9, eight images of each."""
    folder = tmp_path_factory.mktemp("digits")
    low = write_digits(folder / "low.npz", (0, 1, 2, 3, 4))
    return {"low": low, "high": write_digits(folder / "high.npz", (5, 6, 7, 8, 9), count=8)}


@pytest.fixture(scope="module")
def source(data, tmp_path_factory):
    """A workdir trained for a few steps on `low`, in a loop, with averages."""
    workdir = tmp_path_factory.mktemp("source") / "run"
    settings = layout(config(data["low"], ema=EmaConfig(0.5)), "scan")
    train.train_and_evaluate(settings, str(workdir))
    return workdir


@pytest.fixture(scope="module")
def trained(source):
    """The leaves that the source is evaluated with."""
    saved = latest_checkpoint(train_root(source))
    state = saved.restore(build(from_dict(saved.metadata["config"]), resumed=saved.metadata).abstract_state())
    averages = {"params": state.ema.params, "batch_stats": state.ema.batch_stats}
    return {name: np.asarray(leaf) for name, leaf in named_leaves(unstack_blocks(averages)).items()}


@pytest.fixture(scope="module")
def weight_file(source, tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "source.safetensors"
    assert export.main([f"--workdir={source}", "--format=safetensors", f"--output={path}"]) == 0
    return path


def from_weights(config, path, normalize="saved"):
    return dataclasses.replace(config, init=InitConfig(str(path), normalize))


@pytest.mark.parametrize(
    ("kind", "repeat"),
    [
        pytest.param(
            kind, repeat, marks=() if (kind, repeat) in (("workdir", "loop"), ("file", "scan")) else pytest.mark.faults
        )
        for kind in ("workdir", "file")
        for repeat in LAYOUTS
    ],
)
def test_exactly_the_named_leaves_are_new(kind, repeat, data, source, trained, weight_file):
    settings = layout(config(data["high"], ema=EmaConfig(0.9)), repeat)
    drawn = leaves(build(settings, jax.devices()[:1]).initial_state())
    run = build(from_weights(settings, {"workdir": source, "file": weight_file}[kind]), jax.devices()[:1])
    found = leaves(run.initial_state())
    assert set(run.init["fresh"]) == HEAD
    assert len(found) == len(drawn) == 2 * len(trained)
    for name, leaf in found.items():
        plain = name.removeprefix("ema/")
        assert equal(leaf, drawn[name] if plain in HEAD else trained[plain]), name
    assert any(not equal(leaf, drawn[name]) for name, leaf in trained.items() if "stem" in name)


def test_the_digest_is_that_of_the_arrays_wherever_they_lie(data, source, weight_file):
    digests = {build(from_weights(config(data["high"]), path)).init["digest"] for path in (source, weight_file)}
    assert len(digests) == 1


def test_with_the_same_classes_the_classifier_is_kept(data, source, trained):
    run = build(from_weights(config(data["low"]), source), jax.devices()[:1])
    assert run.init["fresh"] == []
    assert all(equal(leaf, trained[name]) for name, leaf in leaves(run.initial_state()).items())


def test_mean_and_deviation_are_those_of_the_weights_unless_asked_otherwise(data, source):
    low, high = (build(config(data[name])).train.preprocessing for name in ("low", "high"))
    saved = build(from_weights(config(data["high"]), source)).train.preprocessing
    own = build(from_weights(config(data["high"]), source, "data")).train.preprocessing
    assert low.mean != high.mean
    assert (saved.mean, saved.std) == (low.mean, low.std)
    assert (own.mean, own.std) == (high.mean, high.std)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": ModelConfig("cifar_resnet20", {"width": 4})}, "config.model.name is cifar_resnet20 and was cifar_resnet14"),
        ({"model": ModelConfig("cifar_resnet14", {"width": 8})}, "config.model.kwargs.width is 8 and was 4"),
        ({"batch_norm": BatchNormConfig(epsilon=1e-3)}, "config.batch_norm.epsilon is 0.001 and was 1e-05"),
    ],
)
def test_another_network_is_refused(change, says, data, source):
    with pytest.raises(ConfigError, match=re.escape(says)):
        build(from_weights(config(data["high"], **change), source))


def test_arrays_that_do_not_fit_are_named_with_both_shapes(data, source, weight_file, tmp_path):
    """The network's name is the same, its weights are not."""
    from resflax.weights.safetensors import read_weights, write_weights

    variables, metadata = read_weights(weight_file)
    from resflax.build import pretrained

    variables["params"]["stage2"]["block2"]["conv1"]["kernel"] = np.zeros((3, 3, 8, 6), np.float32)
    del variables["params"]["stem_norm"]["bias"]
    write_weights(tmp_path / "other.safetensors", variables, metadata)
    loaded = dataclasses.replace(pretrained.read_pretrained(str(weight_file)), variables=variables)
    state = build(config(data["high"])).abstract_state()
    with pytest.raises(ConfigError) as error:
        loaded.fresh({"params": state.params, "batch_stats": state.batch_stats}, ["a"])
    assert "2 are not" in str(error.value)
    assert "params/stem_norm/bias is missing" in str(error.value)
    assert "params/stage2/block2/conv1/kernel is float32[3,3,8,6], expected float32[3,3,8,8]" in str(error.value)


def test_images_of_another_kind_are_refused(source, tmp_path):
    coloured = micro.write_npz(tmp_path)
    with pytest.raises(ConfigError, match=r"must have 1 channels, but those of .*micro\.npz have 3"):
        build(from_weights(config(coloured), source))


@pytest.mark.faults
def test_a_mean_image_belongs_to_its_size(data, source, tmp_path):
    averaged = config(
        data["low"], total_steps=1, data=dataclasses.replace(config(data["low"]).data, normalize="per_pixel_mean")
    )
    train.train_and_evaluate(averaged, str(tmp_path / "run"))
    larger = config(data["high"], data=dataclasses.replace(config(data["high"]).data, image_size=12))
    with pytest.raises(
        ConfigError, match=r"mean image that is subtracted, 8x8, but have 12x12; set config\.data\.image_size=8"
    ):
        build(from_weights(larger, tmp_path / "run"))
    assert build(from_weights(larger, tmp_path / "run", "data")).train.preprocessing.image_size == (12, 12)


def test_a_path_that_does_not_exist_is_refused(data, tmp_path):
    with pytest.raises(ConfigError, match=r"config\.init\.weights must be a workdir, a weight file or hf:"):
        build(from_weights(config(data["high"]), tmp_path / "nothing"))


def test_weights_of_double_precision_are_refused(data, source, tmp_path):
    metadata = latest_checkpoint(train_root(source))
    text = metadata.path / "metadata.json"
    assert '"compute": "float32"' in text.read_text()
    from resflax.build import pretrained

    double = dataclasses.replace(
        metadata, metadata={**metadata.metadata, "config": {**metadata.metadata["config"], "precision": {"compute": "float64"}}}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained, "find_checkpoint", lambda path: double)
        with pytest.raises(ConfigError, match="of double precision and the run is not"):
            build(from_weights(config(data["high"]), source))
    assert not jax.config.values["jax_enable_x64"]


OPTIMIZERS = {
    "sgd": OptimConfig(learning_rate=0.1, nesterov=True, weight_decay=1e-2, clip_norm=1.0),
    "adamw": OptimConfig("adamw", 0.01, weight_decay=1e-2, decay="decoupled"),
    "lars": OptimConfig("lars", 1.0, weight_decay=1e-2, decay_mask="kernels", clip_adaptive=0.01),
    "muon": OptimConfig("muon", 0.02, weight_decay=1e-2, decay="decoupled"),
}


@pytest.mark.parametrize(
    ("name", "repeat"),
    [
        ("sgd", "loop"),
        pytest.param("adamw", "scan", marks=pytest.mark.faults),
        pytest.param("lars", "loop", marks=pytest.mark.faults),
        pytest.param("muon", "scan_remat", marks=pytest.mark.faults),
    ],
)
def test_head_only_training_changes_the_head_alone(name, repeat, data, source, trained, tmp_path):
    """Decay, statistics, clipping, averages and accumulation included."""
    optim = dataclasses.replace(OPTIMIZERS[name], rates=("*=0", "head=1"), accumulate=2)
    settings = layout(from_weights(config(data["high"], optim=optim, ema=EmaConfig(0.9)), source), repeat)
    start = leaves(build(settings, jax.devices()[:1]).initial_state())
    record, end = final(settings, tmp_path / "run")
    for leaf_name, leaf in end.items():
        plain = leaf_name.removeprefix("ema/")
        if plain in HEAD:
            assert not equal(leaf, start[leaf_name]), leaf_name
        else:
            assert equal(leaf, trained[plain]), leaf_name
    assert record["init"]["digest"] == build(settings).init["digest"]


@pytest.mark.faults
def test_part_of_a_loop_can_be_frozen_but_for_its_normalisations(data):
    rates = ("stage1/block2/conv*=0", "stage2=0.5")
    scanned = layout(config(data["high"], depth=20, optim=OptimConfig(rates=rates)), "scan")
    run = build(scanned, jax.devices()[:1])
    state = run.initial_state()
    before = leaves(state)
    state, _ = run.compile_chunk(state, fused=False)(state, 0, 2)
    for name, leaf in leaves(state).items():
        assert equal(leaf, before[name]) == bool(re.match(r"params/stage1/block2/conv", name)), name
    with pytest.raises(ConfigError, match=r"freezes stage1/blocks/norm1/bias in some of the blocks of a loop"):
        build(dataclasses.replace(scanned, optim=OptimConfig(rates=("stage1/block2=0",))))


def test_a_frozen_normalisation_takes_the_rest_into_account(data):
    """A part that is trained before a frozen layer keeps its own statistics; the frozen layer's rest."""
    settings = config(data["high"], optim=OptimConfig(rates=("stage2=0",)))
    run = build(settings, jax.devices()[:1])
    state = run.initial_state()
    before = leaves(state)
    state, _ = run.compile_chunk(state, fused=False)(state, 0, 1)
    for name, leaf in leaves(state).items():
        assert equal(leaf, before[name]) == ("/stage2/" in name), name


def test_the_rate_of_a_layer_is_multiplied(data):
    """One step of plain SGD: the change is the factor times that of the schedule's rate alone."""
    plain = config(data["high"], optim=OptimConfig(learning_rate=0.1, momentum=0.0))
    rated = dataclasses.replace(
        plain, optim=dataclasses.replace(plain.optim, rates=("stem*=0.5", "head=4", "head/dense/bias=2"))
    )
    changes = []
    for settings in (plain, rated):
        run = build(settings, jax.devices()[:1])
        state = run.initial_state()
        before = leaves(state)
        state, _ = run.compile_chunk(state, fused=False)(state, 0, 1)
        changes.append({name: leaf - before[name] for name, leaf in leaves(state).items() if name.startswith("params")})
    factors = {
        "params/stem_conv/kernel": 0.5,
        "params/stem_norm/bias": 0.5,
        "params/head/dense/kernel": 4,
        "params/head/dense/bias": 2,
    }
    for name, change in changes[1].items():
        expected = factors.get(name, 0.5 if "/stem_" in name else 1) * changes[0][name]
        np.testing.assert_allclose(change, expected, rtol=1e-3, atol=1e-6, err_msg=name)


@pytest.mark.faults
def test_rates_change_nothing_where_they_are_one(data):
    states = []
    for rates in ((), ("head=1",)):
        run = build(config(data["high"], optim=OptimConfig(weight_decay=1e-3, rates=rates)), jax.devices()[:1])
        state = run.initial_state()
        states.append(leaves(run.compile_chunk(state, fused=False)(state, 0, 3)[0]))
    assert all(equal(leaf, states[1][name]) for name, leaf in states[0].items())


@pytest.mark.parametrize(
    ("rates", "says"),
    [
        (("haed=0",), "nothing is called 'haed'; did you mean head"),
        (("*=0",), "must leave something to train"),
    ],
)
def test_rates_that_name_nothing_or_leave_nothing_are_refused(rates, says, data):
    with pytest.raises(ConfigError, match=re.escape(says)):
        build(config(data["high"], optim=OptimConfig(rates=rates)))


@pytest.mark.faults
def test_a_resumed_run_does_not_read_the_weights_again(data, source, tmp_path, monkeypatch):
    import shutil

    from resflax.build import run as building

    copy = tmp_path / "source"
    shutil.copytree(source, copy)
    settings = from_weights(config(data["high"], total_steps=6), copy)
    whole, leaves_whole = final(from_weights(config(data["high"], total_steps=6), source), tmp_path / "whole")
    from resflax.config import CheckpointConfig

    settings = dataclasses.replace(settings, checkpoint=CheckpointConfig(every_steps=3))
    train.train_and_evaluate(settings, str(tmp_path / "run"))
    (tmp_path / "run" / "result.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    shutil.rmtree(copy)
    monkeypatch.setattr(building, "read_pretrained", None)
    monkeypatch.setattr(building, "read_again", None)
    record, resumed = final(settings, tmp_path / "run")
    assert record["init"] == {**whole["init"], "weights": str(copy)}
    assert all(equal(leaf, resumed[name]) for name, leaf in leaves_whole.items())
    saved = json.loads((tmp_path / "run/checkpoints/6/metadata.json").read_text())
    assert saved["init"] == record["init"]


def test_a_resumed_run_without_a_checkpoint_left_starts_from_the_same_weights(data, source, trained):
    """As a roll-back does where every checkpoint is damaged."""
    settings = from_weights(config(data["low"]), source)
    started = build(settings)
    resumed = build(settings, resumed=json.loads(json.dumps(started.metadata())))
    assert resumed.pretrained is None
    assert all(equal(leaf, trained[name]) for name, leaf in leaves(resumed.initial_state()).items())
    other = dataclasses.replace(resumed, init={**started.init, "digest": "0" * 64})
    with pytest.raises(DataError, match="must be what the run started from, but its SHA-256 is"):
        other.initial_state()


@pytest.mark.faults
def test_a_record_is_confirmed_with_the_same_weights_alone(data, source, tmp_path):
    settings = from_weights(config(data["high"]), source)
    record = train.train_and_evaluate(settings, str(tmp_path / "run"))
    assert read_json(tmp_path / "run/result.json") == record
    found = verify(record, settings)
    assert (found["confirmed"], found["exact"]) == (True, True)
    other = {**record, "init": {**record["init"], "digest": "0" * 64}}
    assert "are not those that the record names" in verify(other, settings)["reason"]


def test_fine_tuning_beats_training_from_scratch_at_equal_steps(data, tmp_path):
    """Pretrained on digits 0 to 4, then ten steps on eight images each of 5 to 9; three seeds."""

    def settings(name, steps, batch, **changes):
        return Config(
            total_steps=steps,
            data=DataConfig(str(data[name]), batch_size=batch, augment=("pad_crop:1",)),
            model=ModelConfig("cifar_resnet8", {"width": 8}),
            optim=OptimConfig(learning_rate=0.1, nesterov=True, weight_decay=5e-4, schedule="cosine", decay_mask="kernels"),
            **changes,
        )

    before = train.train_and_evaluate(settings("low", 120, 64), str(tmp_path / "low"))
    assert before["test_accuracy"] > 0.95
    for seed in range(3):
        scratch = train.train_and_evaluate(settings("high", 10, 20, seed=seed), str(tmp_path / f"scratch{seed}"))
        init = InitConfig(str(tmp_path / "low"))
        tuned = train.train_and_evaluate(settings("high", 10, 20, seed=seed, init=init), str(tmp_path / f"tuned{seed}"))
        assert tuned["test_accuracy"] > scratch["test_accuracy"] + 0.05
