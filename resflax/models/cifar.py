"""Networks for small images: 6n+2 layers and what followed, all on a 3x3 stem and three stages."""

from __future__ import annotations

import functools
from typing import Any

from flax import linen as nn

from resflax import nn as layers
from resflax.models.blocks import BasicBlock, BottleneckBlock, PlainBlock
from resflax.models.ordering import ORDERINGS, OrderedBlock
from resflax.models.resnet import ResNet
from resflax.nn import stem as stems
from resflax.types import BlockFactory, GateFactory, NormFactory

_SHORTCUTS = {
    "A": layers.PaddedShortcut,
    "A_averaged": layers.AveragedShortcut,
    "B": layers.ProjectedShortcut,
    "C": layers.ProjectedEverywhere,
}
# Of stochastic depth: what is done to a branch, and the rates of all blocks from that of the last.
_DEPTH_FORMS = {
    "image": (layers.stochastic_depth, layers.linear_rates),
    "batch": (layers.skip_for_batch, layers.linear_rates_from_input),
}


def cifar_resnet(
    depth: int, *, width: int, shortcut: str, squeeze_excite: float, stochastic_depth_form: str, **parts: Any
) -> nn.Module:
    """He et al. 2015, Sec. 4.2: residual blocks with shortcut `A`, `B` or `C`."""
    omit_branch, depth_rates = _DEPTH_FORMS[stochastic_depth_form]
    block = functools.partial(BasicBlock, shortcut=_SHORTCUTS[shortcut], gate=_gate(squeeze_excite), omit_branch=omit_branch)
    return _two_layer_blocks(depth, block, width=width, depth_rates=depth_rates, **parts)


def cifar_plain(depth: int, *, width: int, **parts: Any) -> nn.Module:
    """The same without shortcuts."""
    return _two_layer_blocks(depth, PlainBlock, width=width, **parts)


def _two_layer_blocks(depth: int, block: BlockFactory, *, width: int, norm: NormFactory | None, **parts: Any) -> nn.Module:
    """`depth` = 6n + 2 layers of blocks that have two."""
    return ResNet(
        counts=((depth - 2) // 6,) * 3,
        block=block,
        stem=functools.partial(stems.small_stem, width=width),
        width=width,
        norm=norm or layers.BatchNorm,
        **parts,
    )


def _gate(ratio: float) -> GateFactory | None:
    """Squeeze-and-excitation as printed: `ratio * C` channels, not rounded as for ImageNet; 0: none."""
    return functools.partial(layers.SqueezeExcite, ratio=ratio, multiple=1) if ratio else None


def preresnet(
    depth: int,
    *,
    bottleneck: bool,
    width: int,
    norm: NormFactory | None,
    ordering: str,
    shortcut: str,
    squeeze_excite: float,
    **parts: Any,
) -> nn.Module:
    """He et al. 2016, Sec. 4 and 5: 6n + 2 layers of two-layer units, or 9n + 2 of bottlenecks, which stride their first 1x1.

    What stands before the first unit and after the last follows from the ordering: where units begin with an activation,
    the stem has none of its own, and one follows the last sum.
    """
    order = ORDERINGS[ordering]
    kernels, expansion = ((1, 3, 1), 4) if bottleneck else ((3, 3), 1)
    options = {**_SHORTCUTS, "B": layers.ActivatedShortcut if ordering == "preactivation" else layers.ProjectedShortcut}
    block = functools.partial(
        OrderedBlock,
        shortcut=options[shortcut],
        ordering=order,
        kernels=kernels,
        strided=1,
        expansion=expansion,
        gate=_gate(squeeze_excite),
    )
    stem = {"nr": stems.small_linear_stem, "r": stems.small_normalised_stem, "": stems.small_stem}[order.before]
    top = {"nr": layers.normalised_top, "r": layers.activated_top, "": layers.pooled_top}[order.before]
    return ResNet(
        counts=((depth - 2) // (9 if bottleneck else 6),) * 3,
        block=block,
        stem=functools.partial(stem, width=width),
        top=top,
        width=width,
        norm=norm or layers.BatchNorm,
        **parts,
    )


def wide_resnet(depth: int, widen: int, *, norm: NormFactory | None, squeeze_excite: float, **parts: Any) -> nn.Module:
    """WRN-d-k (Zagoruyko and Komodakis 2016, Table 1): 6n + 4 layers, `widen` times the width, dropout inside the units."""
    return ResNet(
        counts=((depth - 4) // 6,) * 3,
        block=functools.partial(OrderedBlock, shortcut=layers.ActivatedShortcut, strided=1, gate=_gate(squeeze_excite)),
        stem=stems.small_linear_stem,
        top=layers.normalised_top,
        width=16 * widen,
        norm=norm or layers.BatchNorm,
        **parts,
    )


def resnext(depth: int, groups: int, base_width: int, *, norm: NormFactory | None, **parts: Any) -> nn.Module:
    """ResNeXt for CIFAR (Xie et al. 2017, Sec. 5.3): 9n + 2 layers of bottlenecks on a stem of 64 channels."""
    block = functools.partial(BottleneckBlock, shortcut=layers.ProjectedShortcut, groups=groups, base_width=base_width)
    return ResNet(
        counts=((depth - 2) // 9,) * 3,
        block=block,
        stem=functools.partial(stems.small_stem, width=64),
        width=64,
        norm=norm or layers.BatchNorm,
        **parts,
    )
