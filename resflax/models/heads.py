"""A new head on a trained network: the first step of using it for other classes."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from resflax.errors import ConfigError
from resflax.nn.head import linear_uniform
from resflax.types import Array, Variables


def reset_head(
    key: Array, model: nn.Module, variables: Variables, num_classes: int | None, *, zeros: bool = False
) -> tuple[nn.Module, Variables]:
    """The same network for `num_classes` other classes; every parameter but the head's is kept as it is.

    Args:
      key: for the new head's weights.
      model: of `resflax.create_model`.
      variables: its own, with a head.
      num_classes: the length of the new logits; None: no head, the result is a backbone.
      zeros: the new head starts at zero, as for fine-tuning BiT (Kolesnikov et al. 2020, Sec. 3.3), not drawn from the key.

    Returns:
      `(model, variables)`; arrays are shared with the old ones.

    Raises:
      ConfigError: the network has no head.
    """
    params = dict(variables["params"])
    old = params.pop("head", None)
    if old is None:
        raise ConfigError("the network must have a head to be reset, but it is a backbone; create it with num_classes")
    model = model.clone(num_classes=num_classes)
    if num_classes is not None:
        kernel = old["dense"]["kernel"]
        shape = (kernel.shape[0], num_classes)
        initializer = nn.initializers.zeros if zeros else linear_uniform
        params["head"] = {
            "dense": {"kernel": initializer(key, shape, kernel.dtype), "bias": jnp.zeros((num_classes,), kernel.dtype)}
        }
    return model, {**variables, "params": params}
