"""A trained network together with a split of a data set."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
from flax import linen as nn

from resflax.build.inputs import Split, evaluation_pipeline, open_split, other_pipeline, without_unreadable
from resflax.build.restore import find_checkpoint, load, restore_variables
from resflax.config import Config, DataConfig, ModelConfig, PrecisionConfig, from_dict
from resflax.data.arrays import ImageArrays, load_split
from resflax.data.pipeline import Pipeline
from resflax.data.preprocess import Preprocessing
from resflax.data.views import CROPS, Views
from resflax.errors import ConfigError, DataError
from resflax.training import sharding
from resflax.types import Variables

DataName = tuple[str, str | None]  # `data.name` and `data.data_dir`


class Trained(NamedTuple):
    """A network as it is evaluated, and the images it is evaluated on."""

    step: int | None  # of the checkpoint; None: not known
    metadata: dict[str, Any]  # of the network; `source_shape` is that of the images
    config: Config
    model: nn.Module
    variables: Variables  # on every device of the mesh
    split: str
    images: Split
    pipeline: Pipeline
    mesh: jax.sharding.Mesh


def open_trained(
    workdir: str,
    split: str | None = None,
    step: int | None = None,
    say: Any = None,
    other: DataName | None = None,
    views: Views | None = None,
    classes: Literal["same", "any"] = "same",
) -> Trained:
    """Restores a checkpoint of a workdir and opens a split of a data set for it.

    Args:
      workdir: of a training run.
      split: of the data set; None: the run's evaluation split.
      step: of the checkpoint; None: the newest that is intact.
      say: is told which checkpoints are damaged.
      other: another data set, whose images are read as `predict` reads files; None: that of the run.
      views: of each image; None: `data.eval_views` of the run.
      classes: `same`: those of the data set must be those of the network, by name and order.

    Raises:
      ConfigError: there is no such split, or another data set has images of another kind.
      DataError: the data set's classes are not those of the run.
      StorageError: there is no such checkpoint, or it is damaged.
    """
    saved = find_checkpoint(workdir, step, say)
    config, model, variables = restore_variables(saved)
    return _with_images(workdir, saved.step, saved.metadata, config, model, variables, split, other, views, classes)


def open_trained_file(
    path: str,
    split: str | None = None,
    other: DataName | None = None,
    views: Views | None = None,
    classes: Literal["same", "any"] = "same",
) -> Trained:
    """`open_trained` for a weight file, or a repository on the hub, whose metadata say how images are read.

    Where it was made of a run, `other` may be None; it computes in single precision. Raises `ConfigError` also where the file
    does not say what data it belongs to and none are named, or `classes` must be the same and it has none, and what
    `resflax.load` raises.
    """
    model, variables, metadata = load(path)
    if metadata["num_classes"] is None and classes == "same":
        raise ConfigError(f"the network of {path} gives features and no classes; take one with a classifier")
    run = metadata.get("run")
    if run is None and other is None:
        raise ConfigError(f"{path} was not made of a run and does not say what data it is for; name a data set with --data")
    try:
        config = Config(total_steps=1, data=DataConfig(eval_batch_size=64)) if run is None else from_dict(run["config"])
    except (AttributeError, LookupError, TypeError) as error:
        raise DataError(
            f"the metadata of {path} must hold the configuration of its run, but {error!r}; export it again"
        ) from error
    config = dataclasses.replace(config, model=ModelConfig(metadata["model"], metadata["kwargs"]), precision=PrecisionConfig())
    step = None if run is None else run.get("step")
    return _with_images(path, step, metadata, config, model, variables, split, other, views, classes)


def _with_images(
    path: str,
    step: int | None,
    metadata: dict[str, Any],
    config: Config,
    model: nn.Module,
    variables: Variables,
    split: str | None,
    other: DataName | None,
    views: Views | None,
    classes: Literal["same", "any"],
) -> Trained:
    split = split or config.data.eval_split
    preprocessing = Preprocessing.from_dict(metadata["preprocessing"])
    if other is not None:
        config = _with_data(config, other)
    if views is not None:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, eval_views=views))
    name = config.data.name
    if other is not None and config.data.eval_views in CROPS:
        raise ConfigError(f"views that are crops of files are for the data set of the run, got {name}; take fewer views")
    images = open_split(config, split) if other is None else load_split(name, split, config.data.data_dir)
    channels = images.images.shape[-1] if isinstance(images, ImageArrays) else images.channels
    if channels != len(preprocessing.std):
        raise ConfigError(
            f"images for {path} must have {len(preprocessing.std)} channels, but those of {name} have {channels}; "
            "name another data set"
        )
    if classes == "same":
        _check_classes(name, images.class_names, metadata)
    if config.data.unreadable == "skip":
        images = without_unreadable(config, images, {})
    mesh = sharding.make_mesh()
    if other is None:
        pipeline = evaluation_pipeline(config, images, preprocessing, mesh)
    else:
        try:
            pipeline = other_pipeline(config, images, metadata, preprocessing, mesh)
        except (LookupError, TypeError, ValueError) as error:
            raise DataError(f"the metadata of {path} must say how images are read, but {error!r}; make it again") from error
        size = images.images.shape[1:3] if isinstance(images, ImageArrays) else (None, None)
        metadata = {**metadata, "source_shape": [*size, channels]}
    variables = sharding.put(variables, sharding.replicated(mesh))  # they were read onto the first device
    return Trained(step, metadata, config, model, variables, split, images, pipeline, mesh)


def _check_classes(name: str, class_names: tuple[str, ...], metadata: dict[str, Any]) -> None:
    known = metadata["class_names"]
    if known is None and len(class_names) != metadata["num_classes"]:
        raise DataError(
            f"{name} must have as many classes as the network, {metadata['num_classes']}, got {len(class_names)}; name another "
            "data set"
        )
    if known is not None and list(class_names) != known:
        raise DataError(
            f"the classes of {name} must be those the network was trained on, got {list(class_names)[:5]} for {known[:5]}; "
            "restore the data set"
        )


def _with_data(config: Config, other: DataName) -> Config:
    """The configuration with the name and folder of another data set."""
    name, data_dir = other
    views = "single" if config.data.eval_views in CROPS else config.data.eval_views  # others need not be files
    data = dataclasses.replace(config.data, name=name, data_dir=data_dir, eval_views=views)
    return dataclasses.replace(config, data=data)
