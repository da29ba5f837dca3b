"""python -m resflax.probe: features, and what is classified by them."""

import json

import numpy as np
import pytest

import resflax
from resflax import export, probe
from resflax.errors import ConfigError
from resflax.weights.safetensors import read_weights, write_weights


@pytest.fixture
def workdir(micro_run, one_device):
    return micro_run


def run(capsys, *arguments):
    assert probe.main([str(argument) for argument in arguments]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def by_hand(known, labels, asked, neighbours, temperature):
    """Nearest neighbours one example after another."""
    answers = []
    for one in asked:
        cosines = known @ one / (np.linalg.norm(known, axis=1) * np.linalg.norm(one))
        nearest = np.argsort(-cosines)[:neighbours]
        votes = np.bincount(labels[nearest], np.exp(cosines[nearest] / temperature), minlength=labels.max() + 1)
        answers.append(votes.argmax())
    return np.array(answers)


def test_features_make_the_logits_and_neighbours_vote(workdir, capsys, tmp_path):
    result = run(capsys, f"--workdir={workdir}", "--neighbours=7", "--temperature=0.1", f"--output={tmp_path}/features.npz")
    assert (result["images_learned_from"], result["images_scored"], result["features"]) == (60, 21, 16)
    saved = np.load(tmp_path / "features.npz")
    data = np.load(workdir.parent / "micro.npz")
    np.testing.assert_array_equal(saved["train_labels"], data["train_labels"])
    np.testing.assert_array_equal(saved["test_ids"], np.arange(21))
    model, variables, metadata = resflax.load(str(workdir))
    from resflax.data.preprocess import Preprocessing

    logits = model.apply(variables, Preprocessing.from_dict(metadata["preprocessing"])(data["test_images"]), train=False)
    dense = variables["params"]["head"]["dense"]
    np.testing.assert_allclose(saved["test_features"] @ dense["kernel"] + dense["bias"], logits, atol=1e-4)
    expected = by_hand(saved["train_features"], saved["train_labels"], saved["test_features"], 7, 0.1)
    assert result["neighbour_accuracy"] == np.mean(expected == saved["test_labels"])
    assert result["linear_accuracy"] > 0.5  # of five classes


def test_another_data_set_may_have_other_classes_and_another_size(workdir, capsys, tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    images = (rng.integers(0, 60, (40, 12, 12, 3)) + 150 * labels[:, None, None, None]).astype(np.uint8)
    np.savez(
        tmp_path / "other.npz",
        train_images=images[:30], train_labels=labels[:30], test_images=images[30:], test_labels=labels[30:],
    )  # fmt: skip
    result = run(capsys, f"--workdir={workdir}", f"--data={tmp_path}/other.npz")
    assert (result["images_learned_from"], result["images_scored"], result["neighbours"]) == (30, 10, 20)
    assert result["linear_accuracy"] == 1.0
    np.savez(
        tmp_path / "grey.npz",
        **{f"{s}_{k}": v for s in ("train", "test") for k, v in (("images", images[..., 0]), ("labels", labels))},
    )
    with pytest.raises(ConfigError, match=r"must have 3 channels, but those of .* have 1"):
        probe.main([f"--workdir={workdir}", f"--data={tmp_path}/grey.npz"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--neighbours=0"], "--neighbours must be at least 1, got 0"),
        (["--temperature=0"], "--temperature must be above 0, got 0"),
        (["--temperature=nan"], "--temperature must be above 0, got nan"),
        (["--data_dir=x"], "--data_dir needs --data"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, says):
    with pytest.raises(ConfigError, match=says):
        probe.main(["--workdir=nowhere", *arguments])


def test_a_weight_file_has_the_features_of_its_run(workdir, capsys, tmp_path):
    weights = str(tmp_path / "micro.safetensors")
    export.export("safetensors", weights, workdir=str(workdir))
    of_run, of_file = (
        run(capsys, of, f"--output={tmp_path}/{number}.npz")
        for number, of in enumerate((f"--workdir={workdir}", f"--checkpoint={weights}"))
    )
    assert (of_run.pop("workdir"), of_file.pop("checkpoint")) == (str(workdir), weights)
    assert of_file == of_run
    features = [np.load(tmp_path / f"{number}.npz")["test_features"] for number in (0, 1)]
    np.testing.assert_allclose(*features, rtol=1e-5, atol=1e-6)


def test_a_backbone_is_probed_too(workdir, capsys, tmp_path):
    weights = str(tmp_path / "micro.safetensors")
    export.export("safetensors", weights, workdir=str(workdir))
    variables, metadata = read_weights(weights)
    del variables["params"]["head"]
    write_weights(weights, variables, {**metadata, "num_classes": None, "class_names": None})
    data = f"--data={workdir.parent}/micro.npz"
    of_run, of_file = run(capsys, f"--workdir={workdir}", data), run(capsys, f"--checkpoint={weights}", data)
    assert [of_file[key] for key in ("features", "linear_accuracy", "neighbour_accuracy")] == [
        of_run[key] for key in ("features", "linear_accuracy", "neighbour_accuracy")
    ]
