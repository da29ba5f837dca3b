"""What a network computes on the way: the output of any stage, block or layer, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from resflax.errors import ConfigError, nearest
from resflax.nn import unstack_blocks
from resflax.types import Array, Variables

PRE_LOGITS = "pre_logits"  # what the head is given
_NOTHING: Mapping[str, Array] = {}


def intermediates(
    model: nn.Module,
    variables: Variables,
    images: Array,
    names: Sequence[str],
    shifts: Mapping[str, Array] = _NOTHING,
) -> tuple[Array, dict[str, Array]]:
    """Evaluates a network and returns named outputs with its logits; may run inside `jit`.

    Args:
      model: of `resflax.create_model`, in any layout of its blocks.
      variables: its own.
      images: float[B, H, W, C].
      names: of modules in the unrolled layout (`stem_norm`, `stage3`, `stage2/block4`, `stage2/block4/conv1`), `pre_logits`.
      shifts: added to the outputs of modules so named, before the network goes on with them. The gradient with respect to a
        shift of zeros is that with respect to the output.

    Returns:
      `(logits [B, num_classes], {name: output})`; the output of a stage or block is float[B, H', W', C'], `pre_logits` is
      float32[B, C']. A backbone, without head, returns its features in place of logits.

    Raises:
      ConfigError: a name is not among the network's modules.
    """
    if getattr(model, "repeat", "loop") != "loop" and any("/block" in name for name in (*names, *shifts)):
        model = model.clone(repeat="loop")  # the blocks inside of a loop have no outputs of their own
        variables = {collection: unstack_blocks(tree) for collection, tree in variables.items()}
    logits, outputs = _evaluate(model, variables, images, shifts)
    for name in (*names, *shifts):
        if name not in outputs:
            raise ConfigError(f"the network has no part {name!r}; did you mean {', '.join(nearest(name, outputs, 3))}?")
    return logits, {name: outputs[name] for name in names}


def stages(model: nn.Module, variables: Variables, images: Array) -> dict[str, tuple[int, int, int]]:
    """The network's outermost parts whose outputs are float[B, H', W', C'], with `(H', W', C')`, in the order they run.

    The last one is what pooling makes the features of: `stage3`, `final_relu` after pre-activation, `relu13` of a VGG.
    """
    found: dict[str, tuple[int, int, int]] = {}  # noted on the way: what `eval_shape` returns is sorted by name

    def trace() -> None:
        for name, output in _evaluate(model, variables, images)[1].items():
            if "/" not in name and output.ndim == 4:
                found[name] = output.shape[1:]

    jax.eval_shape(trace)
    return found


def _evaluate(
    model: nn.Module, variables: Variables, images: Array, shifts: Mapping[str, Array] = _NOTHING
) -> tuple[Array, dict[str, Any]]:
    """The logits, and the output of every module in the order they end."""
    outputs: dict[str, Any] = {}

    def note(following: Callable[..., Any], arguments: Any, keywords: Any, context: nn.module.InterceptorContext) -> Any:
        output = following(*arguments, **keywords)
        if context.method_name == "__call__":
            path = "/".join(context.module.path)
            if path in shifts:
                output = output + shifts[path]
            outputs[path] = output
            if path == "head":
                outputs[PRE_LOGITS] = arguments[0]
        return output

    with nn.intercept_methods(note):
        logits: Any = model.apply(variables, images, train=False)
    outputs.setdefault(PRE_LOGITS, logits)
    del outputs[""]  # the network itself
    return logits, outputs
