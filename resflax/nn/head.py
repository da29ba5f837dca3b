"""The end of a network: from the last block's output to features, from features to logits."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from resflax.nn.activation import Relu
from resflax.nn.pool import global_average_pool
from resflax.types import Array, NormFactory

# PyTorch's default for a linear layer's weight: uniform in +-1/sqrt(fan_in), a variance of 1/(3 fan_in).
linear_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Head(nn.Module):
    """A dense layer from features to logits, computed in at least float32: float[B, C] -> float[B, num_classes]."""

    num_classes: int
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = linear_uniform

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        return nn.Dense(self.num_classes, self.use_bias, dtype=dtype, kernel_init=self.kernel_init, name="dense")(x)


def pooled_top(x: Array, norm: NormFactory) -> Array:
    """Global average pooling: float[B, H, W, C] -> float32[B, C]."""
    return global_average_pool(x)


def activated_top(x: Array, norm: NormFactory) -> Array:
    """ReLU, then `pooled_top`: after blocks that end with the sum of normalised branches."""
    return global_average_pool(Relu(name="final_relu")(x))


def normalised_top(x: Array, norm: NormFactory) -> Array:
    """Normalisation and ReLU, then `pooled_top`: after blocks of pre-activation (He et al. 2016, Sec. 4.1)."""
    return global_average_pool(Relu(name="final_relu")(norm(name="final_norm")(x)))
