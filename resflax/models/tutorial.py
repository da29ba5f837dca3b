"""The two networks of the classic Keras tutorial, where newcomers start; both as Keras initialises and normalises."""

from __future__ import annotations

import functools

from flax import linen as nn

from resflax import nn as layers
from resflax.types import Array, ConvFactory, DType, NormFactory

glorot_uniform = nn.initializers.glorot_uniform()
# Keras' defaults: momentum 0.99, epsilon 1e-3.
_keras_norm = functools.partial(layers.BatchNorm, momentum=0.99, epsilon=1e-3)


class TutorialCnn(nn.Module):
    """Conv 32 3x3, ReLU, max-pool 2, conv 64 3x3, ReLU, max-pool 2, flatten, dense; convolutions "valid", with bias.

    From float[B, H, W, C] to float32 logits [B, num_classes], or features; 42,442 parameters at 32x32x3 and 10 classes.
    """

    num_classes: int | None
    dtype: DType = None

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        conv = functools.partial(layers.Conv, padding=0, use_bias=True, dtype=self.dtype, kernel_init=glorot_uniform)
        x = layers.Relu(name="relu1")(conv(32, 3, name="conv1")(images))  # [B, H-2, W-2, 32]
        x = layers.max_pool(x, 2, 2)
        x = layers.Relu(name="relu2")(conv(64, 3, name="conv2")(x))
        x = layers.max_pool(x, 2, 2)
        x = x.reshape(x.shape[0], -1)  # [B, H' * W' * 64]
        if self.num_classes is None:
            return x
        return layers.Head(self.num_classes, kernel_init=glorot_uniform, name="head")(x)


class TutorialBlock(nn.Module):
    """1x1 conv, norm, ReLU, 3x3 conv "same", norm, ReLU, add the input, ReLU. float[B, H, W, C] -> float[B, H, W, width].

    As the tutorial prints it the addition does not fit where the width changes; there the input passes a 1x1
    convolution with normalisation.
    """

    width: int
    conv: ConvFactory
    norm: NormFactory

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = nn.relu(self.norm(name="norm1")(self.conv(self.width, 1, name="conv1")(x)))
        y = nn.relu(self.norm(name="norm2")(self.conv(self.width, 3, name="conv2")(y)))
        return nn.relu(y + layers.ProjectedShortcut(self.width, 1, self.conv, self.norm, name="shortcut")(x))


class TutorialResNet(nn.Module):
    """Five `TutorialBlock`s of 64 to 1024 channels, 3x3/2 max-pools ("valid") between them, 7x7/1 average pool, dense.

    From float[B, H, W, C] to float32 logits [B, num_classes], or features; made for 224x224x3 and 1000 classes. The
    image must be at least 127 pixels on a side, or nothing is left for the last pool.
    """

    num_classes: int | None
    norm: NormFactory | None = None
    dtype: DType = None

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        conv = functools.partial(layers.Conv, dtype=self.dtype, kernel_init=glorot_uniform)
        norm = functools.partial(self.norm or _keras_norm, use_running_average=not train, dtype=self.dtype)
        x = images
        for index, width in enumerate((64, 128, 256, 512, 1024)):
            if index:
                x = layers.max_pool(x, 3, 2)
            x = TutorialBlock(width, conv, norm, name=f"block{index + 1}")(x)
        x = layers.average_pool(x, 7, 1)
        x = x.reshape(x.shape[0], -1)  # [B, H' * W' * 1024]
        if self.num_classes is None:
            return x
        return layers.Head(self.num_classes, kernel_init=glorot_uniform, name="head")(x)
