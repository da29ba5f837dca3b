"""A trained network together with a split of its data set."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from flax import linen as nn

from resflax.build.inputs import Split, evaluation_pipeline, open_split, without_unreadable
from resflax.build.restore import find_checkpoint, restore_variables
from resflax.config import Config
from resflax.data.pipeline import Pipeline
from resflax.data.preprocess import Preprocessing
from resflax.errors import DataError
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


def open_trained(workdir: str, split: str | None = None, step: int | None = None, say: Any = None) -> Trained:
    """Restores a checkpoint of a workdir and opens a split of the run's data set for it.

    Args:
      workdir: of a training run.
      split: of the run's data set; None: its evaluation split.
      step: of the checkpoint; None: the newest that is intact.
      say: is told which checkpoints are damaged.

    Raises:
      ConfigError: there is no such split.
      DataError: the data set's classes are not those of the run.
      StorageError: there is no such checkpoint, or it is damaged.
    """
    saved = find_checkpoint(workdir, step, say)
    config, model, variables = restore_variables(saved)
    split = split or config.data.eval_split
    images = open_split(config, split)
    if list(images.class_names) != saved.metadata["class_names"]:
        raise DataError(
            f"the classes of {config.data.name} must be those the network was trained on, got {list(images.class_names)[:5]} "
            f"for {saved.metadata['class_names'][:5]}; restore the data set"
        )
    if config.data.unreadable == "skip":
        images = without_unreadable(config, images, {})
    mesh = sharding.make_mesh()
    pipeline = evaluation_pipeline(config, images, Preprocessing.from_dict(saved.metadata["preprocessing"]), mesh)
    variables = sharding.put(variables, sharding.replicated(mesh))  # they were read onto the first device
    return Trained(saved, config, model, variables, split, images, pipeline, mesh)
