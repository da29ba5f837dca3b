"""A run that starts from the weights of another: what is read, what must fit, what is made anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath

from resflax.build.restore import find_checkpoint, in_layout, is_weight_file, load, restore_variables
from resflax.config import Config
from resflax.data.preprocess import Preprocessing
from resflax.errors import ConfigError, DataError
from resflax.nn.repeat import unstack_blocks
from resflax.tree import differences, digest, named_leaves, signature
from resflax.types import Tree, Variables
from resflax.weights.keras_reader import EPSILON as KERAS_EPSILON

HEAD = "params/head/"
# Arguments of builders that leave a trained network what it is.
_FREE = {"repeat", "stochastic_depth", "dropout", "head_dropout", "zero_gamma", "stem_form"}


@dataclass(frozen=True)
class Pretrained:
    """A trained network as `config.init.weights`, or another key, names it."""

    path: str
    variables: Variables  # NumPy arrays under the unrolled names
    model: str
    kwargs: dict[str, Any]
    epsilon: float  # of its batch normalisation
    class_names: list[str] | None  # None: not known
    preprocessing: Preprocessing
    key: str = "config.init.weights"

    def check_network(self, config: Config) -> None:
        """Raises `ConfigError` where the configuration's network computes something else from the same weights."""
        wanted, own = _telling(config.model.kwargs), _telling(self.kwargs)
        changes = {"config.model.name": (config.model.name, self.model)} | {
            f"config.model.kwargs.{name}": (wanted.get(name), own.get(name)) for name in sorted(wanted.keys() | own.keys())
        }
        changes["config.batch_norm.epsilon"] = (config.batch_norm.epsilon, self.epsilon)
        wrong = [f"{key} is {given} and was {saved}" for key, (given, saved) in changes.items() if given != saved]
        if wrong:
            raise ConfigError(f"the network must be that of {self.key}={self.path}, but {'; '.join(wrong)}; set it as it was")

    def check_channels(self, preprocessing: Preprocessing, images: str) -> None:
        """Raises `ConfigError` where the `images` of this name have another number of channels than these weights take."""
        own, given = len(self.preprocessing.std), len(preprocessing.std)
        if own != given:
            raise ConfigError(
                f"images for {self.key}={self.path} must have {own} channels, but those of {images} have {given}; use "
                "other weights, or convert the images"
            )

    def adapt(self, preprocessing: Preprocessing) -> Preprocessing:
        """`preprocessing` with the mean and deviation of these weights, at the size that it has."""
        own, size = self.preprocessing, preprocessing.image_size
        if own.mean.ndim == 3 and own.image_size != size:
            raise ConfigError(
                f"images for {self.key}={self.path} must have the size of the mean image that is subtracted, "
                f"{own.image_size[0]}x{own.image_size[1]}, but have {size[0]}x{size[1]}; set "
                f"config.data.image_size={own.image_size[0]}, or config.init.normalize=data"
            )
        return Preprocessing(size, own.mean, own.std)

    def fresh(self, abstract: Tree, class_names: Sequence[str]) -> list[str]:
        """The names of the arrays that are made anew: those of the classifier, where the classes are others.

        Args:
          abstract: shapes of the variables of the run's network, in any layout.
          class_names: of the data.

        Raises:
          ConfigError: any other array does not fit, or is not there.
        """
        same = self.class_names == list(class_names)
        names = named_leaves(jax.eval_shape(unstack_blocks, dict(abstract)))
        wrong = differences(_shapes(self.variables, same), _shapes(abstract, same))
        if wrong:
            raise ConfigError(
                f"the arrays of {self.key}={self.path} must be those of the network, but {len(wrong)} are not: "
                f"{'; '.join(wrong[:5])}{f' and {len(wrong) - 5} more' if len(wrong) > 5 else ''}; set config.model and "
                "config.data.image_size as they were"
            )
        return [] if same else [name for name in names if name.startswith(HEAD)]

    def fill(self, variables: Variables, fresh: Sequence[str], repeat: Any) -> Variables:
        """`variables` of the layout `repeat` with all but the `fresh` arrays replaced; dtypes are those of `variables`."""
        saved = named_leaves(self.variables)

        def one(path: Any, leaf: Any) -> Any:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return np.asarray(leaf) if name in fresh else np.asarray(saved[name], leaf.dtype)

        unrolled = jax.tree_util.tree_map_with_path(one, unstack_blocks(variables))
        return unrolled if repeat == "loop" else jax.tree.map(np.asarray, in_layout(unrolled, repeat))

    def provenance(self, fresh: Sequence[str]) -> dict[str, Any]:
        """What a record says about it. The digest is that of the arrays, wherever they were read from."""
        return {"weights": self.path, "digest": digest(self.variables), "fresh": list(fresh)}


def read_pretrained(path: str, float64: bool = False, key: str = Pretrained.key) -> Pretrained:
    """The network of a workdir (its newest intact checkpoint, averaged where it keeps averages), a weight file or the hub.

    Args:
      path: as the configuration has it.
      float64: whether the run computes in double precision.
      key: of the configuration, for what is said of it.

    Raises:
      ConfigError: there is nothing at `path`, or it was trained in double precision and the run is not.
      DataError, StorageError, TemporaryError: as `resflax.load`.
    """
    if is_weight_file(path):
        _, variables, metadata = load(path)
        kwargs, model = metadata["kwargs"], metadata["model"]
        epsilon = metadata.get("batch_norm", {}).get("epsilon", KERAS_EPSILON if model.startswith("keras_") else 1e-5)
    else:
        if not epath.Path(path).exists():
            raise ConfigError(
                f"{key} must be a workdir, a weight file or hf:ORGANISATION/NAME, but there is no {path}; correct the path"
            )
        saved = find_checkpoint(path)
        metadata = saved.metadata
        if metadata["config"]["precision"]["compute"] == "float64" and not float64:
            raise ConfigError(
                f"the weights of {path} are of double precision and the run is not; write them to a weight file with python -m "
                "resflax.export --format=safetensors"
            )
        config, _, variables = restore_variables(saved)
        kwargs, model, epsilon = config.model.kwargs, config.model.name, config.batch_norm.epsilon
    unrolled = jax.tree.map(np.asarray, unstack_blocks(variables))
    preprocessing = Preprocessing.from_dict(metadata["preprocessing"])
    return Pretrained(path, unrolled, model, kwargs, epsilon, metadata["class_names"], preprocessing, key)


def read_again(init: Mapping[str, Any]) -> Pretrained:
    """The network that a run once started from, by what `Pretrained.provenance` said; `DataError` where it is another one."""
    pretrained = read_pretrained(init["weights"], float64=True)
    found = digest(pretrained.variables)
    if found != init["digest"]:
        raise DataError(
            f"config.init.weights={init['weights']} must be what the run started from, but its SHA-256 is {found[:12]} and was "
            f"{init['digest'][:12]}; restore it, or name another --workdir"
        )
    return pretrained


def _telling(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that say which network it is."""
    return {name: value for name, value in kwargs.items() if name not in _FREE}


def _shapes(variables: Tree, head: bool) -> dict[str, str]:
    """The signature under the unrolled names, as if all were of single precision; with the classifier or without."""
    unrolled = jax.eval_shape(unstack_blocks, dict(variables))
    single = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, np.float32), unrolled)
    return {name: shape for name, shape in signature(single).items() if head or not name.startswith(HEAD)}
