"""Where a residual unit has its normalisations and ReLUs: the five orders of He et al. 2016, Fig. 4."""

from __future__ import annotations

from typing import NamedTuple

import jax
from flax import linen as nn

from resflax import nn as layers
from resflax.types import Array, ConvFactory, GateFactory, NormFactory, ShortcutFactory


class Ordering(NamedTuple):
    """What stands around each convolution of the branch: `n` a normalisation, `r` a ReLU, in the order they run."""

    before: str  # each convolution
    after: str  # each convolution but the last
    last: str  # after the last one, still on the branch
    joined: str  # after the sum


ORDERINGS = {
    "original": Ordering("", "nr", "n", "r"),  # a
    "norm_after_addition": Ordering("", "nr", "", "nr"),  # b
    "relu_before_addition": Ordering("", "nr", "nr", ""),  # c
    "relu_only_preactivation": Ordering("r", "n", "n", ""),  # d
    "preactivation": Ordering("nr", "", "", ""),  # e, the one the paper recommends
}


class OrderedBlock(nn.Module):
    """A residual unit of any order: float[B, H, W, C] -> float[B, H/s, W/s, expansion * width].

    `y = joined(branch(x) + shortcut(x, activated))`, where `activated` is what the first convolution sees. As pre-activation:
    kernels (3, 3) with dropout between them are the wide ResNet's unit (Zagoruyko and Komodakis 2016, Fig. 1 d); kernels
    (1, 3, 1), expansion 4 and the stride on the 3x3 are ResNet v2's. Layers are named `conv1`, `norm1`, ... as they run.
    """

    width: int
    conv: ConvFactory
    norm: NormFactory
    shortcut: ShortcutFactory
    stride: int = 1
    ordering: Ordering = ORDERINGS["preactivation"]
    kernels: tuple[int, ...] = (3, 3)
    strided: int = 1  # which convolution has the stride, from 1
    expansion: int = 1
    dropout: float = 0.0  # before the last convolution
    gate: GateFactory | None = None  # on the branch, before the sum

    @nn.compact
    def __call__(self, x: Array, key: Array | None = None, omit: float | Array = 0.0) -> Array:
        norms = 0
        for_dropout, for_depth = (None, None) if key is None else jax.random.split(key)

        def activate(y: Array, steps: str) -> Array:
            nonlocal norms
            for step in steps:
                norms += step == "n"
                y = self.norm(name=f"norm{norms}")(y) if step == "n" else nn.relu(y)
            return y

        depth, features = len(self.kernels), self.expansion * self.width
        y = activated = activate(x, self.ordering.before)
        for index, kernel in enumerate(self.kernels, 1):
            y = y if index == 1 else activate(y, self.ordering.before)
            if index == depth and self.dropout:
                y = layers.dropout(for_dropout, y, self.dropout)
            stride = self.stride if index == self.strided else 1
            y = self.conv(features if index == depth else self.width, kernel, stride=stride, name=f"conv{index}")(y)
            y = activate(y, self.ordering.last if index == depth else self.ordering.after)
        y = y if self.gate is None else self.gate(name="squeeze_excite")(y)
        shortcut = self.shortcut(features, self.stride, self.conv, self.norm, name="shortcut")
        return activate(layers.stochastic_depth(for_depth, y, omit) + shortcut(x, activated), self.ordering.joined)
