"""Repositories of the Hugging Face hub, on this machine's disk: no network, real files."""

import json
import shutil
import types

import numpy as np
import pytest
from safetensors.numpy import save_file

import resflax
from resflax.errors import ConfigError, DataError, TemporaryError
from resflax.tree import digest
from resflax.weights.foreign import read_foreign
from resflax.weights.hub import read_hub, read_timm_folder, write_timm_folder
from resflax.weights.names import take_out
from resflax.weights.preparation import change_preparation, read_timm_config
from resflax.weights.safetensors import write_weights
from resflax.weights.torch_names import torch_naming
from tests.weights.test_torch_names import about, random_variables

hub = pytest.importorskip("huggingface_hub")

# As timm writes it, in `save_config_for_hf`.
CONFIG = {
    "architecture": "resnet18",
    "num_classes": 4,
    "num_features": 512,
    "label_names": ["ant", "bee", "cat", "dog"],
    "pretrained_cfg": {
        "tag": "a1_in1k",
        "input_size": [3, 288, 288],
        "crop_pct": 0.95,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "num_classes": 1000,
        "first_conv": "conv1",
    },
}


@pytest.fixture(scope="module")
def variables():
    return random_variables(about("resnet18", 4))


@pytest.fixture
def repositories(tmp_path, monkeypatch, variables):
    """A folder of repositories, which stands for the hub."""
    folder = tmp_path / "timm" / "resnet18.test"
    folder.mkdir(parents=True)
    tensors = take_out(variables, torch_naming(resflax.create_model("resnet18", 4), "timm"), "resnet18")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))

    def download(repository, file, revision=None):
        if revision not in (None, "v1"):
            raise hub.errors.RevisionNotFoundError("Revision Not Found", response=_response())
        if not (tmp_path / repository).is_dir():
            raise hub.errors.RepositoryNotFoundError("Repository Not Found\nmore", response=_response())
        if not (tmp_path / repository / file).is_file():
            raise hub.errors.RemoteEntryNotFoundError("Entry Not Found", response=_response())
        return str(tmp_path / repository / file)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    return tmp_path


def _response():
    return types.SimpleNamespace(headers={}, request=None)


@pytest.mark.parametrize("identity", ["hf:timm/resnet18.test", "hf:timm/resnet18.test@v1"])
def test_a_repository_of_timm(repositories, variables, identity):
    found, metadata = read_hub(identity)
    assert digest(found) == digest(variables)
    expected = {
        "model": "resnet18",
        "num_classes": 4,
        "class_names": ["ant", "bee", "cat", "dog"],
        "crop": "center",
        "crop_ratio": 0.95,
        "interpolation": "bicubic",
        "source_shape": [None, None, 3],
        "source": identity,
    }
    assert {key: metadata[key] for key in expected} == expected
    assert metadata["preprocessing"] == {
        "image_size": [288, 288],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }


def test_load_takes_an_identity(repositories, variables):
    model, found, metadata = resflax.load("hf:timm/resnet18.test")
    assert digest(found) == digest(variables)
    assert metadata["class_names"][1] == "bee"
    assert model.apply(found, np.zeros((1, 64, 64, 3), np.float32), train=False).shape == (1, 4)


def test_a_copy_of_a_repository_on_disk(repositories, variables):
    found, metadata = read_timm_folder(repositories / "timm/resnet18.test")
    assert digest(found) == digest(variables)
    assert (metadata["source"], metadata["crop_ratio"]) == ("resnet18.test, timm", 0.95)


@pytest.mark.parametrize(
    "change", [{}, {"crop": "none", "crop_ratio": 1.0, "source_shape": [224, 224, 3]}, {"class_names": None}]
)
def test_a_folder_for_timm_is_read_as_it_was_written(change, variables, tmp_path):
    metadata = about("resnet18", 4) | {"class_names": ["ant", "bee", "cat", "dog"]} | change
    write_timm_folder(tmp_path, variables, metadata)
    found, read = read_timm_folder(tmp_path)
    assert digest(found) == digest(variables)
    assert read == metadata | {"source": f"{tmp_path.name}, timm"}


