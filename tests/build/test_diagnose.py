import jax
import jax.numpy as jnp
import pytest

import resflax
from resflax.build.diagnose import _depth, _is_convolution
from resflax.nn import unstack_blocks
from resflax.tree import named_leaves


@pytest.mark.parametrize(
    ("name", "parts", "expected"),
    [
        ("cifar_resnet20", {"counts": (1, 2), "repeat": "scan"}, "stem_conv 1/1/1 1/1/2 2/1/1 2/1/2 2/2/1 2/2/2"),
        ("resnet50d", {"counts": (2,)}, "stem_conv1 stem_conv2 stem_conv3 1/1/1 1/1/2 1/1/3 1/2/1 1/2/2 1/2/3"),
        ("cifar_vgg11", {}, "conv1 conv2 conv3 conv4 conv5 conv6 conv7 conv8"),
        ("tutorial_cnn", {}, "conv1 conv2"),
    ],
)
def test_convolutions_are_found_from_input_to_output_without_those_of_shortcuts(name, parts, expected):
    model = resflax.create_model(name, 10).clone(**parts)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))["params"]
    if parts.get("repeat") == "scan":
        params = jax.eval_shape(unstack_blocks, params)
    found = sorted((leaf for leaf in named_leaves(params) if _is_convolution(leaf)), key=_depth)
    short = [leaf.removesuffix("/kernel").replace("stage", "").replace("block", "").replace("/conv", "/") for leaf in found]
    assert short == expected.split()
