"""Gradients on the accelerator against float32 on the CPU, before anything that runs there is believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resflax.models.zoo import create_model
from resflax.nn import BatchNorm, Conv, SpaceToDepthConv
from resflax.types import Array

# Relative to the largest entry of the gradient. TensorFloat-32 keeps ten bits of a product's factors.
TOLERANCE = {"highest": 1e-4, "default": 2e-2}


def compare() -> list[dict[str, Any]]:
    """`[{"what", "precision", "error", "agrees"}, ...]`: error is the largest, relative to the gradient's."""
    rows = []
    for what, (function, arguments) in cases().items():
        expected = _gradient(function, arguments, "highest", jax.devices("cpu")[0])
        for precision, tolerance in TOLERANCE.items():
            found = _gradient(function, arguments, precision, jax.devices()[0])
            error = max(_distance(one, other) for one, other in zip(found, expected, strict=True))
            rows.append({"what": what, "precision": precision, "error": error, "agrees": bool(error <= tolerance)})
    return rows


def _gradient(function: Callable[..., Array], arguments: Any, precision: str, device: jax.Device) -> list[np.ndarray]:
    with jax.default_matmul_precision(precision), jax.default_device(device):
        placed = jax.device_put(arguments, device)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(jax.jit(jax.grad(function, argnums=(0, 1)))(*placed))]


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.max(np.abs(found - expected)) / max(float(np.max(np.abs(expected))), 1e-12))


def cases() -> dict[str, tuple[Callable[..., Array], Any]]:
    """`{name: (scalar function of (parameters, images), arguments)}`."""
    images = jnp.asarray(np.random.default_rng(0).normal(size=(32, 16, 16, 16)), jnp.float32)
    pixels = jnp.asarray(np.random.default_rng(1).normal(size=(32, 32, 32, 3)), jnp.float32)
    weights = jnp.asarray(np.random.default_rng(2).normal(size=images.shape), jnp.float32)
    made: dict[str, tuple[Callable[..., Array], Any]] = {}
    modules = {
        "convolution 3x3": Conv(16, 3),
        "convolution 3x3, stride 2": Conv(16, 3, stride=2),
        "convolution 7x7, stride 2, as space to depth": SpaceToDepthConv(16, 7),
        "batch normalisation": BatchNorm(use_running_average=False, group_size=16),
        "batch normalisation, closed form": BatchNorm(use_running_average=False, group_size=16, gradient="closed_form"),
    }
    for name, module in modules.items():
        variables = module.init(jax.random.key(0), images)
        made[name] = (_weighted(module, variables, weights), (variables["params"], images))
    made["ReLU"] = (lambda scale, x: jnp.sum(jax.nn.relu(scale * x) * weights), (jnp.float32(1.5), images))
    network = create_model("cifar_resnet8", 10)
    variables = network.init(jax.random.key(0), pixels, train=False)
    logits_weights = weights[:, 0, 0, :10]
    made["cifar_resnet8"] = (_weighted(network, variables, logits_weights, train=True), (variables["params"], pixels))
    return made


def _weighted(module: Any, variables: Any, weights: Array, **how: bool) -> Callable[..., Array]:
    """A sum with fixed weights, so that no gradient is zero by symmetry."""
    state = {name: value for name, value in variables.items() if name != "params"}

    def function(params: Any, x: Array) -> Array:
        out, _ = module.apply({"params": params, **state}, x, mutable=["batch_stats"], **how)
        return jnp.sum(out * weights[tuple(slice(size) for size in out.shape)])

    return function