def test_a_repository_with_a_weight_file_of_ours(repositories):
    metadata = about("cifar_resnet20", width=4)
    ours = random_variables(metadata)
    (repositories / "me/mine").mkdir(parents=True)
    write_weights(repositories / "me/mine/model.safetensors", ours, metadata)
    found, read = read_hub("hf:me/mine")
    assert digest(found) == digest(ours)
    assert read == metadata
    with pytest.raises(ConfigError, match="says the model and its classes itself"):
        read_hub("hf:me/mine", "resnet18")


def test_what_can_go_wrong(repositories, monkeypatch):
    with pytest.raises(ConfigError, match=r"hf:timm/nothing must be a repository .* but Repository Not Found; check its name"):
        read_hub("hf:timm/nothing")
    with pytest.raises(ConfigError, match="Revision Not Found"):
        read_hub("hf:timm/resnet18.test@v2")
    with pytest.raises(ConfigError, match="a step is for the workdir"):
        resflax.load("hf:timm/resnet18.test", step=3)
    shutil.copytree(repositories / "timm/resnet18.test", repositories / "a/b")
    (repositories / "a/b/config.json").write_text(json.dumps({"model_type": "resnet", "architectures": ["ResNetModel"]}))
    with pytest.raises(DataError, match="it is of a resnet of transformers"):
        read_hub("hf:a/b")
    (repositories / "a/b/config.json").write_text(json.dumps(CONFIG | {"architecture": "vit_base_patch16_224"}))
    with pytest.raises(ConfigError, match="there is no model 'vit_base_patch16_224'"):
        read_hub("hf:a/b")
    (repositories / "a/b/model.safetensors").unlink()
    with pytest.raises(DataError, match=r"hf:a/b must have a file model\.safetensors"):
        read_hub("hf:a/b")

    def offline(*_, **__):
        raise hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(hub, "hf_hub_download", offline)
    with pytest.raises(TemporaryError, match="the hub must be reachable"):
        read_hub("hf:timm/resnet18.test")


def test_configurations_of_timm():
    squash = CONFIG | {"pretrained_cfg": {"input_size": [3, 448, 448], "crop_pct": 1.0, "crop_mode": "squash"}}
    found = read_timm_config(squash, "config.json").preparation.metadata()
    assert (found["crop"], found["source_shape"], found["interpolation"]) == ("none", [448, 448, 3], "bicubic")
    old = {"architecture": "resnetv2_50", "labels": {"1": "b", "0": "a", "10": "c"}, "interpolation": "random"}
    assert read_timm_config(old, "config.json").class_names == ["a", "b", "c"]
    assert read_timm_config(old, "config.json").preparation.interpolation == "bilinear"
    assert read_timm_config(old, "config.json").preparation.mean == (0.5, 0.5, 0.5)
    for wrong in ([], {}, {"architecture": 3}, CONFIG | {"pretrained_cfg": {"input_size": 3}}):
        with pytest.raises(DataError, match=r"config\.json must be timm's"):
            read_timm_config(wrong, "config.json")


def test_a_preparation_is_changed_where_asked():
    metadata = about("resnet18")
    assert change_preparation(metadata) == metadata
    larger = change_preparation(metadata, image_size=288, crop_ratio=1.0, interpolation="lanczos")
    assert larger["preprocessing"] == metadata["preprocessing"] | {"image_size": [288, 288]}
    assert (larger["crop"], larger["crop_ratio"], larger["interpolation"]) == ("center", 1.0, "lanczos")
    stretched = {**metadata, "crop": "none", "source_shape": [224, 224, 3]}
    assert change_preparation(stretched, image_size=64)["source_shape"] == [64, 64, 3]
    assert change_preparation(stretched, crop_ratio=0.9)["source_shape"] == [None, None, 3]


def test_a_torch_file_without_a_model_must_be_named(repositories):
    with pytest.raises(ConfigError, match="--model must name the network"):
        read_foreign(repositories / "timm/resnet18.test/model.safetensors", "timm")
