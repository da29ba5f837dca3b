"""The mapping of leaves to a foreign file's tensors: nothing lost, nothing changed, nothing overlooked."""

import ml_dtypes
import numpy as np
import pytest

from resflax.errors import DataError
from resflax.tree import named_leaves
from resflax.weights.names import Entry, Layout, bring_in, head_names, head_size, moved, same, take_out

SHAPES = {"params/a/kernel": (2, 3, 4, 5), "params/a/bias": (5,), "params/head/dense/kernel": (4, 3)}


def naming(module, parameter, shape):
    layout = moved(shape, (3, 2, 0, 1)) if len(shape) == 4 else moved(shape, (1, 0)) if len(shape) == 2 else same(shape)
    return Entry(f"their.{module.replace('/', '.')}.{parameter}", layout)


def tree():
    rng = np.random.default_rng(0)
    a = {"kernel": rng.normal(size=SHAPES["params/a/kernel"]), "bias": rng.normal(size=5)}
    return {"params": {"a": a, "head": {"dense": {"kernel": rng.normal(size=(4, 3))}}}}


def test_a_layout_is_what_it_says_and_has_an_inverse():
    ours = np.arange(2 * 3 * 4 * 5).reshape(24, 5)  # an image of 2x3 with 4 channels, flattened, to 5 features
    layout = Layout((2, 3, 4, 5), (3, 2, 0, 1), (5, 24))
    theirs = layout.to_theirs(ours)
    for h, w, c, out in np.ndindex(2, 3, 4, 5):
        assert theirs[out, c * 6 + h * 3 + w] == ours[h * 12 + w * 4 + c, out]
    np.testing.assert_array_equal(layout.to_ours(theirs, ours.shape), ours)


def test_out_and_in_is_bit_equal():
    variables = tree()
    tensors = take_out(variables, naming, "a network")
    assert {name: array.shape for name, array in tensors.items()} == {
        "their.a.kernel": (5, 4, 2, 3),
        "their.a.bias": (5,),
        "their.head.dense.kernel": (3, 4),
    }
    back = named_leaves(bring_in(variables, naming, tensors, "a file"))
    assert back.keys() == SHAPES.keys()
    for name, leaf in named_leaves(variables).items():
        np.testing.assert_array_equal(back[name], leaf)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_widened_without_loss(dtype):
    half = {name: array.astype(dtype) for name, array in take_out(tree(), naming, "a network").items()}
    back = bring_in(tree(), naming, half, "a file")
    bias = back["params"]["a"]["bias"]
    assert bias.dtype == np.float32
    np.testing.assert_array_equal(bias.astype(dtype), half["their.a.bias"])


def test_all_that_is_wrong_is_told_in_one_sentence():
    tensors = take_out(tree(), naming, "a network")
    tensors["their.a.kernel"] = tensors["their.a.kernel"][:, :, :, :1]
    del tensors["their.a.bias"]
    tensors["their.head.dense.kernel"] = np.zeros((3, 4), np.int64)
    tensors |= {f"extra{index}": np.zeros(1) for index in range(5)}
    with pytest.raises(DataError) as error:
        bring_in(tree(), naming, tensors, "weights.pth as resnet50")
    message = str(error.value)
    assert error.value.exit_code == 65
    assert message.startswith("weights.pth as resnet50 must")
    assert "1 missing (their.a.bias)" in message
    assert "5 unused (extra0, extra1, extra2, ...)" in message
    assert "1 of another shape (their.a.kernel [5, 4, 2, 1] for [5, 4, 2, 3])" in message
    assert "1 of another type (their.head.dense.kernel int64)" in message


@pytest.mark.parametrize("entry", [None, Entry("one", same(()))])
def test_a_leaf_without_a_name_of_its_own_is_refused(entry):
    with pytest.raises(DataError, match="must have a name there, but params/"):
        take_out(tree(), lambda *_: entry, "a network")


def test_the_head_is_found():
    tensors = {"their.head.dense.bias": np.zeros(7)}
    assert head_size(naming, tensors) == 7
    assert head_size(naming, {}) is None
    assert head_names(lambda module, parameter, shape: Entry(f"{module} {parameter}", same(shape))) == [
        "head/dense kernel",
        "head/dense bias",
    ]
