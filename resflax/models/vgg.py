"""VGG: 3x3 convolutions one after another, with batch normalisation (Simonyan and Zisserman 2015, Table 1)."""

from __future__ import annotations

import functools

from flax import linen as nn

from resflax import nn as layers
from resflax.types import Array, DType, NormFactory

# Convolutions in each of the five parts, Table 1, columns A, B, D, E; a 2x2/2 max-pool follows each part.
COUNTS: dict[int, tuple[int, ...]] = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class Vgg(nn.Module):
    """From float[B, H, W, C], at least 32 pixels on a side, to float32 logits [B, num_classes], or to features.

    Convolutions have biases and are followed by normalisation and ReLU. With `hidden` units the image is averaged to 7x7,
    flattened, and passes two dense layers of that width with dropout; without, it is averaged to one pixel. Modules are
    named `conv1`, `norm1`, `relu1`, ..., `dense1`, `dense2`, `head`.
    """

    num_classes: int | None
    counts: tuple[int, ...]
    hidden: int = 0  # 4096 in the paper
    dropout: float = 0.0  # after each hidden dense layer
    norm: NormFactory = layers.BatchNorm
    dtype: DType = None

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        conv = functools.partial(layers.Conv, use_bias=True, dtype=self.dtype)
        norm = functools.partial(self.norm, use_running_average=not train, dtype=self.dtype)
        x, index = images, 0
        for part, count in enumerate(self.counts):
            for _ in range(count):
                index += 1
                x = conv(64 * 2 ** min(part, 3), 3, name=f"conv{index}")(x)
                x = layers.Relu(name=f"relu{index}")(norm(name=f"norm{index}")(x))
            x = layers.max_pool(x, 2, 2)
        x = self._hidden(x, train) if self.hidden else layers.global_average_pool(x)
        return x if self.num_classes is None else layers.Head(self.num_classes, name="head")(x)

    def _hidden(self, x: Array, train: bool) -> Array:
        x = layers.adaptive_average_pool(x, 7)
        x = x.reshape(x.shape[0], -1)  # [B, 7 * 7 * 512]
        for name in ("dense1", "dense2"):
            key = self.make_rng("dropout") if train and self.dropout else None
            dense = nn.Dense(self.hidden, kernel_init=nn.initializers.normal(0.01), dtype=self.dtype, name=name)
            x = layers.dropout(key, nn.relu(dense(x)), self.dropout)
        return x
