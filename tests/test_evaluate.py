"""python -m resflax.evaluate beyond the score of a run: views, corruptions."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from resflax import evaluate, export, predict
from resflax.data.corruptions import CORRUPTIONS, corrupt
from resflax.data.preprocess import Preprocessing
from resflax.errors import ConfigError, DataError
from resflax.weights.safetensors import read_weights, write_weights


@pytest.fixture
def workdir(micro_run, one_device):
    return micro_run


def run(capsys, *arguments):
    assert evaluate.main([str(argument) for argument in arguments]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def network(workdir):
    """uint8 images -> logits, by another way than evaluation's."""
    import resflax

    model, variables, metadata = resflax.load(str(workdir))
    prepare = Preprocessing.from_dict(metadata["preprocessing"])
    return lambda images: np.asarray(model.apply(variables, prepare(images), train=False))


def test_accuracy_under_corruptions_is_that_of_the_corrupted_images(workdir, capsys):
    result = run(capsys, f"--workdir={workdir}", "--shift", "--corruptions=gaussian_noise,contrast")
    assert list(result["shift"]) == ["gaussian_noise", "contrast"]
    data = np.load(workdir.parent / "micro.npz")
    apply = network(workdir)
    for name, accuracies in result["shift"].items():
        for severity, accuracy in enumerate(accuracies, 1):
            ids = np.arange(len(data["test_images"]))
            images = jax.jit(corrupt, static_argnums=0)(name, 0, ids, data["test_images"], severity)
            right = np.argmax(apply(images), axis=-1) == data["test_labels"]
            assert accuracy == pytest.approx(right.mean(), abs=1.01 / 21), (name, severity)
    mean = np.mean([accuracy for accuracies in result["shift"].values() for accuracy in accuracies])
    assert result["mean_corruption_error"] == pytest.approx(1 - mean)


@pytest.mark.faults
def test_all_fifteen(workdir, capsys):
    result = run(capsys, f"--workdir={workdir}", "--shift")
    assert list(result["shift"]) == list(CORRUPTIONS)
    assert all(len(accuracies) == 5 for accuracies in result["shift"].values())


def test_views_are_averaged(workdir, capsys):
    one, two = (run(capsys, f"--workdir={workdir}", f"--views={views}") for views in (1, 2))
    assert (one["evaluation"]["views"], two["evaluation"]["views"]) == (1, 2)
    data = np.load(workdir.parent / "micro.npz")
    apply, images, labels = network(workdir), data["test_images"], data["test_labels"]
    logits = (apply(images) + apply(images[:, :, ::-1])) / 2
    expected = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), labels[:, None], -1).mean()
    assert two["loss"] == pytest.approx(expected, rel=1e-4)
    assert one["loss"] != two["loss"]


def test_what_is_no_corruption_is_refused(workdir):
    with pytest.raises(ConfigError, match=r"no corruption 'fogg'; did you mean fog\?"):
        evaluate.main([f"--workdir={workdir}", "--shift", "--corruptions=fogg"])
    with pytest.raises(ConfigError, match="--corruptions needs --shift"):
        evaluate.main([f"--workdir={workdir}", "--corruptions=fog"])


@pytest.fixture
def exported(workdir, tmp_path):
    """The weight file of the run."""
    path = str(tmp_path / "micro.safetensors")
    export.export("safetensors", path, workdir=str(workdir))
    return path


@pytest.fixture
def rewritten(exported, tmp_path):
    """Makes a weight file that says something else, or, for `...`, is without one of its entries."""

    def write(**changes):
        variables, metadata = read_weights(exported)
        path = str(tmp_path / "rewritten.safetensors")
        write_weights(path, variables, {key: value for key, value in {**metadata, **changes}.items() if value is not ...})
        return path

    return write


def in_a_folder(root, data):
    """The test images of an `.npz` as PNG files."""
    for index, (image, label) in enumerate(zip(data["test_images"], data["test_labels"], strict=True)):
        for split in ("train", "test"):
            path = root / split / str(data["class_names"][label]) / f"{index:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return str(root)


