"""What a network computes on the way: the output of any stage, block or layer, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flax import linen as nn

from resflax.errors import ConfigError, nearest
from resflax.nn import unstack_blocks
from resflax.types import Array, Variables

PRE_LOGITS = "pre_logits"  # what the head is given


def intermediates(
    model: nn.Module, variables: Variables, images: Array, names: Sequence[str]
) -> tuple[Array, dict[str, Array]]:
    """Evaluates a network and returns named outputs with its logits; may run inside `jit`.

    Args:
      model: of `resflax.create_model`, in any layout of its blocks.
      variables: its own.
      images: float[B, H, W, C].
      names: of modules in the unrolled layout (`stem_norm`, `stage3`, `stage2/block4`, `stage2/block4/conv1`), `pre_logits`.

    Returns:
      `(logits [B, num_classes], {name: output})`; the output of a stage or block is float[B, H', W', C'], `pre_logits` is
      float32[B, C']. A backbone, without head, returns its features in place of logits.

    Raises:
      ConfigError: a name is not among the network's modules.
    """
    if getattr(model, "repeat", "loop") != "loop" and any("/block" in name for name in names):  # the loop has no outputs inside
        model = model.clone(repeat="loop")
        variables = {collection: unstack_blocks(tree) for collection, tree in variables.items()}
    outputs: dict[str, Array] = {}

    def note(following: Callable[..., Any], arguments: Any, keywords: Any, context: nn.module.InterceptorContext) -> Any:
        output = following(*arguments, **keywords)
        if context.method_name == "__call__":
            path = "/".join(context.module.path)
            outputs[path] = output
            if path == "head":
                outputs[PRE_LOGITS] = arguments[0]
        return output

    with nn.intercept_methods(note):
        logits: Any = model.apply(variables, images, train=False)
    outputs.setdefault(PRE_LOGITS, logits)
    del outputs[""]  # the network itself
    for name in names:
        if name not in outputs:
            raise ConfigError(f"the network has no part {name!r}; did you mean {', '.join(nearest(name, outputs, 3))}?")
    return logits, {name: outputs[name] for name in names}
