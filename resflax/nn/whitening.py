"""The whitening layer: a first convolution that is computed from images and never trained.

Its patches come out uncorrelated, so that the layer after it does not spend its first steps on finding out that neighbouring
pixels are alike (Page 2019, How to Train Your ResNet 8; Jordan 2024, arXiv:2404.00498, Sec. 3.2).
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from resflax.nn.conv import convolution
from resflax.types import Array, DType


class WhiteningConv(nn.Module):
    """Projects each patch onto the principal axes of the patches of `init`'s images, and onto their negatives.

    Maps float[B, H, W, C] to float[B, H - k + 1, W - k + 1, 2 k k C]. The kernel is a statistic of the data and lies in
    `batch_stats`, where no optimizer sees it; `init` has to be given normalised training images. Parameter: `bias`
    float[2 k k C].
    """

    kernel_size: int = 2
    epsilon: float = 5e-4
    dtype: DType = None  # of the result; None: that of the input
    param_dtype: DType = jnp.float32

    stride = dilation = 1  # a convolution like any other

    @nn.compact
    def __call__(self, x: Array) -> Array:
        k = self.kernel_size
        kernel = self.variable("batch_stats", "kernel", lambda: whitening_kernel(x, k, self.epsilon).astype(self.param_dtype))
        features = kernel.value.shape[-1]
        bound = 1 / math.sqrt(k * k * x.shape[-1])  # PyTorch's default for the bias of a convolution
        bias = self.param("bias", nn.initializers.uniform(2 * bound), (features,), self.param_dtype)
        dtype = self.dtype or x.dtype
        y = convolution(x.astype(dtype), lax.stop_gradient(kernel.value).astype(dtype))
        return y + (bias - bound).astype(dtype)


def whitening_kernel(images: Array, size: int, epsilon: float) -> Array:
    """`[v_i / sqrt(lambda_i + epsilon), -v_i / sqrt(lambda_i + epsilon)]` of the second moments of all patches.

    Args:
      images: float[N, H, W, C], normalised.
      size: of a patch, in pixels on a side.
      epsilon: added to each eigenvalue, against the amplification of noise.

    Returns:
      float[size, size, C, 2 size size C], by increasing eigenvalue; the sign of an eigenvector is whatever LAPACK makes it.
    """
    count, height, width, channels = images.shape
    rows, columns = height - size + 1, width - size + 1
    shifted = [images[:, top : top + rows, left : left + columns] for top in range(size) for left in range(size)]
    patches = jnp.stack(shifted, axis=3).reshape(count * rows * columns, size * size * channels)
    moments = patches.T @ patches / len(patches)
    values, vectors = jnp.linalg.eigh(moments)
    axes = (vectors / jnp.sqrt(values + epsilon)).reshape(size, size, channels, -1)
    return jnp.concatenate([axes, -axes], axis=-1)
