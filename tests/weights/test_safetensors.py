"""The weight file: what it holds, what is refused, and that nothing in it runs."""

import json
import pickle

import ml_dtypes
import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file, save_file

from resflax.errors import ConfigError, DataError, StorageError
from resflax.nn import stack_blocks
from resflax.tree import digest
from resflax.weights.network import load_weights
from resflax.weights.safetensors import read_weights, write_weights
from tests.weights import forward, random_images, random_network

METADATA = random_network("cifar_resnet8", 8, width=4)[2]


def test_arrays_of_any_order_and_precision_come_back_bit_for_bit(tmp_path):
    tree = {
        "params": {
            "transposed": np.arange(6.0).reshape(2, 3).T,
            "strided": np.arange(10, dtype=np.float32)[::3],
            "half": {"deep": {"er": np.array([1.5, -0.0], ml_dtypes.bfloat16)}},
            "scalar": np.float32(3),
        },
        "batch_stats": {"empty": np.zeros((0, 3), np.float16)},
    }
    write_weights(tmp_path / "x.safetensors", tree, METADATA)
    found, metadata = read_weights(tmp_path / "x.safetensors")
    assert digest(found) == digest(tree)
    assert metadata == METADATA


def test_names_are_the_unrolled_ones_whatever_the_layout(tmp_path):
    model, variables, metadata = random_network("cifar_resnet20", 8, width=4)
    write_weights(tmp_path / "loop.safetensors", variables, metadata)
    stacked = {collection: stack_blocks(tree) for collection, tree in variables.items()}
    write_weights(tmp_path / "scan.safetensors", stacked, metadata)
    assert (tmp_path / "loop.safetensors").read_bytes() == (tmp_path / "scan.safetensors").read_bytes()

    arrays = load_file(tmp_path / "scan.safetensors")  # anybody's reader
    np.testing.assert_array_equal(
        arrays["params/stage2/block3/conv1/kernel"], variables["params"]["stage2"]["block3"]["conv1"]["kernel"]
    )
    assert "batch_stats/stem_norm/var" in arrays
    loaded = load_weights(tmp_path / "scan.safetensors")
    images = random_images(2, 8)
    np.testing.assert_array_equal(forward(*loaded)(images), forward(model, variables, metadata)(images))


def test_the_header_is_json_with_every_bit_of_the_preprocessing(tmp_path):
    path = tmp_path / "x.safetensors"
    mean = [1 / 3, 0.1, 0.30000000000000004]
    metadata = {**METADATA, "preprocessing": {**METADATA["preprocessing"], "mean": mean}, "crop": "none"}
    del metadata["format"]
    write_weights(path, {"params": {"x": np.zeros(1)}}, metadata)
    with safetensors.safe_open(path, "np") as file:
        assert json.loads(file.metadata()["resflax"]) == {"format": 1, **metadata}
    assert read_weights(path)[1]["preprocessing"]["mean"] == mean


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_is_refused_and_not_loaded(tmp_path):
    path, sprung = tmp_path / "x.safetensors", tmp_path / "sprung"
    path.write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(StorageError, match="must be a safetensors file, but"):
        read_weights(path)
    assert not sprung.exists()
    pickle.loads(path.read_bytes()).close()  # noqa: S301
    assert sprung.exists()  # the trap works


@pytest.mark.parametrize("cut", [0, 4, 50, -1])
def test_a_torn_file_is_refused(cut, tmp_path):
    path = tmp_path / "x.safetensors"
    write_weights(path, {"params": {"x": np.ones(5)}}, METADATA)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(StorageError, match="must be a safetensors file, but"):
        read_weights(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(StorageError, match=r"cannot read .*: No such file"):
        read_weights(tmp_path / "x.safetensors")


def changed(**changes):
    return json.dumps({**METADATA, **changes})


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        (None, DataError, "must be a weight file of resflax, but its header has no 'resflax'"),
        ("{", DataError, "must hold JSON under 'resflax', but"),
        ("[" * 100_000, DataError, "must hold JSON under 'resflax', but"),
        ("[]", DataError, "must give 'format' as int, got nothing"),
        (changed(format=2), StorageError, "has format 2, this version reads 1; update resflax"),
        (changed(model=3), DataError, "must give 'model' as str, got int"),
        (changed(num_classes="10"), DataError, "must give 'num_classes' as int or null, got str"),
        (changed(kwargs=None), DataError, "must give 'kwargs' as dict, got NoneType"),
    ],
)
def test_other_metadata_are_refused(text, error, says, tmp_path):
    save_file({"params/x": np.zeros(1)}, tmp_path / "x.safetensors", None if text is None else {"resflax": text})
    with pytest.raises(error) as raised:
        read_weights(tmp_path / "x.safetensors")
    assert says in str(raised.value)


@pytest.mark.parametrize(
    "names", [("x",), ("params",), ("weights/x",), ("params//x",), ("params/",), ("params/x", "params/x/y")]
)
def test_names_that_are_no_paths_are_refused(names, tmp_path):
    save_file({name: np.zeros(1) for name in names}, tmp_path / "x.safetensors", {"resflax": changed()})
    with pytest.raises(DataError, match="must be paths that begin with params or batch_stats, got"):
        read_weights(tmp_path / "x.safetensors")


def test_tensors_that_are_not_the_models_are_refused(tmp_path):
    _, variables, metadata = random_network("cifar_resnet8", 8, width=4)
    variables["params"]["head"]["dense"]["kernel"] = np.zeros((16, 9), np.float32)
    write_weights(tmp_path / "x.safetensors", variables, metadata)
    with pytest.raises(DataError) as raised:
        load_weights(tmp_path / "x.safetensors")
    assert str(raised.value).endswith(
        "must be those of cifar_resnet8, but params/head/dense/kernel is float32[16,9], expected float32[16,10]; write it again"
    )


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"model": "resnt50"}, ConfigError, "there is no model 'resnt50'"),
        ({"kwargs": {"widht": 4}}, ConfigError, "has no argument 'widht'"),
        ({"kwargs": {"width": "__import__('os').abort()"}}, DataError, "must describe a network, but"),
        ({"batch_norm": {"epsilon": "small"}}, DataError, "must describe a network, but"),
        ({"preprocessing": {}}, DataError, "must describe a network, but"),
    ],
)
def test_metadata_that_describe_no_network_are_refused(changes, error, says, tmp_path):
    _, variables, metadata = random_network("cifar_resnet8", 8, width=4)
    write_weights(tmp_path / "x.safetensors", variables, {**metadata, **changes})
    with pytest.raises(error) as raised:
        load_weights(tmp_path / "x.safetensors")
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_epsilon_of_its_own_is_the_networks(tmp_path):
    model, variables, metadata = random_network("cifar_resnet8", 8, width=4)
    write_weights(tmp_path / "x.safetensors", variables, {**metadata, "batch_norm": {"epsilon": 0.5}})
    images = random_images(2, 8)
    found = np.asarray(forward(*load_weights(tmp_path / "x.safetensors"))(images))
    assert np.abs(found - forward(model, variables, metadata)(images)).max() > 0.1
    larger = {name: leaf + 0.5 - 1e-5 for name, leaf in _variances(variables)}
    np.testing.assert_allclose(found, forward(model, _with(variables, larger), metadata)(images), rtol=1e-4, atol=1e-5)


def _variances(variables):
    from flax.traverse_util import flatten_dict

    return [(path, leaf) for path, leaf in flatten_dict(variables).items() if path[-1] == "var"]


def _with(variables, changes):
    from flax.traverse_util import flatten_dict, unflatten_dict

    return unflatten_dict({**flatten_dict(variables), **changes})
