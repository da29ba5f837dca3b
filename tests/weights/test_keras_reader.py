"""Keras' files, written here with h5py; tests/parity/test_converted_keras.py reads those that Keras writes."""

import io
import zipfile

import numpy as np
import pytest

from resflax import create_model
from resflax.errors import DataError, StorageError
from resflax.weights.keras_reader import keras_naming, read_keras, with_rgb, without_biases

h5py = pytest.importorskip("h5py")

KERNEL = np.arange(7 * 7 * 3 * 4, dtype=np.float32).reshape(7, 7, 3, 4)
VECTOR = np.arange(4, dtype=np.float32)
EXPECTED = {
    "conv1_conv/kernel": KERNEL,
    "conv1_conv/bias": VECTOR,
    "conv1_bn/gamma": VECTOR + 1,
    "conv1_bn/beta": VECTOR + 2,
    "conv1_bn/moving_mean": VECTOR + 3,
    "conv1_bn/moving_variance": VECTOR + 4,
}


def keras_3(target):
    """`Model.save_weights` of Keras 3: layers are numbered, names are attributes."""
    with h5py.File(target, "w") as root:
        for group, layer, count in (
            ("conv2d", "conv1_conv", 2),
            ("batch_normalization", "conv1_bn", 4),
            ("activation", "relu", 0),
        ):
            variables = root.create_group(f"layers/{group}/vars")
            variables.attrs["name"] = layer
            arrays = [array for name, array in EXPECTED.items() if name.startswith(f"{layer}/")]
            assert len(arrays) == count
            for index, array in enumerate(arrays):
                variables[str(index)] = array
        root.create_group("vars")


def keras_2(target, root_group=None):
    """Keras 2: `weight_names` are paths below the layer's group, and end in `:0`."""
    with h5py.File(target, "w") as file:
        root = file.create_group(root_group) if root_group else file
        root.attrs["layer_names"] = [b"conv1_conv", b"conv1_bn"]
        for layer in ("conv1_conv", "conv1_bn"):
            names = [name for name in EXPECTED if name.startswith(f"{layer}/")]
            group = root.create_group(layer)
            group.attrs["weight_names"] = [f"{name}:0".encode() for name in names]
            for name in names:
                group[f"{name}:0"] = EXPECTED[name]


def keras_zip(path, compression=zipfile.ZIP_STORED):
    content = io.BytesIO()
    keras_3(content)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("config.json", '{"module": "os", "class_name": "system", "config": "never read"}')
        archive.writestr("model.weights.h5", content.getvalue())


@pytest.mark.parametrize(
    "write",
    [keras_3, keras_2, lambda path: keras_2(path, "model_weights"), keras_zip],
    ids=[".weights.h5", ".h5 weights", ".h5 model", ".keras"],
)
def test_the_formats_hold_the_same_arrays(write, tmp_path):
    write(tmp_path / "file")
    found = read_keras(tmp_path / "file")
    assert found.keys() == EXPECTED.keys()
    for name, array in EXPECTED.items():
        np.testing.assert_array_equal(found[name], array)


def names_of_version1(counts):
    names = {"conv1_conv/kernel", "predictions/kernel", "predictions/bias"}
    norms = {"conv1_bn"}
    for stage, count in enumerate(counts, 2):
        for block in range(1, count + 1):
            for layer in (0, 1, 2, 3) if block == 1 else (1, 2, 3):
                names.add(f"conv{stage}_block{block}_{layer}_conv/kernel")
                norms.add(f"conv{stage}_block{block}_{layer}_bn")
    return names | {f"{norm}/{part}" for norm in norms for part in ("gamma", "beta", "moving_mean", "moving_variance")}


def names_of_version2(counts):
    names = {"conv1_conv/kernel", "conv1_conv/bias", "predictions/kernel", "predictions/bias"}
    norms = {"post_bn"}
    for stage, count in enumerate(counts, 2):
        for block in range(1, count + 1):
            name = f"conv{stage}_block{block}"
            norms |= {f"{name}_preact_bn", f"{name}_1_bn", f"{name}_2_bn"}
            names |= {f"{name}_{layer}_conv/kernel" for layer in (1, 2, 3)} | {f"{name}_3_conv/bias"}
            if block == 1:
                names |= {f"{name}_0_conv/kernel", f"{name}_0_conv/bias"}
    return names | {f"{norm}/{part}" for norm in norms for part in ("gamma", "beta", "moving_mean", "moving_variance")}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet50_v1", names_of_version1((3, 4, 6, 3))),
        ("resnet101_v1", names_of_version1((3, 4, 23, 3))),
        ("keras_resnet50v2", names_of_version2((3, 4, 6, 3))),
        ("keras_resnet152v2", names_of_version2((3, 8, 36, 3))),
    ],
)
def test_names_are_those_of_keras_applications(name, expected):
    from resflax.weights.names import find_entries
    from resflax.weights.network import abstract_variables

    model = create_model(name, 1000)
    abstract = abstract_variables(model, {"preprocessing": {"image_size": [64, 64], "mean": [0] * 3, "std": [1] * 3}})
    entries = find_entries(abstract, keras_naming(model), name)
    assert {entry.name for entry in entries.values()} == expected


def test_a_bias_goes_into_the_mean_behind_it():
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(size=array.shape) for name, array in EXPECTED.items()}
    tensors["predictions/bias"] = rng.normal(size=4)
    folded = without_biases(tensors)
    assert folded.keys() == tensors.keys() - {"conv1_conv/bias"}

    def normalised(y, weights):
        scale = weights["conv1_bn/gamma"] / np.sqrt(weights["conv1_bn/moving_variance"] ** 2 + 1)
        return (y - weights["conv1_bn/moving_mean"]) * scale + weights["conv1_bn/beta"]

    y = rng.normal(size=(5, 4))
    np.testing.assert_allclose(normalised(y, folded), normalised(y + tensors["conv1_conv/bias"], tensors), rtol=1e-12)


def test_the_first_kernel_takes_rgb_for_bgr():
    kernel = with_rgb(EXPECTED)["conv1_conv/kernel"]
    image = np.random.default_rng(0).normal(size=(7, 7, 3))
    np.testing.assert_allclose(np.einsum("hwc,hwco", image, kernel), np.einsum("hwc,hwco", image[..., ::-1], KERNEL))


def test_what_is_no_file_of_keras(tmp_path):
    for content in (b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"something else"):
        (tmp_path / "x.h5").write_bytes(content)
        with pytest.raises(StorageError, match=r"x\.h5 must be a \.h5, \.weights\.h5 or \.keras file, but"):
            read_keras(tmp_path / "x.h5")
    with pytest.raises(StorageError, match="No such file"):
        read_keras(tmp_path / "none.h5")
    keras_zip(tmp_path / "x.keras", zipfile.ZIP_DEFLATED)
    with pytest.raises(StorageError, match="compressed"):
        read_keras(tmp_path / "x.keras")
    with h5py.File(tmp_path / "unnamed.h5", "w") as root:
        root["layers/conv2d/vars/0"] = KERNEL
    with pytest.raises(DataError, match="named layers"):
        read_keras(tmp_path / "unnamed.h5")


def test_a_link_into_another_file_is_not_followed(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as other:
        other["numbers"] = VECTOR
    with h5py.File(tmp_path / "x.h5", "w") as root:
        root.create_group("layers/conv2d/vars").attrs["name"] = "conv1_conv"
        root["layers/conv2d/vars/0"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "numbers")
    with pytest.raises(StorageError, match=r"must be a \.h5"):
        read_keras(tmp_path / "x.h5")
