"""The teacher of a run, see `resflax.training.distillation`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from resflax.build.parts import compute_dtype
from resflax.build.pretrained import Pretrained, read_pretrained
from resflax.build.restore import in_layout
from resflax.config import Config
from resflax.data.preprocess import Preprocessing
from resflax.errors import ConfigError, DataError
from resflax.models.zoo import create_model
from resflax.nn import BatchNorm
from resflax.tree import digest
from resflax.types import Array, Variables

KEY = "config.distill.weights"


@dataclass(frozen=True)
class Teacher:
    """A trained network as `config.distill.weights` names it, in evaluation."""

    logits: Callable[[Variables, Array], Array]  # (variables, images as the run's own network sees them) -> float32[B, K]
    variables: Variables  # NumPy arrays
    provenance: dict[str, Any]  # what a record says about it


def read_teacher(
    config: Config, class_names: Sequence[str], preprocessing: Preprocessing, recorded: Mapping[str, Any] | None
) -> Teacher:
    """Reads the teacher of a run.

    It computes in the precision of the run. Images come to it as the run normalises them and are brought to the teacher's
    mean and deviation, at the size that they have.

    Args:
      config: of the run; `distill.weights` is set.
      class_names: of its data.
      preprocessing: of its images.
      recorded: the provenance of the teacher that a run which is resumed has had; None: it starts.

    Raises:
      ConfigError: its classes are others, or it takes images of another kind.
      DataError: it is not the one that was recorded.
      ConfigError, DataError, StorageError, TemporaryError: as `read_pretrained`.
    """
    assert config.distill.weights is not None
    pretrained = read_pretrained(config.distill.weights, config.precision.compute == "float64", KEY)
    found = digest(pretrained.variables)
    if recorded is not None and recorded["digest"] != found:
        raise DataError(
            f"{KEY}={pretrained.path} must be the teacher that the run has had so far, but its SHA-256 is {found[:12]} and was "
            f"{recorded['digest'][:12]}; restore it, or name another --workdir"
        )
    _check_classes(pretrained, class_names)
    pretrained.check_channels(preprocessing, config.data.name)
    repeat = pretrained.kwargs.get("repeat", "loop")
    network = create_model(
        pretrained.model,
        len(class_names),
        norm=functools.partial(BatchNorm, epsilon=pretrained.epsilon),
        dtype=compute_dtype(config),
        **pretrained.kwargs,
    )
    renormalise = _renormalise(preprocessing, pretrained, config.data.sizes)

    def logits(variables: Variables, images: Array) -> Array:
        found: Any = network.apply(variables, renormalise(images), train=False)
        return found

    variables = pretrained.variables if repeat == "loop" else in_layout(pretrained.variables, repeat)
    return Teacher(logits, variables, {"weights": pretrained.path, "digest": found})


def _check_classes(pretrained: Pretrained, class_names: Sequence[str]) -> None:
    own = pretrained.class_names
    if own is None:
        raise ConfigError(
            f"the classes of {KEY}={pretrained.path} must be those of the data, but the file does not name them; convert it "
            "again with --class_names"
        )
    if own != list(class_names):
        raise ConfigError(
            f"the classes of {KEY}={pretrained.path} must be those of the data, got {len(own)}, {', '.join(own[:3])}, ..., for "
            f"{len(class_names)}, {', '.join(class_names[:3])}, ...; use another teacher or other data"
        )


def _renormalise(images: Preprocessing, teacher: Pretrained, sizes: Sequence[str]) -> Callable[[Array], Array]:
    """From images that `images` has normalised, of these sizes on the way, to those the teacher was trained on."""
    own = teacher.preprocessing
    if own.mean.ndim == 3 and own.image_size != images.image_size:
        raise ConfigError(
            f"images for {KEY}={teacher.path} must have the size of the mean image that is subtracted, "
            f"{own.image_size[0]}x{own.image_size[1]}, but have {images.image_size[0]}x{images.image_size[1]}; set "
            f"config.data.image_size={own.image_size[0]}"
        )
    if own.mean.ndim == 3 and sizes:
        raise ConfigError(
            f"images for {KEY}={teacher.path} must have the size of the mean image that is subtracted throughout, got "
            f"config.data.sizes={','.join(sizes)}; leave them out"
        )
    scale, shift = images.std / own.std, (images.mean - own.mean) / own.std
    if np.all(scale == 1) and np.all(shift == 0):
        return lambda x: x
    return lambda x: x * jnp.asarray(scale, x.dtype) + jnp.asarray(shift, x.dtype)
