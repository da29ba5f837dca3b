"""The names of torchvision and timm.

Both name a ResNet's layers alike. torchvision has no pre-activation networks, so those have timm's names; of the VGGs' dense
layers each has its own. `num_batches_tracked`, which PyTorch counts and does not use, is not a weight here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Literal

import numpy as np
from flax import linen as nn

from resflax.models.keras_v2 import KerasResNetV2
from resflax.models.vgg import Vgg
from resflax.nn import PooledShortcut, normalised_top
from resflax.weights.names import Entry, Layout, Naming, Shape, Tensors, moved, same

Convention = Literal["torchvision", "timm"]

COUNTER = "num_batches_tracked"
_BLOCK = re.compile(r"stage(\d+)/block(\d+)/(.+)")
_LAYER = re.compile(r"(conv|norm)(\d+)")
_PARAMETERS = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}

# Modules in front of and behind the blocks, and inside a block. `conv1` and `norm1`, `conv2`, ... follow a rule instead.
_V1 = {
    "stem_conv": "conv1",
    "stem_norm": "bn1",
    "stem_conv1": "conv1.0",
    "stem_norm1": "conv1.1",
    "stem_conv2": "conv1.3",
    "stem_norm2": "conv1.4",
    "stem_conv3": "conv1.6",
    "stem_norm3": "bn1",
    "stem_conv4": "maxpool.0",
    "stem_norm4": "maxpool.1",
    "head/dense": "fc",
}
_V1_BLOCK = {
    "squeeze_excite/reduce": "se.fc1",
    "squeeze_excite/expand": "se.fc2",
    "shortcut/conv": "downsample.0",
    "shortcut/norm": "downsample.1",
}
_V1_POOLED = {**_V1_BLOCK, "shortcut/conv": "downsample.1", "shortcut/norm": "downsample.2"}  # behind the average pool
_V2 = {"stem_conv": "stem.conv", "final_norm": "norm", "head/dense": "head.fc"}
_V2_BLOCK = {"shortcut/conv": "downsample.conv"}
_VGG = {
    "torchvision": {"dense1": "classifier.0", "dense2": "classifier.3", "head/dense": "classifier.6"},
    "timm": {"dense1": "pre_logits.fc1", "dense2": "pre_logits.fc2", "head/dense": "head.fc"},
}


def torch_naming(model: nn.Module, convention: Convention) -> Naming:
    """The naming of a network, as `create_model` builds it, in torchvision or timm."""
    if isinstance(model, Vgg):
        return _vgg(model, convention)
    if isinstance(model, KerasResNetV2) or getattr(model, "top", None) is normalised_top:
        return _version2
    pooled = getattr(getattr(model, "block", None), "keywords", {}).get("shortcut") is PooledShortcut
    return functools.partial(_version1, pooled)


def without_counters(tensors: Mapping[str, np.ndarray]) -> Tensors:
    """The weights among a file's tensors; `module.`, which `DataParallel` puts before every name, is dropped."""
    prefix = "module." if all(name.startswith("module.") for name in tensors) else ""
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.rpartition(".")[2] != COUNTER}


def with_counters(tensors: Tensors) -> Tensors:
    """The inverse: a counter, at zero, beside each running mean."""
    ends = "running_mean"
    counters = [name.removesuffix(ends) + COUNTER for name in tensors if name.endswith(ends)]
    return {**tensors, **{name: np.zeros((), np.int64) for name in counters}}


def _version1(pooled: bool, module: str, parameter: str, shape: Shape) -> Entry | None:
    name, block = _V1.get(module), _BLOCK.fullmatch(module)
    if block:
        inside = (_V1_POOLED if pooled else _V1_BLOCK).get(block[3]) or _numbered(block[3], "bn")
        name = inside and f"layer{block[1]}.{int(block[2]) - 1}.{inside}"
    return _entry(name, parameter, shape, pointwise="/squeeze_excite/" in module)


def _version2(module: str, parameter: str, shape: Shape) -> Entry | None:
    name, block = _V2.get(module), _BLOCK.fullmatch(module)
    if block:
        inside = _V2_BLOCK.get(block[3]) or _numbered(block[3], "norm")
        name = inside and f"stages.{int(block[1]) - 1}.blocks.{int(block[2]) - 1}.{inside}"
    return _entry(name, parameter, shape, pointwise=True)


def _numbered(module: str, norm: str) -> str | None:
    found = _LAYER.fullmatch(module)
    return found and ("conv" if found[1] == "conv" else norm) + found[2]


def _vgg(model: Vgg, convention: Convention) -> Naming:
    """`features.N` counts convolutions, normalisations, ReLUs and pools."""
    first: list[int] = []
    index = 0
    for count in model.counts:
        first += range(index, index + 3 * count, 3)
        index += 3 * count + 1
    dense = _VGG[convention] if model.hidden else {"head/dense": "classifier"}
    as_conv = convention == "timm" and bool(model.hidden)

    def naming(module: str, parameter: str, shape: Shape) -> Entry | None:
        found = _LAYER.fullmatch(module)
        if found:
            name = f"features.{first[int(found[2]) - 1] + (found[1] == 'norm')}"
        else:
            name = dense.get(module, "")
        if module == "dense1" and parameter == "kernel":
            side, channels = 7, shape[0] // 49
            theirs = (shape[1], channels, side, side) if as_conv else (shape[1], shape[0])
            return Entry(f"{name}.weight", Layout((side, side, channels, shape[1]), (3, 2, 0, 1), theirs))
        return _entry(name or None, parameter, shape, pointwise=as_conv and module == "dense2")

    return naming


def _entry(module: str | None, parameter: str, shape: Shape, pointwise: bool) -> Entry | None:
    """`pointwise`: a dense layer of ours is a 1x1 convolution there."""
    if not module or parameter not in _PARAMETERS:
        return None
    layout = same(shape)
    if len(shape) == 4:  # height, width, in, out -> out, in, height, width
        layout = moved(shape, (3, 2, 0, 1))
    elif len(shape) == 2:  # in, out -> out, in
        layout = moved(shape, (1, 0), (shape[1], shape[0], 1, 1) if pointwise else None)
    return Entry(f"{module}.{_PARAMETERS[parameter]}", layout)
