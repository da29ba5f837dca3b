"""A trained network together with a split of its data set."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from resflax.build.inputs import Split, evaluation_pipeline, open_split, without_unreadable
from resflax.build.restore import find_checkpoint, restore_variables
from resflax.config import Config
from resflax.data.arrays import ImageArrays
from resflax.data.pipeline import Pipeline
from resflax.data.preprocess import Preprocessing
from resflax.data.views import CROPS, Views
from resflax.errors import ConfigError, DataError
from resflax.training import sharding
from resflax.training.checkpoints import Saved
from resflax.types import Variables


class Trained(NamedTuple):
    """A network as it is evaluated, and the images it is evaluated on."""

    saved: Saved
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
    other: tuple[str, str | None] | None = None,
    views: Views | None = None,
) -> Trained:
    """Restores a checkpoint of a workdir and opens a split of a data set for it.

    Args:
      workdir: of a training run.
      split: of the data set; None: the run's evaluation split.
      step: of the checkpoint; None: the newest that is intact.
      say: is told which checkpoints are damaged.
      other: `data.name` and `data.data_dir` of a data set of any classes; None: that of the run.
      views: of each image; None: `data.eval_views` of the run.

    Raises:
      ConfigError: there is no such split, or another data set has images of another kind.
      DataError: the data set's classes are not those of the run.
      StorageError: there is no such checkpoint, or it is damaged.
    """
    saved = find_checkpoint(workdir, step, say)
    config, model, variables = restore_variables(saved)
    split = split or config.data.eval_split
    preprocessing = Preprocessing.from_dict(saved.metadata["preprocessing"])
    if other is not None:
        config = with_data(config, other, preprocessing.image_size[0])
    if views is not None:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, eval_views=views))
    images = open_split(config, split)
    channels = images.images.shape[-1] if isinstance(images, ImageArrays) else images.channels
    if channels != len(preprocessing.std):
        raise ConfigError(
            f"images for {workdir} must have {len(preprocessing.std)} channels, but those of {config.data.name} have "
            f"{channels}; name another data set"
        )
    if other is None and list(images.class_names) != saved.metadata["class_names"]:
        raise DataError(
            f"the classes of {config.data.name} must be those the network was trained on, got {list(images.class_names)[:5]} "
            f"for {saved.metadata['class_names'][:5]}; restore the data set"
        )
    if config.data.unreadable == "skip":
        images = without_unreadable(config, images, {})
    mesh = sharding.make_mesh()
    pipeline = evaluation_pipeline(config, images, preprocessing, mesh)
    variables = sharding.put(variables, sharding.replicated(mesh))  # they were read onto the first device
    return Trained(saved, config, model, variables, split, images, pipeline, mesh)


def with_data(config: Config, other: tuple[str, str | None], image_size: int) -> Config:
    """The configuration with the name and folder of another data set, whose images are brought to the network's size."""
    name, data_dir = other
    views = "single" if config.data.eval_views in CROPS else config.data.eval_views  # others need not be files
    data = dataclasses.replace(config.data, name=name, data_dir=data_dir, image_size=image_size, augment=(), eval_views=views)
    return dataclasses.replace(config, data=data)
