"""The activation at the end of a network's convolutions, as a part with a name."""

from __future__ import annotations

from flax import linen as nn

from resflax.types import Array


class Relu(nn.Module):
    """`max(x, 0)`, without parameters; what it gives can be asked for by its name, see `resflax.models.intermediates`."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return nn.relu(x)
