"""Compiled for inference a network gives what it gives, by other operations."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from resflax.models.zoo import create_model
from resflax.nn import average_pool, max_pool
from resflax.weights.inference import compile_inference
from tests.weights import forward, random_images, random_network

RNG = np.random.default_rng(0)


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def check(function, images, tolerance=1e-5):
    compiled = compile_inference(function, images)
    expected = np.asarray(jax.jit(function)(images))
    found = compiled(images)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=tolerance * np.abs(expected).max())
    return compiled


@pytest.mark.parametrize(
    ("name", "size", "kwargs"),
    [
        ("cifar_resnet8", 32, {"shortcut": "C"}),
        ("cifar_preresnet8", 32, {}),
        pytest.param("resnet50", 64, {}, marks=pytest.mark.long),
        pytest.param("resnext50_32x4d", 64, {}, marks=pytest.mark.long),
        pytest.param("resnetv2_50x1_bit", 64, {}, marks=pytest.mark.long),
    ],
)
def test_a_network_from_pixels_to_logits(name, size, kwargs):
    check(forward(*random_network(name, size, **kwargs)), random_images(2, size), tolerance=3e-5)


def test_bfloat16_stays_bfloat16():
    """Kernels are rounded after they were multiplied: the difference is of the size of bfloat16's steps, 2**-8."""
    _, variables, _ = random_network("cifar_resnet8", 32)
    model = create_model("cifar_resnet8", 10, dtype=jnp.bfloat16)
    check(lambda images: model.apply(variables, images, train=False), draw(2, 32, 32, 3), tolerance=0.02)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_it_is_compiled_with_the_options_of_what_it_computes_in(compute, monkeypatch):
    asked = []
    monkeypatch.setattr("resflax.weights.inference.fusion_options", lambda device, compute: asked.append(compute) or {})
    _, variables, _ = random_network("cifar_resnet8", 32)
    model = create_model("cifar_resnet8", 10, dtype=jnp.dtype(compute))
    compile_inference(lambda images: model.apply(variables, images, train=False), draw(1, 32, 32, 3))
    assert asked == [compute]


def test_the_executable_holds_its_weights_and_no_pointwise_convolution():
    kernel, wide = draw(1, 1, 8, 4), draw(3, 3, 4, 4)

    def convolve(x, kernel):
        return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    images = draw(1, 9, 9, 8)
    for function, convolutions in ((lambda x: convolve(x, kernel), 0), (lambda x: convolve(convolve(x, kernel), wide), 1)):
        text = check(function, images).as_text()
        assert len(re.findall(r"= \S+ convolution\(", text)) == convolutions
        assert len(re.findall(r"= \S+ parameter\(", text[text.index("ENTRY") :])) == 1


def test_elsewhere_the_weights_are_arguments(monkeypatch):
    """As on accelerators: nothing of them is in the program."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    compiled = check(forward(*random_network("cifar_resnet8", 32)), random_images(2, 32), tolerance=3e-5)
    (weights,) = compiled.args
    assert sum(one.nbytes for one in weights) > 4 * 70_000


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize(
    "pool",
    [
        functools.partial(max_pool, window=3, stride=2, padding=1),
        functools.partial(max_pool, window=2, stride=2),
        functools.partial(max_pool, window=3, stride=1, padding=1),
        functools.partial(average_pool, window=3, stride=2, padding=1),
    ],
)
def test_pools(pool, size):
    check(pool, -np.abs(draw(2, size, size + 1, 3)))  # below zero: padding must not win


@pytest.mark.parametrize(
    "options",
    [
        {"window_strides": (2, 3), "padding": ((1, 2), (0, 1))},
        {"window_strides": (1, 1), "padding": ((0, 0), (0, 0)), "rhs_dilation": (2, 1)},
        {"window_strides": (1, 1), "padding": ((2, 2), (2, 2)), "lhs_dilation": (2, 2)},  # a transposed convolution
        {"window_strides": (1, 1), "padding": ((0, 0), (0, 0)), "feature_group_count": 2},
        {"window_strides": (1, 1), "padding": ((0, 0), (0, 0)), "precision": "highest"},
        {"window_strides": (1, 1), "padding": ((0, 0), (0, 0)), "dimension_numbers": ("NCHW", "OIHW", "NCHW")},
    ],
)
def test_convolutions(options):
    layouts = options.get("dimension_numbers", ("NHWC", "HWIO", "NHWC"))
    kernel = draw(3, 3, 4 // options.get("feature_group_count", 1), 6)
    if layouts[0] == "NCHW":
        kernel = draw(6, 4, 3, 3)
    options = {**options, "dimension_numbers": layouts}
    check(
        lambda x: lax.conv_general_dilated(x, kernel, **options), draw(2, *((4, 8, 9) if layouts[0] == "NCHW" else (8, 9, 4)))
    )
