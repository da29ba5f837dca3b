"""A form of a function that is left out where a program is exported.

A program that calls functions of this process (`resflax.nn.native`) runs nowhere else, so `jax.export` refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from resflax.types import Array

Function = Callable[..., Any]


def unless_exported(form: Function, plain: Function) -> Function:
    """`form`, and `plain` in exported programs.

    Args:
      form: arrays -> a tree of arrays.
      plain: the same function, of operations that every platform has.

    Returns:
      A function that can be traced and batched, but not differentiated.
    """

    def function(*arguments: Array) -> Any:
        leaves, structure = jax.tree.flatten(jax.eval_shape(form, *arguments))
        results = _PRIMITIVE.bind(*arguments, form=form, plain=plain, shapes=tuple(leaves))
        return jax.tree.unflatten(structure, results)

    return function


def _lower(ctx: mlir.LoweringRuleContext, *operands: Any, form: Function, plain: Function, **_: Any) -> Any:
    chosen = plain if ctx.is_forward_compat() else form  # programs that are exported may be read by later versions
    return mlir.lower_fun(lambda *arguments: jax.tree.leaves(chosen(*arguments)), multiple_results=True)(ctx, *operands)


def _batch(
    arguments: Sequence[Array], axes: Sequence[int | None], *, form: Function, plain: Function, **_: Any
) -> tuple[list[Array], list[int]]:
    batched = unless_exported(jax.vmap(form, tuple(axes)), jax.vmap(plain, tuple(axes)))
    results = jax.tree.leaves(batched(*arguments))
    return results, [0] * len(results)


_PRIMITIVE = Primitive("unless_exported")
_PRIMITIVE.multiple_results = True
_PRIMITIVE.def_impl(lambda *arguments, form, **_: jax.tree.leaves(form(*arguments)))
_PRIMITIVE.def_abstract_eval(lambda *_, shapes, **__: [jax.core.ShapedArray(one.shape, one.dtype) for one in shapes])
batching.primitive_batchers[_PRIMITIVE] = _batch
mlir.register_lowering(_PRIMITIVE, _lower)
