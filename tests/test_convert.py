"""python -m resflax.convert, and what can be done with what it writes."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import resflax
from resflax import convert, predict
from resflax.errors import ConfigError, DataError, StorageError
from resflax.tree import digest
from resflax.weights.foreign import write_foreign
from resflax.weights.preparation import INTERPOLATIONS
from resflax.weights.safetensors import read_weights, write_weights
from tests.test_imports import run as run_where_frameworks_are_broken
from tests.weights.test_torch_names import about, random_variables
from tests.weights.test_torch_reader import write_state_dict

CLASSES = [f"class {index}" for index in range(10)]


@pytest.fixture(scope="module")
def variables():
    """Of `cifar_resnet20`; activations keep near unit size."""

    def sized(path, leaf):
        if path[-1].key == "kernel":
            return leaf / np.sqrt(leaf[..., 0].size, dtype=np.float32)
        return 1 + np.abs(leaf) / 4 if path[-1].key in ("var", "scale") else leaf / 4

    return jax.tree_util.tree_map_with_path(sized, random_variables(about("cifar_resnet20")))


@pytest.fixture
def torch_file(variables, tmp_path):
    """A file that says nothing but numbers."""
    write_foreign(tmp_path / "noted.safetensors", variables, about("cifar_resnet20"), "timm")
    save_file(load_file(tmp_path / "noted.safetensors"), tmp_path / "torch.safetensors")
    return tmp_path / "torch.safetensors"


def run(*arguments):
    return convert.main([str(argument) for argument in arguments])


def test_in_and_out_again(torch_file, variables, tmp_path, capsys):
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES) + "\n\n")
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.safetensors"
    assert (
        run("--from=timm", torch_file, "--model=cifar_resnet20", "--output", ours, f"--class_names={tmp_path}/classes.txt") == 0
    )
    out, err = capsys.readouterr()
    assert out == f"{ours}: cifar_resnet20, 10 classes, 269,722 parameters, 32x32 images\n"
    assert "neither torchvision nor timm has cifar_resnet20" in err
    found, metadata = read_weights(ours)
    assert digest(found) == digest(variables)
    assert metadata["class_names"] == CLASSES
    assert metadata["source"] == "torch.safetensors, timm"

    assert run("--to=timm", ours, "--output", back) == 0
    original, returned = load_file(torch_file), load_file(back)
    assert original.keys() == returned.keys()
    for name, array in original.items():
        np.testing.assert_array_equal(returned[name], array)

    again = tmp_path / "again.safetensors"
    assert run("--from=timm", back, "--output", again) == 0  # the model is noted
    assert read_weights(again)[1] == metadata
    assert digest(read_weights(again)[0]) == digest(variables)


PROGRAM = """
from resflax import convert
code = convert.main(["--from=torchvision", "weights.pth", "--model=cifar_resnet20", "--output=ours.safetensors"])
print(code)
"""


def test_a_file_of_torch_needs_no_torch(variables, tmp_path):
    write_foreign(tmp_path / "torch.safetensors", variables, about("cifar_resnet20"), "timm")
    tensors = load_file(tmp_path / "torch.safetensors")
    write_state_dict(tmp_path / "weights.pth", {name: array for name, array in tensors.items() if array.dtype == np.float32})
    output, tried = run_where_frameworks_are_broken(PROGRAM, tmp_path)
    assert output.splitlines()[-1] == "0"
    assert not tried
    assert digest(read_weights(tmp_path / "ours.safetensors")[0]) == digest(variables)


def test_load_and_predict_from_the_converted_file(torch_file, variables, tmp_path, capsys):
    ours = tmp_path / "ours.safetensors"
    options = ("--image_size=48", "--crop_ratio=0.8", "--interpolation=bicubic")
    run("--from=torchvision", torch_file, "--model=cifar_resnet20", "--output", ours, *options)
    pixels = np.random.default_rng(0).integers(0, 256, (70, 100, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    capsys.readouterr()
    assert predict.main([f"--checkpoint={ours}", str(tmp_path / "image.png"), "--json", "--top=10"]) == 0
    row = json.loads(capsys.readouterr().out)

    left, top, side = (100 - 56) / 2, (70 - 56) / 2, 56  # 0.8 of the shorter side
    square = Image.fromarray(pixels).resize((48, 48), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    images = (np.asarray(square, np.float32)[None] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    model, loaded, metadata = resflax.load(str(ours))
    assert digest(loaded) == digest(variables)
    assert (metadata["layout"], metadata["crop_ratio"], metadata["class_names"]) == ("loop", 0.8, None)
    expected = jax.nn.softmax(model.apply(loaded, images.astype(np.float32), train=False))[0]
    assert np.ptp(expected) > 0.01
    found = {one["class"]: one["probability"] for one in row["predictions"]}
    assert found == pytest.approx({str(index): float(value) for index, value in enumerate(expected)}, abs=1e-5)


def test_load_in_another_layout(variables, tmp_path):
    write_weights(tmp_path / "ours.safetensors", variables, about("cifar_resnet20"))
    model, stacked, metadata = resflax.load(str(tmp_path / "ours.safetensors"), repeat="scan")
    unrolled, loaded, _ = resflax.load(str(tmp_path / "ours.safetensors"))
    assert metadata["layout"] == "scan"
    assert set(stacked["params"]["stage1"]) == {"block1", "blocks"}
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    expected = unrolled.apply(loaded, images, train=False)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(model.apply(stacked, images, train=False), expected, atol=1e-4)


def test_a_backbone_predicts_nothing(torch_file, tmp_path):
    ours = tmp_path / "ours.safetensors"
    assert run("--from=timm", torch_file, "--model=cifar_resnet20", "--num_classes=0", "--output", ours) == 0
    assert read_weights(ours)[1]["num_classes"] is None
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    with pytest.raises(ConfigError, match="gives features and no classes"):
        predict.main([f"--checkpoint={ours}", str(tmp_path / "image.png")])
    with pytest.raises(ConfigError, match="--step needs --workdir"):
        predict.main([f"--checkpoint={ours}", "--step=3", str(tmp_path / "image.png")])


def test_a_weight_file_that_says_nothing_of_images(variables, tmp_path):
    silent = {key: value for key, value in about("cifar_resnet20").items() if key != "crop"}
    write_weights(tmp_path / "ours.safetensors", variables, silent)
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    with pytest.raises(DataError, match=r"must say how images are read, but KeyError\('crop'\)"):
        predict.main([f"--checkpoint={tmp_path}/ours.safetensors", str(tmp_path / "image.png")])


def test_pillow_has_the_interpolations():
    assert set(convert.INTERPOLATIONS) <= set(INTERPOLATIONS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{file}", "--from or --to must say whose names are meant"),
        ("--from=caffe {file}", "invalid choice: 'caffe'"),
        ("--from=timm --to=timm {file}", "not allowed with"),
        ("--from=timm {file}", "--model must name the network that .* is of"),
        ("--from=timm {file} --model=resnet51", "there is no model 'resnet51'"),
        ("--from=keras {file} --model=resnet50_v1 --num_classes=-1", "--num_classes must be at least 0, got -1"),
        ("--from=timm {file} --model=cifar_resnet20 --crop_ratio=1.5", "--crop_ratio must be above 0"),
        ("--from=timm {file} --model=cifar_resnet20 --image_size=0", "--image_size must be at least 1"),
        ("--from=timm {file} --model=cifar_resnet20 --class_names={file}", "--class_names must have 10 lines"),
        ("--to=timm {file} --model=resnet18", "--model is for the way in"),
    ],
)
def test_usage(arguments, message, torch_file, tmp_path):
    words = arguments.format(file=torch_file).split()
    with pytest.raises(ConfigError, match=message) as error:
        run(*words, "--output", tmp_path / "out.safetensors")
    assert error.value.exit_code == 2
    assert not (tmp_path / "out.safetensors").exists()


def test_what_does_not_fit_is_refused_with_a_list(torch_file, tmp_path):
    with pytest.raises(DataError, match=r"torch\.safetensors as cifar_resnet32 must .* 60 missing \(layer1\.3\.bn1"):
        run("--from=timm", torch_file, "--model=cifar_resnet32", "--output", tmp_path / "out")
    tensors = load_file(torch_file)
    save_file(tensors | {"extra.weight": np.zeros(3, np.float32)}, tmp_path / "more.safetensors")
    with pytest.raises(DataError, match=r"1 unused \(extra\.weight\)"):
        run("--from=timm", tmp_path / "more.safetensors", "--model=cifar_resnet20", "--output", tmp_path / "out")
    with pytest.raises(DataError, match=r"2 of another shape \(fc\."):
        run("--from=timm", torch_file, "--model=cifar_resnet20", "--num_classes=7", "--output", tmp_path / "out")
    with pytest.raises(DataError, match="must be a weight file of resflax"):
        run("--to=timm", torch_file, "--output", tmp_path / "out")
    with pytest.raises(StorageError, match="No such file"):
        run("--from=timm", tmp_path / "none.pth", "--model=cifar_resnet20", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_command_says_it_in_one_sentence(command, torch_file, tmp_path):
    done = command("convert", "--from=timm", torch_file, "--model=cifar_resnet32", "--output=out")
    assert done.returncode == 65
    assert done.stderr.startswith("resflax: ")
    assert len(done.stderr.strip().splitlines()) == 1
    (tmp_path / "garbage.pth").write_bytes(b"\x80\x02}q\x00.")
    done = command("convert", "--from=timm", "garbage.pth", "--model=resnet18", "--output=out")
    assert (done.returncode, done.stderr.count("\n")) == (65, 1)
