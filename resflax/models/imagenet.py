"""Residual networks for ImageNet, under timm's names."""

from __future__ import annotations

import functools
from typing import Any

from flax import linen as nn

from resflax import nn as layers
from resflax.errors import ConfigError
from resflax.models.blocks import BasicBlock, BottleneckBlock
from resflax.models.ordering import OrderedBlock
from resflax.models.resnet import ResNet
from resflax.nn import stem as stems
from resflax.types import BlockFactory, ConvFactory, NormFactory, Stem

# Blocks a stage. 18 to 152: He et al. 2015, Table 1; 200: He et al. 2016, Table 5; the others: Bello et al. 2021, Table 10.
COUNTS: dict[int, tuple[int, ...]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    270: (4, 29, 53, 4),
    350: (4, 36, 72, 4),
    420: (4, 44, 87, 4),
}
BOTTLENECK_FROM = 50  # layers; shallower networks have blocks of two 3x3

_STEMS: dict[str, Stem] = {
    "7x7": stems.large_stem,
    "deep": stems.deep_stem,
    "deep_wide": functools.partial(stems.deep_stem, widths=(64, 64, 128)),
    "deep_tiered": functools.partial(stems.deep_stem, widths=(24, 32, 64)),
    "deep_unpooled": stems.deep_unpooled_stem,
}
_CONVOLUTIONS: dict[str, ConvFactory] = {"convolution": layers.Conv, "space_to_depth": layers.conv_by_space_to_depth}


def resnet(
    depth: int,
    *,
    norm: NormFactory | None,
    width: int,
    zero_gamma: bool,
    stem: str,
    shortcut: str,
    squeeze_excite: float | None,
    stem_form: str,
    **parts: Any,
) -> nn.Module:
    """ResNet v1, v1.5, C, D, S, T, ResNeXt, the wide ones, SE and RS.

    Args:
      depth: a key of `COUNTS`.
      norm: makes a normalisation; None is `BatchNorm`.
      width: of the first stage.
      zero_gamma: the last normalisation of a block starts at scale zero, the block as its shortcut (Goyal et al. 2017, 5.1).
      stem: a key of `_STEMS`; those but `7x7` have their own widths.
      shortcut: `B` or `D`, see `resflax.nn.shortcut`.
      squeeze_excite: ratio of the gate on each branch; None: no gate.
      stem_form: a key of `_CONVOLUTIONS`: how the 7x7/2 of a stem is computed.
      **parts: of the block (`strided`, `groups`, `base_width`) or of the network.
    """
    if stem_form != "convolution" and stem != "7x7":
        raise ConfigError(f"model.kwargs.stem_form={stem_form} needs a 7x7 stem, got the stem {stem}; leave stem_form out")
    of_block = {name: parts.pop(name) for name in ("strided", "groups", "base_width") if name in parts}
    kind: BlockFactory = BottleneckBlock if depth >= BOTTLENECK_FROM else BasicBlock
    block = functools.partial(
        kind,
        shortcut=layers.PooledShortcut if shortcut == "D" else layers.ProjectedShortcut,
        gate=None if squeeze_excite is None else functools.partial(layers.SqueezeExcite, ratio=squeeze_excite),
        last_scale_init=nn.initializers.zeros if zero_gamma else nn.initializers.ones,
        **of_block,
    )
    return ResNet(
        counts=COUNTS[depth],
        block=block,
        stem=functools.partial(stems.large_stem, width=width) if stem == "7x7" else _STEMS[stem],
        width=width,
        conv=_CONVOLUTIONS[stem_form],
        norm=norm or layers.BatchNorm,
        **parts,
    )


def resnetv2(depth: int, *, norm: NormFactory | None, width: int, stem_form: str, **parts: Any) -> nn.Module:
    """ResNet v2: pre-activation, the stride of a bottleneck on its 3x3 (He et al. 2016, Fig. 1 b)."""
    return ResNet(
        counts=COUNTS[depth],
        block=_preactivation(depth),
        stem=functools.partial(stems.large_linear_stem, width=width),
        top=layers.normalised_top,
        width=width,
        conv=_CONVOLUTIONS[stem_form],
        norm=norm or layers.BatchNorm,
        **parts,
    )


def bit(depth: int, factor: int, **parts: Any) -> nn.Module:
    """BiT: v2, `factor` times as wide, with group normalisation and standardised kernels (Kolesnikov et al. 2020, Sec. 3.1)."""
    return ResNet(
        counts=COUNTS[depth],
        block=_preactivation(depth),
        stem=functools.partial(stems.zero_padded_linear_stem, width=64 * factor),
        top=layers.normalised_top,
        width=64 * factor,
        conv=layers.StandardizedConv,
        norm=layers.GroupNorm,
        **parts,
    )


def _preactivation(depth: int) -> BlockFactory:
    if depth < BOTTLENECK_FROM:
        return functools.partial(OrderedBlock, shortcut=layers.ActivatedShortcut, strided=1)
    return functools.partial(OrderedBlock, shortcut=layers.ActivatedShortcut, kernels=(1, 3, 1), strided=2, expansion=4)
