"""The network of the CIFAR-10 speedruns: a whitening layer, three groups of two convolutions, a scaled classifier."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from resflax import nn as layers
from resflax.types import Array, ConvFactory, DType, NormFactory

# The record's rates of the classifier and of the biases are 0.67 and 0.053. Here both have one; a classifier whose weights
# count so many times as much, and begin as much smaller, learns as if its rate were as much larger (squared).
_HEAD_SCALE = math.sqrt(0.67 / 0.053)


def identity_start(key: Array, shape: tuple[int, ...], dtype: DType = jnp.float32) -> Array:
    """A kernel [k, k, C, F] whose first C outputs are the inputs; the rest as PyTorch draws them (Jordan 2024, Sec. 3.3)."""
    height, width, inputs, features = shape
    bound = 1 / math.sqrt(height * width * inputs)
    kernel = jax.random.uniform(key, shape, dtype, -bound, bound)
    copied = min(inputs, features)
    kernel = kernel.at[..., :copied].set(0)
    return kernel.at[height // 2, width // 2, :copied, :copied].set(jnp.eye(copied, dtype=dtype))


class ConvGroup(nn.Module):
    """Convolution, 2x2 max-pool, normalisation, GELU, convolution, normalisation, GELU.

    Maps float[B, H, W, C] to float[B, H // 2, W // 2, width].
    """

    width: int
    conv: ConvFactory
    norm: NormFactory

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = layers.max_pool(self.conv(self.width, 3, name="conv1")(x), 2, 2)
        x = nn.gelu(self.norm(name="norm1")(x), approximate=False)
        x = self.conv(self.width, 3, name="conv2")(x)
        return nn.gelu(self.norm(name="norm2")(x), approximate=False)


class SpeedrunNet(nn.Module):
    """From float[B, H, W, 3], at least 25 pixels on a side, to float32 logits [B, num_classes], or to features.

    The network of `airbench94_muon` (Jordan 2024, arXiv:2404.00498, Sec. 3 and its repository): widths `width`, 4 `width`,
    4 `width`; normalisations have a bias and no scale; logits are divided by the number of features. `init` must be given
    normalised training images, for `resflax.nn.whitening`.
    """

    num_classes: int | None
    width: int = 64
    norm: NormFactory = layers.BatchNorm
    dtype: DType = None

    init_images = 5000  # that `init` should be given

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        conv = functools.partial(layers.Conv, dtype=self.dtype, kernel_init=identity_start)
        norm = functools.partial(self.norm, use_running_average=not train, use_scale=False, dtype=self.dtype)
        x = nn.gelu(layers.WhiteningConv(dtype=self.dtype, name="whitening")(images), approximate=False)
        for index, width in enumerate((self.width, 4 * self.width, 4 * self.width)):
            x = ConvGroup(width, conv, norm, name=f"group{index + 1}")(x)
        x = jnp.max(x, axis=(1, 2))  # [B, 4 * width]; of 3x3 pixels where the image has 32x32
        if self.num_classes is None:
            return x
        scaled = x.astype(jnp.promote_types(x.dtype, jnp.float32)) * (_HEAD_SCALE / x.shape[-1])
        start = nn.initializers.normal(1 / _HEAD_SCALE)
        return layers.Head(self.num_classes, kernel_init=start, use_bias=False, name="head")(scaled)
