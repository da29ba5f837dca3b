"""The recipes of ImageNet from end to end, thin and small, on a folder of JPEGs of the sizes of ImageNet's."""

import json
import shutil

import jax
import pytest

from resflax import evaluate
from resflax.config import apply_overrides, load_config
from resflax.errors import ConfigError
from resflax.evaluate import evaluate_workdir
from resflax.files import read_json, read_lines
from resflax.train import train_and_evaluate
from tests.test_imagenet_smoke import write_photographs

pytestmark = pytest.mark.faults
SMALL = (
    "model.name=resnet18",
    "model.kwargs.width=8",
    "data.image_size=48",
    "total_steps=4",
    "data.workers=2",
    "checkpoint.keep_last=9",
)
RECIPES = {
    "he2015_imagenet:smoke": ("data.augment=scale_jitter_crop:56:90,pca_lighting:0.1,flip",),
    "goyal2017:batch256": ("data.batch_size=8", "data.eval_batch_size=8", "data.eval_split=test", "batch_norm.group_size=8"),
    "he2019_bag_of_tricks:smoke": ("model.name=resnet18d",),
    "wightman2021_rsb:smoke": (),
    "leclerc2023_ffcv:smoke": ("data.sizes=32@0,48@0.5", "data.image_size=64"),
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    write_photographs(root)
    return root


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Batches of 8 in one group of statistics."""
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: first)


def config_of(recipe, photographs):
    changes = (f"data.name={photographs}", *SMALL, "checkpoint.every_steps=1", "log_every_steps=1", "eval_every_steps=0")
    return apply_overrides(load_config(recipe)[0], [*changes, *RECIPES[recipe]])


def scores(capsys, workdir, *arguments):
    evaluate.main([f"--workdir={workdir}", *arguments])
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_trains_and_is_evaluated(recipe, photographs, tmp_path, capsys):
    config = config_of(recipe, photographs)
    record = train_and_evaluate(config, str(tmp_path))
    assert record["images_scored"] == 20
    assert len(read_lines(tmp_path / "metrics.jsonl")) == 4
    assert record["evaluation"]["views"] == {"single": 1, "mirror": 2, "ten_crop": 10}[config.data.eval_views]
    again = scores(capsys, tmp_path)
    assert again["evaluation"] == record["evaluation"]
    assert again["loss"] == pytest.approx(record["test_loss"], rel=1e-6)


def test_one_two_and_ten_views(photographs, tmp_path, capsys):
    record = train_and_evaluate(config_of("he2015_imagenet:smoke", photographs), str(tmp_path))
    found = {views: scores(capsys, tmp_path, f"--views={views}") for views in (1, 2, 10)}
    assert [one["evaluation"]["views"] for one in found.values()] == [1, 2, 10]
    assert found[10]["loss"] == pytest.approx(record["test_loss"], rel=1e-6)
    assert len({one["loss"] for one in found.values()}) == 3
    assert {one["images_scored"] for one in found.values()} == {20}


def test_with_repeats_a_run_goes_on_exactly(photographs, tmp_path):
    config, whole, again = config_of("wightman2021_rsb:smoke", photographs), tmp_path / "whole", tmp_path / "again"
    record = train_and_evaluate(config, str(whole))
    shutil.copytree(whole, again)
    (again / "result.json").unlink()
    for step in (2, 3, 4):
        shutil.rmtree(again / "checkpoints" / str(step))
    assert train_and_evaluate(config, str(again))["test_loss"] == record["test_loss"]
    first, second = ([line["train_loss"] for line in read_lines(one / "metrics.jsonl")] for one in (whole, again))
    assert first == second


def test_ten_crops_of_images_of_one_shape_are_refused(tmp_path):
    config = apply_overrides(
        load_config("quickstart:resnet")[0],
        ["data.train_split=train[:64]", "model.name=cifar_resnet8", "total_steps=1", "data.batch_size=64"],
    )
    train_and_evaluate(config, str(tmp_path / "run"))
    with pytest.raises(ConfigError) as caught:
        evaluate_workdir(str(tmp_path / "run"), views="ten_crop")
    assert "config.data.eval_views=ten_crop is for image files, but digits has images of one shape" in str(caught.value)
    assert read_json(tmp_path / "run" / "result.json")["evaluation"]["views"] == 1
