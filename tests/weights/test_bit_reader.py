"""BiT's `.npz` files; tests/parity/test_converted_torch.py compares logits."""

import numpy as np
import pytest

from resflax import create_model
from resflax.errors import DataError, StorageError
from resflax.weights.bit_reader import bit_naming, read_bit
from resflax.weights.foreign import read_foreign
from resflax.weights.names import find_entries
from resflax.weights.network import abstract_variables


def names_and_shapes(counts, factor, classes):
    """`ResNetV2.load_from` of google-research/big_transfer, with the shapes of its layers."""
    found = {"resnet/root_block/standardized_conv2d/kernel": (7, 7, 3, 64 * factor)}
    width = 64 * factor
    for block, count in enumerate(counts, 1):
        outputs = 256 * factor * 2 ** (block - 1)
        inner = outputs // 4
        for unit in range(1, count + 1):
            prefix = f"resnet/block{block}/unit{unit:02d}/"
            for part, shape in (("a", (1, 1, width, inner)), ("b", (3, 3, inner, inner)), ("c", (1, 1, inner, outputs))):
                found[f"{prefix}{part}/standardized_conv2d/kernel"] = shape
                found[f"{prefix}{part}/group_norm/gamma"] = found[f"{prefix}{part}/group_norm/beta"] = (shape[2],)
            if unit == 1:
                found[f"{prefix}a/proj/standardized_conv2d/kernel"] = (1, 1, width, outputs)
            width = outputs
    found["resnet/group_norm/gamma"] = found["resnet/group_norm/beta"] = (width,)
    found["resnet/head/conv2d/kernel"], found["resnet/head/conv2d/bias"] = (1, 1, width, classes), (classes,)
    return found


@pytest.mark.parametrize(
    ("name", "counts", "factor"),
    [("resnetv2_50x1_bit", (3, 4, 6, 3), 1), ("resnetv2_50x3_bit", (3, 4, 6, 3), 3), ("resnetv2_152x2_bit", (3, 8, 36, 3), 2)],
)
def test_names_and_shapes_are_those_of_the_authors(name, counts, factor):
    model = create_model(name, 21843)
    abstract = abstract_variables(model, {"preprocessing": {"image_size": [64, 64], "mean": [0] * 3, "std": [1] * 3}})
    entries = find_entries(abstract, bit_naming, name)
    found = {entry.name: entry.layout.theirs for entry in entries.values()}
    assert found == names_and_shapes(counts, factor, 21843)


def test_the_head_is_a_convolution_there():
    kernel = np.random.default_rng(0).normal(size=(5, 3))
    layout = bit_naming("head/dense", "kernel", (5, 3)).layout
    np.testing.assert_array_equal(layout.to_theirs(kernel)[0, 0], kernel)


def test_arrays_are_read_and_objects_are_not(tmp_path):
    np.savez(tmp_path / "x.npz", **{"resnet/group_norm/gamma": np.arange(3.0)})
    assert read_bit(tmp_path / "x.npz")["resnet/group_norm/gamma"].tolist() == [0, 1, 2]
    with pytest.raises(DataError, match=r"as resnetv2_50x1_bit must be the same network, but of 153 tensors 152 missing"):
        read_foreign(tmp_path / "x.npz", "bit", "resnetv2_50x1_bit")

    with pytest.raises(DataError, match=r"every parameter of .* as resnetv2_50 must have a name there, but batch_stats/"):
        read_foreign(tmp_path / "x.npz", "bit", "resnetv2_50")

    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "canary"), "w")

    np.savez(tmp_path / "x.npz", a=np.array([Evil()], object))
    with pytest.raises(StorageError, match=r"x\.npz must be an \.npz file of arrays"):
        read_bit(tmp_path / "x.npz")
    assert not (tmp_path / "canary").exists()
    for content in (b"", b"PK", b"\x80\x02."):
        (tmp_path / "x.npz").write_bytes(content)
        with pytest.raises(StorageError, match=r"must be an \.npz"):
            read_bit(tmp_path / "x.npz")
