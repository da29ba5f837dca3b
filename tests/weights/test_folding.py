"""Folding keeps the function and leaves the normalisations that it must leave."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from resflax.weights.folding import count_normalizations, fold
from resflax.weights.program import Program, trace
from resflax.weights.stablehlo import load, serialize
from tests.weights import forward, random_images, random_network


def run(closed, images, folder):
    """What a program computes; it has a symbolic batch, so it is run as it is exported."""
    path = folder / "x.stablehlo"
    path.write_bytes(serialize(Program(closed, "logits", {})))
    return load(path)(images)


@pytest.mark.parametrize(
    ("name", "kwargs", "before", "after"),
    [
        ("cifar_resnet8", {"shortcut": "C"}, 7 + 3, 0),
        ("cifar_resnet8", {}, 7, 0),
        # norm2 of each block follows conv1; norm1 an addition, or the stem that the shortcut reads too; final_norm an addition
        ("cifar_preresnet8", {}, 7, 4),
        ("tutorial_cnn", {}, 0, 0),
        pytest.param("cifar_vgg11", {}, 8, 0, marks=pytest.mark.long),  # its convolutions have biases
        pytest.param("seresnet18", {}, 20, 0, marks=pytest.mark.long),
        pytest.param("resnet50d", {}, 55, 0, marks=pytest.mark.long),
        pytest.param("resnext50_32x4d", {}, 53, 0, marks=pytest.mark.long),
        # group normalisation depends on the images: its 49 scales stay
        pytest.param("resnetv2_50x1_bit", {}, 49, 49, marks=pytest.mark.long),
    ],
)
def test_networks(name, kwargs, before, after, tmp_path):
    size = 64 if before > 10 else 32
    network = random_network(name, size, **kwargs)
    program = trace(forward(*network), (size, size, 3))
    folded = fold(program)
    assert (count_normalizations(program), count_normalizations(folded)) == (before, after)
    images = random_images(3, size)
    found = run(folded, images, tmp_path)
    if before == after:
        np.testing.assert_array_equal(found, run(program, images, tmp_path))
    else:
        expected = np.asarray(forward(*network)(images))
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(3, 3, 1, 6)).astype(np.float32)  # three groups
A, B, C, D = (RNG.uniform(0.5, 2, (1, 1, 1, 6)).astype(np.float32) for _ in range(4))


def convolve(images):
    return lax.conv_general_dilated(
        images / np.float32(255),
        KERNEL,
        (2, 1),
        ((1, 2), (0, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=3,
    )


@pytest.mark.parametrize(
    ("function", "operations"),
    [
        (lambda y: y * A + B, ["conv_general_dilated", "add"]),
        (lambda y: (B - (y - A) / C) * D, ["conv_general_dilated", "add"]),
        (lambda y: jnp.maximum(2 * y + 1, 0), ["conv_general_dilated", "add", "max"]),
        (lambda y: jnp.maximum(y, 0) * A, ["conv_general_dilated", "max", "mul"]),
        (lambda y: A / y, ["conv_general_dilated", "div"]),
        (lambda y: y * A + y, ["conv_general_dilated", "mul", "add"]),  # read twice
        (lambda y: (y + A) * (y + A), ["conv_general_dilated", "add", "add", "mul"]),
        (lambda y: (y * A) * (y * A), ["conv_general_dilated", "mul", "mul", "mul"]),
        (
            lambda y: y * A[:, :, :, :1].repeat(y.shape[2], 2),
            ["conv_general_dilated", "mul"],
        ),  # a factor a column, not a channel
        (lambda y: y, ["conv_general_dilated"]),
    ],
)
def test_what_is_folded_and_what_is_not(function, operations, tmp_path):
    def whole(images):
        return function(convolve(images.astype(jnp.float32)))

    folded = fold(trace(whole, (8, 8, 3)))
    names = [equation.primitive.name for equation in folded.jaxpr.eqns]
    assert names == ["convert_element_type", "div", *operations]
    images = random_images(3, 8)
    np.testing.assert_allclose(run(folded, images, tmp_path), jax.jit(whole)(images), rtol=1e-5, atol=1e-5)


def test_the_kernel_and_bias_are_the_formulas():
    closed = fold(trace(lambda images: convolve(images.astype(jnp.float32)) * A + B, (8, 8, 3)))
    arrays = {np.shape(constant): np.asarray(constant) for constant in closed.consts}
    np.testing.assert_array_equal(arrays[KERNEL.shape], KERNEL * A)
    np.testing.assert_array_equal(arrays[B.shape], B)
