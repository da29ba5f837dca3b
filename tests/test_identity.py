"""One file is one tensor, and one label one name, in training, `evaluate`, `predict` and the exported model."""

import math

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image

from resflax import evaluate, export, predict, train
from resflax.build import find_checkpoint, open_run, open_split
from resflax.config import Config, DataConfig
from resflax.data.reading import file_reader
from resflax.errors import DataError
from resflax.files import read_json
from tests import micro

CLASSES = ("2", "10", "Ärger")  # one is no number, so that the order is that of text
TEST = 7  # images of each class


class Reveals(nn.Module):
    """Shows what it is given: to `see`, and as its logits the first `outputs` values of an image (None: all)."""

    outputs: int | None
    see: object = None

    @nn.compact
    def __call__(self, images, train):
        nothing = jax.lax.stop_gradient(self.param("nothing", nn.initializers.zeros, ()))  # a state needs a parameter
        if self.see is not None and not train:
            jax.debug.callback(self.see, images)
        return images.reshape(images.shape[0], math.prod(images.shape[1:]))[:, : self.outputs] + nothing


def write_folder(root, suffix):
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", TEST)):
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 160, (*rng.integers(18, 40, 2), 3)) + 40 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.{suffix}")
    return root


@pytest.fixture(params=["jpg", "png", "digits", "digits at another size"])
def case(request, tmp_path):
    """A configuration, and the files of the evaluation split in its order."""
    folder, photographs = tmp_path / "images", request.param in ("jpg", "png")
    size = None if request.param == "digits" else 12
    name, split = (str(folder), "test") if photographs else ("digits", "test[:21]")
    data = DataConfig(name=name, eval_split=split, batch_size=8, eval_batch_size=24, image_size=size)
    config = Config(total_steps=1, data=data)
    if not photographs:
        folder.mkdir()
        for index, image in enumerate(open_split(config, split).images):
            Image.fromarray(image[..., 0]).save(folder / f"{index:02d}.png")
        return config, sorted(folder.iterdir())
    write_folder(folder, request.param)
    return config, [path for name in sorted(CLASSES) for path in sorted((folder / "test" / name).iterdir())]


def test_a_file_is_one_tensor_and_a_label_one_name(case, tmp_path, monkeypatch):
    config, files = case
    workdir, seen = str(tmp_path / "run"), []

    def network(outputs, see):
        def create(name, num_classes, **_):
            return Reveals(outputs and num_classes, see)

        monkeypatch.setattr("resflax.build.parts.create_model", create)

    def tensors(batch_size):
        """What the network saw in its last batch of that size."""
        jax.effects_barrier()
        found = [np.asarray(images) for images in seen if len(images) == batch_size]
        seen.clear()
        return found[-1][: len(files)]

    network("classes", seen.append)
    monkeypatch.setattr("resflax.build.record.draw", lambda *_: None)
    record = train.train_and_evaluate(config, workdir)
    in_training = tensors(24)
    assert np.unique(in_training.reshape(len(files), -1), axis=0).shape[0] == len(files)

    scores = evaluate.evaluate_workdir(workdir)
    np.testing.assert_array_equal(tensors(24), in_training)
    assert (scores["accuracy"], scores["loss"]) == (record["test_accuracy"], record["test_loss"])

    rows = list(predict.predict(workdir, [str(path) for path in files], top=100))
    np.testing.assert_array_equal(tensors(predict.BATCH), in_training)

    network(None, None)
    output = tmp_path / "network.stablehlo"
    export.export("stablehlo", str(output), workdir=workdir)
    metadata = read_json(f"{output}.json")
    pixels = np.stack([open_run(workdir).read(path) for path in files])
    described = np.stack([file_reader(metadata)(path) for path in files])
    np.testing.assert_array_equal(described, pixels)
    if pixels.shape[1:] == in_training.shape[1:]:  # programs take images at the network's size
        exported = jax.export.deserialize(bytearray(output.read_bytes())).call(pixels)
        np.testing.assert_array_equal(np.asarray(exported).reshape(in_training.shape), in_training)

    names = list(open_split(config, config.data.eval_split).class_names)
    assert names == list(open_split(config, "train").class_names)
    assert find_checkpoint(workdir).metadata["class_names"] == names == metadata["class_names"]
    logits = in_training.reshape(len(files), -1)[:, : len(names)]
    for row, path, values in zip(rows, files, logits, strict=True):
        assert row["path"] == str(path)
        assert [one["class"] for one in row["predictions"]] == [names[one] for one in np.argsort(-values, kind="stable")]


def test_a_data_set_with_other_names_for_its_classes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("resflax.build.parts.create_model", lambda name, num_classes, **_: Reveals(num_classes))
    monkeypatch.setattr("resflax.build.record.draw", lambda *_: None)
    path = micro.write_npz(tmp_path)
    train.train_and_evaluate(Config(total_steps=1, data=DataConfig(name=str(path), batch_size=8)), str(tmp_path / "run"))
    assert evaluate.evaluate_workdir(str(tmp_path / "run"))["images_scored"] == 21
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, "class_names": arrays["class_names"][::-1]})
    with pytest.raises(DataError, match=r"the classes of .* must be those the network was trained on"):
        evaluate.evaluate_workdir(str(tmp_path / "run"))
