"""ONNX, through jax2onnx, with the weights inside the file.

jax2onnx (0.13 to 0.17) fails on the padding of a symbolic batch and drops that of pools, silently, so these are written as it
expects them. Whatever else it may get wrong is found when the file is compared with the network.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import linen as nn
from jax.extend import core

from resflax.errors import ConfigError, DataError
from resflax.files import storage
from resflax.weights.checked import Function
from resflax.weights.program import Program, evaluate, is_constant

OPSET = 18  # ONNX Runtime 1.14 and later


def serialize(program: Program) -> bytes:
    """The content of an ONNX file; the metadata are JSON under its property `resflax`.

    Raises:
      ConfigError: jax2onnx or ONNX Runtime is missing.
      DataError: jax2onnx does not know an operation.
    """
    jax2onnx, _ = libraries()

    def function(images: jax.Array) -> Any:
        return evaluate(program.jaxpr, images, rule=_as_jax2onnx_expects)[0]

    try:
        model = jax2onnx.to_onnx(
            function,
            [program.images],
            model_name=program.metadata["model"],
            opset=OPSET,
            input_names=["images"],
            output_names=[program.output],
        )
    except Exception as error:  # its plugins raise whatever they meet
        raise DataError(f"jax2onnx must know the network's operations, but {error}; use --format=stablehlo") from error
    model.metadata_props.add(key="resflax", value=json.dumps(program.metadata, allow_nan=False))
    return model.SerializeToString()


def load(path: epath.PathLike) -> Function:
    """The function of a file, as ONNX Runtime computes it on the CPU."""
    _, onnxruntime = libraries()
    with storage("read", path):
        content = epath.Path(path).read_bytes()
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes have no common ancestor but this
        raise DataError(f"{path} must be a file that ONNX Runtime reads, but {error}; update onnxruntime") from error
    return lambda images: session.run(None, {"images": images})[0]


def libraries() -> tuple[Any, Any]:
    """The modules jax2onnx and onnxruntime; raises `ConfigError` where one is missing."""
    logging.getLogger("jax2onnx").setLevel(logging.CRITICAL)  # tells of each operation that this JAX does not have any more
    try:
        import jax2onnx
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"ONNX needs jax2onnx and onnxruntime, but {error}; pip install 'resflax[onnx]'") from error
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # notes about shapes that it leaves out of the file
    return jax2onnx, onnxruntime


def _as_jax2onnx_expects(equation: core.JaxprEqn, operands: Sequence[Any]) -> Any:
    name, params = equation.primitive.name, equation.params
    x: Any = operands[0] if operands else None
    if name == "max" and is_constant(operands[1]) and not np.any(operands[1]):
        return jax.nn.relu(x)
    if name == "pad" and not np.any([interior for _, _, interior in params["padding_config"]]):
        return _pad(x, [(low, high) for low, high, _ in params["padding_config"]], operands[1])
    if name == "reduce_window_max":
        return nn.max_pool(_pad(x, params["padding"], -np.inf), **_window(params))
    if name == "reduce_window_sum":
        count = int(np.prod(params["window_dimensions"]))
        return nn.avg_pool(_pad(x, params["padding"], 0), **_window(params)) * count
    return None


def _pad(x: Any, widths: Sequence[tuple[int, int]], value: Any) -> Any:
    widths = [(int(low), int(high)) for low, high in widths]
    return jnp.pad(x, widths, constant_values=value) if np.any(widths) else x


def _window(params: dict[str, Any]) -> dict[str, Any]:
    return {"window_shape": params["window_dimensions"][1:3], "strides": params["window_strides"][1:3], "padding": "VALID"}
