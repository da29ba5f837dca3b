"""From a weight file to a network that can be applied."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax import linen as nn

from resflax.data.preprocess import Preprocessing
from resflax.errors import DataError
from resflax.models.zoo import create_model
from resflax.nn import BatchNorm
from resflax.tree import differences, signature
from resflax.types import Tree
from resflax.weights.safetensors import read_weights


def make_network(metadata: Mapping[str, Any]) -> nn.Module:
    """The network that the metadata of a weight file names: `model`, `num_classes`, `kwargs`.

    Where they give `batch_norm`, `{"epsilon": ...}`, it replaces the normalisation's own. Raises `ConfigError` when there is
    no such model or argument.
    """
    norm = functools.partial(BatchNorm, **metadata["batch_norm"]) if "batch_norm" in metadata else None
    return create_model(metadata["model"], metadata["num_classes"], norm=norm, **metadata["kwargs"])


def input_shape(metadata: Mapping[str, Any]) -> tuple[int, int, int]:
    """Height, width and channels of the images the network takes."""
    preprocessing = Preprocessing.from_dict(metadata["preprocessing"])
    return (*preprocessing.image_size, len(preprocessing.std))


def abstract_variables(model: nn.Module, metadata: Mapping[str, Any]) -> Tree:
    """Shapes and dtypes of the variables of `model`."""
    images = jax.ShapeDtypeStruct((1, *input_shape(metadata)), jnp.float32)
    return jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)


def load_weights(path: epath.PathLike) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """Loads the network of a weight file.

    Returns:
      `(model, variables, metadata)`, `variables` as NumPy arrays.

    Raises:
      ConfigError: it names a model that this version does not have.
      DataError: its tensors do not fit the model it names, or it is no weight file of a network of this package.
      StorageError: it cannot be read, or is damaged.
    """
    variables, metadata = read_weights(path)
    try:
        model = make_network(metadata)
        expected = abstract_variables(model, metadata)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # whatever the builder makes of such arguments
        raise DataError(f"the metadata of {path} must describe a network, but {error}; write it again") from error
    wrong = differences(signature(_single(variables)), signature(expected))
    if wrong:
        raise DataError(
            f"the tensors of {path} must be those of {metadata['model']}, but {'; '.join(wrong[:3])}"
            f"{f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''}; write it again"
        )
    return model, variables, metadata


def _single(variables: Tree) -> Tree:
    """The shapes of the variables as if all were of single precision, which is what they are computed with."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), variables)
