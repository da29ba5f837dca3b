"""Weights from the Hugging Face hub: repositories of timm's, and of weight files of this package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resflax.errors import ConfigError, DataError, TemporaryError
from resflax.files import read_json, write_json
from resflax.types import Variables
from resflax.weights.foreign import read_foreign, write_foreign
from resflax.weights.network import load_weights
from resflax.weights.preparation import read_timm_config, timm_config
from resflax.weights.safetensors import is_weight_file

PREFIX = "hf:"
_WEIGHTS, _CONFIG = "model.safetensors", "config.json"


def read_hub(identity: str, name: str | None = None, num_classes: int | None = None) -> tuple[Variables, dict[str, Any]]:
    """The variables and metadata of `hf:organisation/repository[@revision]`.

    Args:
      identity: of the repository; its `model.safetensors` is read and, where that is timm's, its `config.json`.
      name: the model of the table; None: the architecture that timm's configuration names.
      num_classes: see `read_foreign`.

    Raises:
      ConfigError: huggingface_hub is not installed, or there is no such repository or model.
      DataError: it holds something else.
      TemporaryError: the hub cannot be reached.
    """
    weights = _download(identity, _WEIGHTS)
    if is_weight_file(weights):
        if name is not None or num_classes is not None:
            raise ConfigError(f"{identity} is a weight file, which says the model and its classes itself; leave them out")
        _, variables, metadata = load_weights(weights)
        return variables, metadata
    return _read_timm(weights, _download(identity, _CONFIG), name, num_classes, identity)


def read_timm_folder(folder: Path, name: str | None = None, num_classes: int | None = None) -> tuple[Variables, dict[str, Any]]:
    """As `read_hub`, from a copy of a repository of timm's."""
    return _read_timm(folder / _WEIGHTS, folder / _CONFIG, name, num_classes, f"{folder.name}, timm")


def write_timm_folder(folder: Path, variables: Variables, metadata: Mapping[str, Any]) -> None:
    """The inverse of `read_timm_folder`: what `timm.create_model("local-dir:FOLDER", pretrained=True)` reads."""
    write_foreign(folder / _WEIGHTS, variables, metadata, "timm")
    write_json(folder / _CONFIG, timm_config(metadata))


def _read_timm(
    weights: Path, config: Path, name: str | None, num_classes: int | None, source: str
) -> tuple[Variables, dict[str, Any]]:
    timm = read_timm_config(read_json(config), str(config))
    variables, metadata = read_foreign(weights, "timm", name or timm.architecture, num_classes)
    names = timm.class_names if timm.class_names and len(timm.class_names) == metadata["num_classes"] else None
    return variables, {**metadata, **timm.preparation.metadata(), "class_names": names, "source": source}


def _download(identity: str, file: str) -> Path:
    """The path of a file of a repository, fetched unless it is in the hub's cache already."""
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise ConfigError(f"{identity} needs huggingface_hub, which is not installed; pip install 'resflax[hub]'") from error
    repository, _, revision = identity.removeprefix(PREFIX).partition("@")
    try:
        return Path(huggingface_hub.hf_hub_download(repository, file, revision=revision or None))
    except errors.LocalEntryNotFoundError as error:
        raise TemporaryError(f"the hub must be reachable for {identity}, but {_first_line(error)}; try again later") from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise ConfigError(
            f"{identity} must be a repository that can be read, but {_first_line(error)}; check its name"
        ) from error
    except errors.EntryNotFoundError as error:
        raise DataError(f"{identity} must have a file {file}, but it has none; convert its weights from a file") from error
    except OSError as error:  # HfHubHTTPError, and what the network says
        raise TemporaryError(f"the hub must be reachable for {identity}, but {_first_line(error)}; try again later") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
