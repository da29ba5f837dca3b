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
from resflax.types import BlockFactory, NormFactory

_SHORTCUTS = {"A": layers.PaddedShortcut, "B": layers.ProjectedShortcut, "C": layers.ProjectedEverywhere}


def cifar_net(depth: int, *, width: int, norm: NormFactory | None, shortcut: str | None, **parts: Any) -> nn.Module:
    """He et al. 2015, Sec. 4.2: `depth` = 6n + 2 layers; residual with shortcut `A`, `B` or `C`, plain with None."""
    block: BlockFactory = PlainBlock if shortcut is None else functools.partial(BasicBlock, shortcut=_SHORTCUTS[shortcut])
    return ResNet(
        counts=((depth - 2) // 6,) * 3,
        block=block,
        stem=functools.partial(stems.small_stem, width=width),
        width=width,
        norm=norm or layers.BatchNorm,
        **parts,
    )


def preresnet(
    depth: int, *, bottleneck: bool, width: int, norm: NormFactory | None, ordering: str, shortcut: str, **parts: Any
) -> nn.Module:
    """He et al. 2016, Sec. 4 and 5: 6n + 2 layers of two-layer units, or 9n + 2 of bottlenecks, which stride their first 1x1.

    What stands before the first unit and after the last follows from the ordering: where units begin with an activation,
    the stem has none of its own, and one follows the last sum.
    """
    order = ORDERINGS[ordering]
    kernels, expansion = ((1, 3, 1), 4) if bottleneck else ((3, 3), 1)
    options = {**_SHORTCUTS, "B": layers.ActivatedShortcut if ordering == "preactivation" else layers.ProjectedShortcut}
    block = functools.partial(
        OrderedBlock, shortcut=options[shortcut], ordering=order, kernels=kernels, strided=1, expansion=expansion
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


def wide_resnet(depth: int, widen: int, *, norm: NormFactory | None, **parts: Any) -> nn.Module:
    """WRN-d-k (Zagoruyko and Komodakis 2016, Table 1): 6n + 4 layers, `widen` times the width, dropout inside the units."""
    return ResNet(
        counts=((depth - 4) // 6,) * 3,
        block=functools.partial(OrderedBlock, shortcut=layers.ActivatedShortcut, strided=1),
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
