"""Progressive resizing: which size a step sees, how many programs are compiled, and that a run goes on exactly."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from resflax.build import build
from resflax.build import run as run_module
from resflax.config import CheckpointConfig, Config, DataConfig, ModelConfig, validate
from resflax.errors import ConfigError
from resflax.files import read_json, read_lines
from resflax.train import train_and_evaluate
from resflax.tree import digest

SIZES = ("5@0", "6@0.5", "8@0.75")  # steps 0 and 1, step 2, step 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of two classes, of several shapes."""
    root = tmp_path_factory.mktemp("folder")
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("a", "b"):
            (root / split / label).mkdir(parents=True)
            for number in range(6):
                pixels = generator.integers(0, 256, (12 + number, 16, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{number}.jpg", quality=95)
    return root


def config_of(form, folder, **changes):
    data = DataConfig(
        name="digits", train_split="train[:40]", batch_size=8, eval_batch_size=8, sizes=SIZES, augment=("pad_crop:1", "flip")
    )
    if form == "files":
        data = dataclasses.replace(
            data, name=str(folder), train_split="train", image_size=9, augment=("random_resized_crop", "flip"), workers=0
        )
    else:
        data = dataclasses.replace(data, input=form)
    data = dataclasses.replace(data, **changes)
    return validate(Config(total_steps=4, data=data, model=ModelConfig("cifar_resnet8", {"width": 4})))


def build_one(config):
    return build(config, jax.devices()[:1])


@pytest.mark.parametrize("form", ["resident", *(pytest.param(form, marks=pytest.mark.faults) for form in ("host", "files"))])
def test_each_step_is_that_of_a_run_of_its_size_alone(form, folder, monkeypatch):
    compiled, compile_with = [], run_module.compile_with
    monkeypatch.setattr(
        run_module, "compile_with", lambda *args, **settings: compiled.append(1) or compile_with(*args, **settings)
    )
    config = config_of(form, folder)
    run = build_one(config)
    assert [(stop, batches.preprocessing.image_size) for stop, batches in run.phases] == [(2, (5, 5)), (3, (6, 6)), (4, (8, 8))]
    assert run.metadata()["preprocessing"]["image_size"] == ([9, 9] if form == "files" else [8, 8])
    run_chunk = run.compile_chunk(run.abstract_state())
    assert len(compiled) == len(SIZES)
    state, reports = run_chunk(run.initial_state(), 0, 4)
    assert len(compiled) == len(SIZES)
    assert reports.loss.shape == (4,)

    alone, losses = run.initial_state(), []
    for start, stop, size in ((0, 2, 5), (2, 3, 6), (3, 4, 8)):
        single = build_one(dataclasses.replace(config, data=dataclasses.replace(config.data, sizes=(), image_size=size)))
        if form == "files":  # mean and deviation are those of the run's own size
            preprocessing = dataclasses.replace(run.train.preprocessing, image_size=(size, size))
            single = dataclasses.replace(single, phases=((4, dataclasses.replace(single.train, preprocessing=preprocessing)),))
        alone, report = single.compile_chunk(alone)(alone, start, stop)
        losses += report.loss.tolist()
    assert reports.loss.tolist() == losses
    assert digest(state.params) == digest(alone.params)


@pytest.mark.faults
def test_a_chunk_may_end_anywhere(folder):
    run = build_one(config_of("host", folder))
    run_chunk = run.compile_chunk(run.abstract_state())
    whole, _ = run_chunk(run.initial_state(), 0, 4)
    for stop in (1, 2, 3):
        state, _ = run_chunk(run.initial_state(), 0, stop)
        state, reports = run_chunk(state, stop, 4)
        assert reports.loss.shape == (4 - stop,)
        assert digest(whole.params) == digest(state.params)


@pytest.mark.faults
def test_fused_and_stepwise_are_the_same(folder):
    run = build_one(config_of("resident", folder))
    one, other = (run.compile_chunk(run.abstract_state(), fused)(run.initial_state(), 0, 4) for fused in (False, True))
    np.testing.assert_allclose(one[1].loss, other[1].loss, rtol=1e-5)


def test_a_short_run_leaves_out_what_has_no_step(folder):
    run = build_one(config_of("resident", folder, sizes=("5@0", "6@0.1", "8@0.75")))
    assert [(stop, batches.preprocessing.image_size[0]) for stop, batches in run.phases] == [(3, 6), (4, 8)]


def test_networks_whose_parameters_depend_on_the_size_are_refused(folder):
    config = dataclasses.replace(
        config_of("resident", folder, sizes=("12@0", "16@0.5"), image_size=16), model=ModelConfig("tutorial_cnn")
    )
    with pytest.raises(ConfigError) as caught:
        build_one(config)
    assert "needs a network whose parameters are the same for images of" in str(caught.value)


@pytest.mark.faults
@pytest.mark.parametrize("form", ["resident", "files"])
def test_a_run_goes_on_exactly_inside_of_any_phase(form, folder, tmp_path, capfd):
    config = dataclasses.replace(config_of(form, folder), log_every_steps=1, checkpoint=CheckpointConfig(1, keep_last=9))
    record = train_and_evaluate(config, str(tmp_path / "whole"))
    assert "3 compilations of the training step, all before it starts: for images of 5, 6, 8 pixels" in capfd.readouterr().err
    assert record["evaluation"]["resolution"] == ([9, 9] if form == "files" else [8, 8])
    for step in (1, 2, 3):
        again = tmp_path / f"from{step}"
        shutil.copytree(tmp_path / "whole", again)
        (again / "result.json").unlink()
        for later in range(step + 1, 5):
            shutil.rmtree(again / "checkpoints" / str(later))
        repeated = train_and_evaluate(config, str(again))
        assert f"going on from step {step}" in capfd.readouterr().err
        losses = [[line["train_loss"] for line in read_lines(one / "metrics.jsonl")] for one in (tmp_path / "whole", again)]
        assert losses[0] == losses[1]
        assert len(losses[0]) == 4
        assert repeated["test_loss"] == record["test_loss"] == read_json(again / "result.json")["test_loss"]
