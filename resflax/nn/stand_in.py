"""A faster form of a function, for the programs of this process on a CPU.

JAX cannot differentiate a call of a function in C, and `jax.export` refuses it, since no other process has that function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from resflax.types import Array

Function = Callable[..., Any]


def stand_in(form: Function, plain: Function) -> Function:
    """`form`, where it is run by this process on a CPU; its derivatives are those of `plain`, and so are exported programs.

    Args:
      form: arrays -> a tree of arrays.
      plain: the same function, of operations that every platform has.

    Returns:
      The function, to be traced, batched and differentiated like any other.
    """

    def function(*arguments: Array) -> Any:
        leaves, structure = jax.tree.flatten(jax.eval_shape(form, *arguments))
        results = _PRIMITIVE.bind(*arguments, form=form, plain=plain, shapes=tuple(leaves))
        return jax.tree.unflatten(structure, results)

    return function


def _lower_plain(ctx: mlir.LoweringRuleContext, *operands: Any, plain: Function, **_: Any) -> Any:
    return mlir.lower_fun(lambda *arguments: jax.tree.leaves(plain(*arguments)), multiple_results=True)(ctx, *operands)


def _lower_on_cpu(ctx: mlir.LoweringRuleContext, *operands: Any, form: Function, plain: Function, **_: Any) -> Any:
    # Programs that are exported may be read by later versions.
    return _lower_plain(ctx, *operands, plain=plain if ctx.is_forward_compat() else form)


def _differentiate(
    arguments: Sequence[Array], tangents: Sequence[Any], *, form: Function, plain: Function, **_: Any
) -> tuple[list[Array], list[Array]]:
    _, derivatives = jax.jvp(plain, tuple(arguments), tuple(map(ad.instantiate_zeros, tangents)))
    return jax.tree.leaves(stand_in(form, plain)(*arguments)), jax.tree.leaves(derivatives)


def _batch(
    arguments: Sequence[Array], axes: Sequence[int | None], *, form: Function, plain: Function, **_: Any
) -> tuple[list[Array], list[int]]:
    results = jax.tree.leaves(stand_in(jax.vmap(form, tuple(axes)), jax.vmap(plain, tuple(axes)))(*arguments))
    return results, [0] * len(results)


_PRIMITIVE = Primitive("stand_in")
_PRIMITIVE.multiple_results = True
_PRIMITIVE.def_impl(lambda *arguments, form, **_: jax.tree.leaves(form(*arguments)))
_PRIMITIVE.def_abstract_eval(lambda *_, shapes, **__: [jax.core.ShapedArray(one.shape, one.dtype) for one in shapes])
ad.primitive_jvps[_PRIMITIVE] = _differentiate
batching.primitive_batchers[_PRIMITIVE] = _batch
mlir.register_lowering(_PRIMITIVE, _lower_plain)
mlir.register_lowering(_PRIMITIVE, _lower_on_cpu, platform="cpu")
