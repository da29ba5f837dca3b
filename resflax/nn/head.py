"""The classifier at the end of a network."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from resflax.types import Array

# PyTorch's default for a linear layer's weight: uniform in +-1/sqrt(fan_in), a variance of 1/(3 fan_in).
linear_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Head(nn.Module):
    """A dense layer from features to logits, computed in at least float32: float[B, C] -> float[B, num_classes]."""

    num_classes: int
    kernel_init: nn.initializers.Initializer = linear_uniform

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        return nn.Dense(self.num_classes, dtype=dtype, kernel_init=self.kernel_init, name="dense")(x)
