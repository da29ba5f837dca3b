"""What each layer of a network costs, found by tracing it: nothing is allocated or computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from resflax.nn import BatchNorm, Conv, GroupNorm, WhiteningConv


@dataclass(frozen=True)
class Layer:
    """One convolution, normalisation or dense layer, for one image."""

    name: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int  # of convolutions and dense layers; the rest is negligible beside them
    activations: int  # elements of the output
    receptive_field: int | None  # pixels on a side that an output may depend on; None once the image is flattened


def profile(model: nn.Module, input_shape: tuple[int, int, int]) -> list[Layer]:
    """The layers of `model` in the order they run, for an image of height, width and channels `input_shape`.

    The receptive field follows the main path: layers named `shortcut` reach no further than the path they bypass.
    Layers repeated in a loop (`repeat="scan"`) appear once, with the parameters of all.
    """
    layers: list[Layer] = []
    side = input_shape[0]
    field, jump = 1, 1  # extent of the receptive field, distance between neighbouring outputs, in input pixels

    def note(following: Callable[..., Any], arguments: Any, keywords: Any, context: nn.module.InterceptorContext) -> Any:
        nonlocal side, field, jump
        module = context.module
        if context.method_name != "__call__":
            return following(*arguments, **keywords)
        inputs: Any = arguments[0] if arguments else None
        main = "shortcut" not in module.path
        is_conv = isinstance(module, (Conv, WhiteningConv))
        if main and is_conv and inputs.shape[1] != side:  # pooled since the last convolution
            window = round(side / inputs.shape[1])
            field, jump = field + (window - 1) * jump, jump * window
        output = following(*arguments, **keywords)
        if not isinstance(module, (Conv, WhiteningConv, BatchNorm, GroupNorm, nn.Dense)):
            return output
        counts = [int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(module.variables.get("params", {}))]
        kernel: Any = module.get_variable("batch_stats" if isinstance(module, WhiteningConv) else "params", "kernel")
        operations = 0
        if isinstance(kernel, (jax.Array, jax.core.Tracer)):
            operations = int(np.prod(kernel.shape)) * int(np.prod(output.shape[1:-1]))
        if main and is_conv:
            field, jump = field + (module.kernel_size - 1) * module.dilation * jump, jump * module.stride
            side = output.shape[1]
        layers.append(
            Layer(
                "/".join(module.path),
                tuple(output.shape[1:]),
                sum(counts),
                operations,
                int(np.prod(output.shape[1:])),
                field if output.ndim == 4 else None,
            )
        )
        return output

    def trace() -> Any:
        with nn.intercept_methods(note):
            return model.init(jax.random.key(0), jnp.zeros((1, *input_shape)), train=False)

    jax.eval_shape(trace)
    return layers
