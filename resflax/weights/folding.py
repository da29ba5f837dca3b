"""Folds normalisations into the convolutions before them (Jacob et al. 2018, arXiv:1712.05877, Sec. 3.2).

In evaluation a batch normalisation is `y * scale + shift` with constants a channel. Where `y` is a convolution that nothing
else reads, that is one convolution with the kernel `kernel * scale` and a bias. The program is rewritten and not the module,
so what is shared is seen: a normalisation after an addition stays, and so does one whose convolution a shortcut reads too.
A convolution in bfloat16 keeps its precision: `kernel * scale` is rounded to it, the bias is added in that of the norm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from resflax.weights.program import retrace

NHWC = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))  # images, kernel, result, as lax writes them


def fold(closed: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """The same function of images with each convolution and what scales and shifts its channels in one.

    Args:
      closed: a flat program, see `resflax.weights.program`.

    Returns:
      A flat program; where nothing can be folded, an equal one. Products are taken in float64.
    """
    jaxpr = closed.jaxpr
    constants = set(jaxpr.constvars)
    reads = [(operand, equation) for equation in jaxpr.eqns for operand in equation.invars if isinstance(operand, core.Var)]
    times = Counter([*(operand for operand, _ in reads), *jaxpr.outvars, *jaxpr.outvars])  # the caller reads the outputs
    only_reader = {operand: equation for operand, equation in reads if times[operand] == 1}

    def leads_on(var: core.Var) -> bool:
        """Whether an operation of a channel follows, if only after a change of the precision."""
        following = only_reader.get(var)
        if following is None:
            return False
        return _is_affine(following, var, constants) or (_is_cast(following) and leads_on(following.outvars[0]))

    def rule(equation: core.JaxprEqn, operands: Sequence[Any]) -> Any:
        (result,) = equation.outvars
        goes_on = leads_on(result)
        folded = next((operand for operand in operands if isinstance(operand, _Folded)), None)
        if folded is not None:
            folded = folded.then(equation, operands)
        elif goes_on and _is_convolution(equation, constants):
            kernel = np.asarray(operands[1], np.float64)
            folded = _Folded(equation, operands[0], kernel, np.zeros(kernel.shape[-1]), operands[0].dtype)
        else:
            return None
        return folded if goes_on else folded.emit()

    return retrace(closed, rule)


def count_normalizations(closed: core.ClosedJaxpr) -> int:
    """How many operations of a flat program scale the channels of feature maps by constants."""
    constants = set(closed.jaxpr.constvars)
    scaled = [equation for equation in closed.jaxpr.eqns if equation.primitive.name == "mul"]
    return sum(any(_is_affine(equation, operand, constants) for operand in equation.invars) for equation in scaled)


@dataclass(frozen=True)
class _Folded:
    """A convolution that is not computed yet, because more can be folded into it."""

    equation: core.JaxprEqn
    images: Any
    kernel: np.ndarray  # float64[h, w, C / groups, features]
    bias: np.ndarray  # float64[features]
    dtype: Any  # of the result; the convolution is computed in that of the images

    def then(self, equation: core.JaxprEqn, operands: Sequence[Any]) -> _Folded:
        """The convolution with the operation of a channel, or the change of precision, that follows it."""
        if _is_cast(equation):
            return replace(self, dtype=equation.params["new_dtype"])
        first = operands[0] is self
        constant = np.asarray(operands[1 if first else 0], np.float64).reshape(-1)
        name = equation.primitive.name
        if name == "add":
            return replace(self, bias=self.bias + constant)
        if name == "sub" and first:
            return replace(self, bias=self.bias - constant)
        if name == "sub":
            return replace(self, kernel=-self.kernel, bias=constant - self.bias)
        scale = constant if name == "mul" else 1 / constant
        return replace(self, kernel=self.kernel * scale, bias=self.bias * scale)

    def emit(self) -> jax.Array:
        """float[B, H', W', features]."""
        kernel, bias = jnp.asarray(self.kernel, self.images.dtype), jnp.asarray(self.bias.reshape(1, 1, 1, -1), self.dtype)
        return self.equation.primitive.bind(self.images, kernel, **self.equation.params).astype(self.dtype) + bias


def _is_convolution(equation: core.JaxprEqn, constants: Collection[Any]) -> bool:
    """Whether it is a convolution of images in the layout NHWC with a constant kernel."""
    if equation.primitive.name != "conv_general_dilated" or not _constant(equation.invars[1], constants):
        return False
    return tuple(equation.params["dimension_numbers"]) == NHWC and equation.params["batch_group_count"] == 1


def _is_affine(equation: core.JaxprEqn, var: Any, constants: Collection[Any]) -> bool:
    """Whether it scales or shifts the channels of `var`, float[B, H, W, C], by a constant."""
    name = equation.primitive.name
    others: list[Any] = [operand for operand in equation.invars if operand is not var]
    if name not in ("add", "sub", "mul", "div") or len(others) != 1 or len(getattr(var.aval, "shape", ())) != 4:
        return False
    (other,) = others
    if not _constant(other, constants) or (name == "div" and equation.invars[0] is not var):
        return False
    return all(extent == 1 for extent in other.aval.shape[:-1])


def _is_cast(equation: core.JaxprEqn) -> bool:
    """Whether it gives the same numbers in another precision."""
    return equation.primitive.name == "convert_element_type" and jnp.issubdtype(equation.params["new_dtype"], jnp.floating)


def _constant(atom: Any, constants: Collection[Any]) -> bool:
    return isinstance(atom, core.Literal) or atom in constants
