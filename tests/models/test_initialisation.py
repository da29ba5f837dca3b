"""Initial weights, against what torchvision's `ResNet.__init__` does: its statements, written down here as numbers."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resflax
from resflax.tree import named_leaves


@functools.cache
def initial(name, **parts):
    model = resflax.create_model(name, 1000, **parts)
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    return {path: np.asarray(leaf) for path, leaf in named_leaves(variables["params"]).items()}


@pytest.mark.parametrize("name", ["resnet18", "cifar_resnet20", "seresnet18"])
def test_convolutions_are_normal_over_the_fan_out(name):
    """`kaiming_normal_(mode="fan_out", nonlinearity="relu")`: deviation sqrt(2 / (out * h * w)), not truncated."""
    for path, kernel in initial(name).items():
        if not path.endswith("kernel") or "head" in path or "squeeze" in path or kernel.ndim != 4:
            continue
        height, width, _, outputs = kernel.shape
        deviation = math.sqrt(2 / (height * width * outputs))
        # The deviation of n normal draws is within 5 / sqrt(2n) of the truth in all but one of a million cases.
        assert kernel.std() == pytest.approx(deviation, rel=5 / math.sqrt(2 * kernel.size)), path
        assert abs(kernel.mean()) < 5 * deviation / math.sqrt(kernel.size), path
        if kernel.size > 30_000:
            assert np.abs(kernel).max() > 3.5 * deviation, path  # a normal distribution cut at 2 deviations would not


def test_normalisations_start_as_the_identity_but_for_the_last_of_a_block():
    """`constant_(weight, 1)`, `constant_(bias, 0)`; with `zero_init_residual` the last weight of each block is 0."""
    for zero_gamma in (True, False):
        for path, leaf in initial("resnet18", zero_gamma=zero_gamma).items():
            if path.endswith("scale"):
                assert np.all(leaf == (0 if zero_gamma and path.endswith("norm2/scale") else 1)), path
            if path.endswith("bias") and "head" not in path:
                assert np.all(leaf == 0), path


def test_the_head_is_uniform():
    """`nn.Linear`: weights uniform within 1 / sqrt(inputs). The bias is 0 here, uniform in the same range there."""
    params = initial("resnet18")
    kernel, bound = params["head/dense/kernel"], 1 / math.sqrt(512)
    assert kernel.shape == (512, 1000)
    assert 0.999 * bound < np.abs(kernel).max() <= bound
    assert kernel.std() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert abs(kernel.mean()) < 5 * bound / math.sqrt(3 * kernel.size)
    assert np.all(params["head/dense/bias"] == 0)


def test_blocks_start_as_their_shortcuts():
    """With zero last scales a network of any depth begins as its stem, shortcuts and head: the function of `zero_gamma`."""
    model = resflax.create_model("resnet18", 10).clone(counts=(1, 1), width=8)
    deeper = model.clone(counts=(3, 2))
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    shallow = model.init(jax.random.key(0), images, train=False)
    deep = deeper.init(jax.random.key(0), images, train=False)
    np.testing.assert_allclose(
        deeper.apply(deep, images, train=False), model.apply(shallow, images, train=False), rtol=1e-5, atol=1e-6
    )