SCORES = ("accuracy", "top5_accuracy", "loss", "expected_calibration_error", "images_scored")


def test_a_weight_file_scores_what_its_run_scores_on_any_form_of_the_data(workdir, exported, rewritten, capsys, tmp_path):
    of_run = run(capsys, f"--workdir={workdir}")
    npz = workdir.parent / "micro.npz"
    folder, of_nobody = in_a_folder(tmp_path / "images", np.load(npz)), rewritten(run=..., class_names=None)
    for of, data in (
        (f"--checkpoint={exported}", None),
        (f"--checkpoint={exported}", folder),
        (f"--checkpoint={of_nobody}", folder),
        (f"--checkpoint={of_nobody}", npz),
        (f"--workdir={workdir}", folder),
    ):
        found = run(capsys, of, *([] if data is None else [f"--data={data}"]))
        assert [found[key] for key in SCORES] == pytest.approx([of_run[key] for key in SCORES], rel=1e-5), (of, data)
        assert found["step"] == (None if of_nobody in of else of_run["step"])
        assert found["dataset"] == str(data or npz)
        assert found["evaluation"]["decoder"] == ("pillow" if data == folder else "none")
        assert found["evaluation"]["interpolation"] == ("bilinear, antialiased" if data == folder else "none")


def test_another_data_set_is_read_as_predict_reads_it(rewritten, capsys, tmp_path):
    rng = np.random.default_rng(3)
    for index in range(10):
        path = tmp_path / "photos" / "test" / str(index % 5) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30, 40, 3)).astype(np.uint8)).save(path)
        (tmp_path / "photos" / "train" / str(index % 5)).mkdir(parents=True, exist_ok=True)
    for changes in ({}, {"crop": "center", "crop_ratio": 0.8, "interpolation": "bicubic"}):
        path = rewritten(class_names=None, **changes)
        found = run(capsys, f"--checkpoint={path}", f"--data={tmp_path}/photos")
        rows = predict.predict(None, [f"{tmp_path}/photos/test"], 5, checkpoint=path)
        own = [{one["class"]: one["probability"] for one in row["predictions"]}[row["path"].split("/")[-2]] for row in rows]
        assert found["loss"] == pytest.approx(-np.log(own).mean(), rel=1e-4)
        assert found["evaluation"]["interpolation"] == f"{changes.get('interpolation', 'bilinear')}, antialiased"
        assert found["evaluation"]["crop_ratio"] == changes.get("crop_ratio", 1.0)


def test_what_a_weight_file_cannot_be_scored_on_is_said(workdir, exported, rewritten, tmp_path):
    def refused(error, match, *arguments):
        with pytest.raises(error, match=match):
            evaluate.main([str(argument) for argument in arguments])

    npz = workdir.parent / "micro.npz"
    refused(ConfigError, "does not say what data it is for; name a data set with --data", f"--checkpoint={rewritten(run=...)}")
    refused(ConfigError, "--step needs --workdir", f"--checkpoint={exported}", "--step=3")
    refused(ConfigError, "--data_dir needs --data", f"--checkpoint={exported}", "--data_dir=x")
    refused(ConfigError, "are for the data set of the run", f"--workdir={workdir}", f"--data={npz}", "--views=10")
    others = rewritten(class_names=list("vwxyz"))
    refused(DataError, r"must be those the network was trained on, got .* for \['v'", f"--checkpoint={others}", f"--data={npz}")
    broken = rewritten(run={"step": 3})
    refused(DataError, "must hold the configuration of its run, but KeyError", f"--checkpoint={broken}")
    arrays = np.load(npz)
    few = {name: arrays[name] % 2 if "labels" in name else arrays[name] for name in arrays.files if name != "class_names"}
    np.savez(tmp_path / "few.npz", **few)
    unnamed = rewritten(class_names=None)
    refused(DataError, "as many classes as the network, 5, got 2", f"--checkpoint={unnamed}", f"--data={tmp_path}/few.npz")
