"""The networks of `keras.applications` out of Keras' files, without Keras.

Three formats hold the same arrays: `.weights.h5` (Keras 3), `.keras` (a zip around one) and the HDF5 of Keras 1 and 2 (`.h5`,
weights alone or a whole model). Whatever else is in them, such as the description of layers in `config.json`, is not read.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn

from resflax.errors import ConfigError, DataError, StorageError
from resflax.files import require_file, storage
from resflax.models.keras_v2 import KerasResNetV2
from resflax.weights.names import Entry, Naming, Shape, Tensors, same

EPSILON = 1.001e-5  # of the batch normalisations in keras.applications' ResNets

# The order of a layer's arrays in Keras 3, which numbers them: those of a convolution or a dense layer; of a normalisation.
_WEIGHTS = ("kernel", "bias")
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
_PARAMETERS = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}


def read_keras(path: Path) -> Tensors:
    """The arrays of a file, `{"conv2_block1_1_conv/kernel": ...}`.

    Raises:
      ConfigError: h5py is not installed.
      DataError: it is no such file, or lacks the names of layers.
      StorageError: it cannot be read or is damaged.
    """
    try:
        import h5py
    except ImportError as error:
        raise ConfigError("Keras' files are read with h5py, which is not installed; pip install 'resflax[convert]'") from error

    require_file(path)
    with storage("read", path):
        content = path.read_bytes()
    try:
        if content.startswith(b"PK"):
            content = _member(content, "model.weights.h5")
        with h5py.File(io.BytesIO(content), "r") as file:
            root = file.get("model_weights", file)
            tensors = _arrays(_legacy(root) if "layer_names" in root.attrs else _numbered(root), len(content))
    except Exception as error:  # a damaged file leads the parsers of HDF5 and of archives to what not
        raise StorageError(f"{path} must be a .h5, .weights.h5 or .keras file, but {error}; save it again") from error
    if not tensors:
        raise DataError(
            f"{path} must hold the arrays of named layers, but has none; save it with Keras 3.6 or later, or as .h5"
        )
    return tensors


def keras_naming(model: nn.Module) -> Naming:
    """The naming of `keras.applications`' ResNets (version 1) and ResNetV2s; see `without_biases` for the former."""
    version2 = isinstance(model, KerasResNetV2)

    def naming(module: str, parameter: str, shape: Shape) -> Entry | None:
        layer = _layer(module, version2)
        if layer is None:
            return None
        normalises = re.search(r"norm\d*$", module) is not None
        return Entry(f"{layer}/{_PARAMETERS[parameter] if normalises else parameter}", same(shape))

    return naming


def without_biases(tensors: Tensors) -> Tensors:
    """The same network with no bias before a normalisation: `conv + bias - mean` is `conv - (mean - bias)`.

    Of version 1, whose convolutions all have a bias that ours, as the paper's, have not.
    """
    result = dict(tensors)
    for name in tensors:
        mean = re.sub(r"_conv/bias$", "_bn/moving_mean", name)
        if mean != name and mean in tensors and tensors[mean].shape == tensors[name].shape:
            result[mean] = tensors[mean] - result.pop(name)
    return result


def with_rgb(tensors: Tensors) -> Tensors:
    """The same network for RGB: version 1 was trained on BGR, so its first kernel's input channels are turned round."""
    stem = "conv1_conv/kernel"
    return {**tensors, stem: tensors[stem][:, :, ::-1, :]} if stem in tensors and tensors[stem].ndim == 4 else tensors


def _layer(module: str, version2: bool) -> str | None:
    top = {"stem_conv": "conv1_conv", "stem_norm": "conv1_bn", "final_norm": "post_bn", "head/dense": "predictions"}
    block = re.fullmatch(r"stage(\d+)/block(\d+)/(?:shortcut/(conv|norm)|(conv|norm)(\d))", module)
    if block is None:
        return top.get(module)
    kind, number = block[3] or block[4], int(block[5] or 0)
    prefix = f"conv{int(block[1]) + 1}_block{block[2]}"
    if version2 and kind == "norm":  # numbered by the convolution behind it
        return f"{prefix}_preact_bn" if number == 1 else f"{prefix}_{number - 1}_bn"
    return f"{prefix}_{number}_{'conv' if kind == 'conv' else 'bn'}"


def _arrays(datasets: Iterator[tuple[str, Any]], stored: int) -> Tensors:
    """The numbers of datasets, which must be in the file itself, of `stored` bytes.

    HDF5 can also point into any other file, leave numbers out, compress them, and give one dataset many names. (A link to an
    object in another file leads nowhere in one that is read from memory.)
    """
    tensors, left = {}, stored
    for name, dataset in datasets:
        if dataset.external or dataset.is_virtual:
            raise ValueError(f"{name!r} is kept in another file")
        if dataset.dtype.kind != "f":
            raise ValueError(f"{name!r} has {dataset.dtype} for numbers")
        left -= dataset.nbytes
        if left < 0:
            raise ValueError(f"{name!r} has more numbers than the file, of {stored} bytes, can hold")
        tensors[name] = np.asarray(dataset[()])
    return tensors


def _legacy(root: Any) -> Iterator[tuple[str, Any]]:
    """`weight_names` of each layer's group lead to its datasets."""
    for layer, group in root.items():
        for text in group.attrs.get("weight_names", ()):
            name = text.decode() if isinstance(text, bytes) else str(text)
            yield f"{layer}/{name.rpartition('/')[2].partition(':')[0]}", group[name]


def _numbered(root: Any) -> Iterator[tuple[str, Any]]:
    """`layers/conv2d_7/vars/0`; the name that the model gave the layer is an attribute of `vars`."""
    for group in root["layers"].values():
        variables = group.get("vars", {})
        if not variables or "name" not in variables.attrs:
            continue
        kinds = _NORM if len(variables) == len(_NORM) else _WEIGHTS
        for number, kind in zip(sorted(variables, key=int), kinds, strict=False):
            yield f"{variables.attrs['name']}/{kind}", variables[number]


def _member(content: bytes, name: str) -> bytes:
    archive = zipfile.ZipFile(io.BytesIO(content))
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed, which Keras never does")  # and would let a small file fill the memory
    return archive.read(name)
