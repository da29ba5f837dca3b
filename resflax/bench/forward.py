"""The jitted forward pass of a linen network, ours or another."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from resflax.bench.workload import Contender, Program, Workload
from resflax.compiler import fusion_options
from resflax.models.zoo import create_model
from resflax.tree import parameter_count
from resflax.types import Array, Variables


def initial_variables(model: nn.Module, images: Array) -> Any:
    """Random variables of a linen network; their values do not matter here, so of the generator that compiles fast."""
    return jax.jit(functools.partial(model.init, train=False))(jax.random.key(0, impl="rbg"), images[:1])


def forward_program(
    apply: Callable[[Variables, Array], Any], variables: Variables, images: Array, options: dict[str, str] | None = None
) -> Program:
    """`apply(variables, images) -> logits`, compiled; every call is waited for, as one who needs the answer does."""
    forward = jax.jit(apply, compiler_options=options)

    def advance(steps: int) -> float:
        for _ in range(steps):
            logits = jax.block_until_ready(forward(variables, images))
        return float(logits.mean())

    return Program(advance, parameter_count(variables["params"]))


def unfolded_inference(workload: Workload) -> Contender:
    """The network of `resflax.models.zoo` as evaluation runs it."""
    model, variables, images = our_network(workload)
    apply, options = functools.partial(model.apply, train=False), fusion_options(jax.devices()[0], workload.precision)
    return Contender("unfolded", lambda: forward_program(apply, variables, images, options))


def our_network(workload: Workload) -> tuple[nn.Module, Variables, Array]:
    """`(model, variables, images)`: a batch on the device, and random variables."""
    model = create_model(workload.model, workload.num_classes, dtype=jnp.dtype(workload.precision))
    images = jax.device_put(workload.batch()[0])
    return model, initial_variables(model, images), images
