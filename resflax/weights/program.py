"""A network as one flat list of operations on images: what exporters translate.

The program is a jaxpr from `images`, uint8[batch, H, W, C] with a symbolic batch, to the network's output, preprocessing
included. Calls are inlined, and what depends on weights alone is computed beforehand: what is left depends on the images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from resflax.errors import ConfigError
from resflax.types import Array
from resflax.version import __version__

# How an operation is to be evaluated: (equation, operands) -> its result; None leaves the operation as it is.
Rule = Callable[[core.JaxprEqn, Sequence[Any]], Any]
LARGEST = 2**31 - 2**20  # bytes of weights: the containers of both formats end at 2 GiB
_CALLS = {"jit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}


@dataclass(frozen=True)
class Program:
    """What is exported."""

    jaxpr: core.ClosedJaxpr  # uint8[batch, H, W, C] -> float32[batch, outputs]; the weights are its constants
    output: str  # its name: `logits`, or `features` of a backbone
    metadata: Mapping[str, Any]  # of the weight file, with `input`, `output`, and the version that exported it

    @property
    def images(self) -> jax.ShapeDtypeStruct:
        """The only argument."""
        (images,) = self.jaxpr.in_avals
        return jax.ShapeDtypeStruct(images.shape, images.dtype)


def make_program(
    forward: Callable[[Array], Any],
    input_shape: tuple[int, int, int],
    metadata: Mapping[str, Any],
    rewrite: Callable[[core.ClosedJaxpr], core.ClosedJaxpr] | None = None,
) -> Program:
    """The program of a network.

    Args:
      forward: uint8[B, *input_shape] -> float32[B, outputs].
      input_shape: height, width, channels.
      metadata: of its weight file, see `resflax.weights.safetensors`.
      rewrite: applied to the flat program.

    Raises `ConfigError` where its weights are too large for one file.
    """
    jaxpr = trace(forward, input_shape)
    if rewrite is not None:
        jaxpr = rewrite(jaxpr)
    size = sum(constant.nbytes for constant in jaxpr.consts)
    if size > LARGEST:
        raise ConfigError(
            f"the weights of an exported program must be below 2 GiB, got {size / 2**30:.1f} GiB; use --format=safetensors"
        )
    name = "logits" if metadata["num_classes"] else "features"
    described = {
        "input": {"name": "images", "dtype": "uint8", "shape": ["batch", *input_shape], "layout": "NHWC"},
        "output": {"name": name, "dtype": "float32", "shape": ["batch", *jaxpr.out_avals[0].shape[1:]]},
        "resflax": __version__,
    }
    return Program(jaxpr, name, {**metadata, **described})


def trace(function: Callable[[Array], Any], input_shape: tuple[int, int, int]) -> core.ClosedJaxpr:
    """The flat program of a function of uint8[batch, *input_shape], for any batch."""
    (batch,) = jax.export.symbolic_shape("batch")
    return retrace(jax.make_jaxpr(function)(jax.ShapeDtypeStruct((batch, *input_shape), jnp.uint8)))


def retrace(closed: core.ClosedJaxpr, rule: Rule | None = None) -> core.ClosedJaxpr:
    """The flat program with `rule` applied to each of its operations."""
    arguments = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in closed.in_avals]
    return jax.make_jaxpr(lambda *values: evaluate(closed, *values, rule=rule)[0])(*arguments)


def evaluate(closed: core.ClosedJaxpr, *arguments: Any, rule: Rule | None = None) -> list[Any]:
    """Evaluates a program one operation after another, inside any other trace; returns its outputs."""
    jaxpr = closed.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *arguments], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        operands = [read(operand) for operand in equation.invars]
        result = None if rule is None else rule(equation, operands)
        results = _apply(equation, operands, rule) if result is None else [result]
        values.update(zip(equation.outvars, results, strict=True))
    return [read(output) for output in jaxpr.outvars]


def _apply(equation: core.JaxprEqn, operands: Sequence[Any], rule: Rule | None) -> list[Any]:
    primitive, params = equation.primitive, equation.params
    if primitive.name in _CALLS:
        return evaluate(params[_CALLS[primitive.name]], *operands, rule=rule)
    if primitive.name == "platform_index":  # of `lax.platform_dependent`: what is written is the form of no platform
        return [params["platforms"].index(None)]
    if primitive.name == "cond" and is_constant(operands[0]):
        return evaluate(params["branches"][int(operands[0])], *operands[1:], rule=rule)
    if is_constant(*operands):
        with jax.ensure_compile_time_eval():
            result = primitive.bind(*operands, **params)
    else:
        result = primitive.bind(*operands, **params)
    return list(result) if primitive.multiple_results else [result]


def is_constant(*operands: Any) -> bool:
    """Whether the values are there already, and not to be computed from images."""
    return not any(isinstance(operand, jax.core.Tracer) for operand in operands)
