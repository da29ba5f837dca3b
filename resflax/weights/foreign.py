"""Weights of other projects as a network of ours, and back under their names."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from etils import epath
from flax import linen as nn
from safetensors.numpy import save

from resflax.errors import ConfigError, DataError
from resflax.files import write_bytes
from resflax.models.keras_v2 import KerasResNetV2
from resflax.models.zoo import MODELS
from resflax.types import Variables
from resflax.weights import preparation as prepared
from resflax.weights.bit_reader import bit_naming, read_bit
from resflax.weights.keras_reader import EPSILON, keras_naming, read_keras, with_rgb, without_biases
from resflax.weights.names import Naming, Tensors, bring_in, head_names, head_size, take_out
from resflax.weights.network import abstract_variables, make_network
from resflax.weights.preparation import Preparation
from resflax.weights.safetensors import read_tensors
from resflax.weights.torch_names import Convention, torch_naming, with_counters, without_counters
from resflax.weights.torch_reader import is_torch_file, read_torch

Source = Literal["torchvision", "timm", "keras", "bit"]

_CARRIED = "resflax_metadata"  # in the header of a file written under torch's names
_KERAS_V1 = r"resnet\d+_v1"


def read_foreign(
    path: Path,
    source: Source,
    name: str | None = None,
    num_classes: int | None = None,
) -> tuple[Variables, dict[str, Any]]:
    """The variables of a network from a file of another project, and the metadata that belong to them.

    Args:
      path: `.safetensors` or `.pth` (torchvision, timm), `.h5`, `.weights.h5` or `.keras` (Keras), `.npz` (BiT).
      source: whose names the file has.
      name: the model of the table that the file holds the weights of; None: what `write_foreign` noted in it.
      num_classes: of the classifier; None: as many as the file has; 0: the network is wanted without one.

    Returns:
      `(variables, metadata)` as `write_weights` takes them; NumPy arrays. Images are prepared, and classes are called, as
      `write_foreign` noted; else as the authors of such files did, and not at all.

    Raises:
      ConfigError: there is no such model, or none from there.
      DataError: the file does not fit the model, or holds something else than weights.
      StorageError: the file cannot be read or is damaged.
    """
    tensors, noted = _read(path, source)
    name = name or noted.get("model")
    if name is None:
        raise ConfigError(
            f"--model must name the network that {path} is of, for example resnet50; see python -m resflax.summary"
        )
    noted = noted if noted.get("model") == name else {}
    kwargs = {key: value for key, value in noted.get("kwargs", {}).items() if key != "repeat"}
    metadata = {
        **_preparation(source, name).metadata(),
        **noted,
        "model": name,
        "kwargs": kwargs,
        "num_classes": MODELS[name].num_classes if name in MODELS else 10,
        "source": noted.get("source", f"{path.name}, {source}"),
    }
    if source == "keras":
        tensors, metadata = _of_keras(tensors, metadata)
    naming = _naming(make_network(metadata), source)
    if num_classes == 0:
        tensors = {key: value for key, value in tensors.items() if key not in head_names(naming)}
    classes = (head_size(naming, tensors) or metadata["num_classes"]) if num_classes is None else num_classes
    metadata["num_classes"] = classes or None
    metadata["class_names"] = _noted_classes(noted, classes)
    abstract = abstract_variables(make_network(metadata), metadata)
    return bring_in(abstract, naming, tensors, f"{path} as {name}"), metadata


def write_foreign(path: epath.PathLike, variables: Variables, metadata: Mapping[str, Any], convention: Convention) -> None:
    """Replaces `path` by a safetensors file with torchvision's or timm's names; the inverse of `read_foreign`.

    The metadata of the weight file go along in the header, where `read_foreign` finds them again.

    Raises:
      DataError: there are no such names for the network.
      StorageError: the file cannot be written.
    """
    naming = torch_naming(make_network(metadata), convention)
    tensors = with_counters(take_out(variables, naming, f"{metadata['model']} in {convention}"))
    write_bytes(path, save(tensors, {"format": "pt", _CARRIED: json.dumps(dict(metadata), allow_nan=False)}))


def difference_to_torch(metadata: Mapping[str, Any]) -> str | None:
    """Why no network of torchvision or timm computes the same from these weights, although the names fit; else None."""
    name = metadata["model"]
    if name not in MODELS or re.search(r"_v1$|^keras_|^cifar_|^resnetv2_200$", name):
        return f"neither torchvision nor timm has {name}"
    if metadata["kwargs"].keys() - {"zero_gamma", "repeat", "stem_form", "stochastic_depth", "head_dropout", "dropout"}:
        return f"{name} was built with {', '.join(sorted(metadata['kwargs']))}"
    epsilon = metadata.get("batch_norm", {}).get("epsilon", 1e-5)
    return None if epsilon == 1e-5 else f"its normalisations have epsilon {epsilon:g} and torch's 1e-05"


def _read(path: Path, source: Source) -> tuple[Tensors, dict[str, Any]]:
    """The tensors of a file, and what `write_foreign` noted."""
    if source == "keras":
        return read_keras(path), {}
    if source == "bit":
        return read_bit(path), {}
    if is_torch_file(path):
        return without_counters(read_torch(path)), {}
    tensors, header = read_tensors(path)
    try:
        noted = json.loads(header.get(_CARRIED, "{}"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"the header of {path} must hold JSON under {_CARRIED!r}, but {error}; write it again") from error
    return without_counters(tensors), noted if isinstance(noted, dict) else {}


def _naming(model: nn.Module, source: Source) -> Naming:
    if source == "keras":
        return keras_naming(model)
    return bit_naming if source == "bit" else torch_naming(model, source)


def _of_keras(tensors: Tensors, metadata: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """The same for our networks, which take RGB and where version 1 has no biases; refused for any other network."""
    name = metadata["model"]
    if isinstance(make_network(metadata), KerasResNetV2):
        return tensors, metadata
    if not re.fullmatch(_KERAS_V1, name):
        raise ConfigError(
            f"--model must be a network of keras.applications, got {name}; ResNet50 is resnet50_v1 (the stride is on its first "
            "1x1), ResNet50V2 is keras_resnet50v2"
        )
    return with_rgb(without_biases(tensors)), {**metadata, "batch_norm": {"epsilon": EPSILON}}


def _preparation(source: Source, name: str) -> Preparation:
    """What the authors of such files did."""
    small = MODELS[name].input_shape[0] if name in MODELS else 32
    if source == "keras":
        return prepared.KERAS_V1 if re.fullmatch(_KERAS_V1, name) else prepared.KERAS_V2
    if source == "bit":
        return prepared.BIT
    large = prepared.TORCHVISION if source == "torchvision" else prepared.timm_default(name)
    return large if small == large.image_size else dataclasses.replace(large, image_size=small, crop="none")


def _noted_classes(noted: Mapping[str, Any], classes: int | None) -> list[str] | None:
    names = noted.get("class_names")
    return names if isinstance(names, list) and len(names) == classes else None
