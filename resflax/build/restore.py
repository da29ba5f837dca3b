"""From a workdir back to a network."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import optax
from etils import epath
from flax import linen as nn

from resflax.build.parts import abstract, dataset_dtype, initial_state, make_model, make_optimizer
from resflax.config import Config, from_dict
from resflax.data.preprocess import Preprocessing
from resflax.errors import StorageError
from resflax.training import sharding
from resflax.training.checkpoints import Saved, latest_checkpoint, open_checkpoint
from resflax.training.state import TrainState
from resflax.types import Variables


def find_checkpoint(path: str, step: int | None = None, say: Any = None) -> Saved:
    """The checkpoint of a workdir: the newest that verifies, or `step`; `StorageError` when there is none."""
    root = epath.Path(path) / "checkpoints"
    if step is not None:
        return open_checkpoint(root / str(step))
    saved = latest_checkpoint(root, say)
    if saved is None:
        raise StorageError(f"{path} must be the workdir of a run with a checkpoint, but there is none in {root}")
    return saved


def restore_variables(saved: Saved) -> tuple[Config, nn.Module, Variables]:
    """The network of a checkpoint and the variables it is evaluated with, on the first device."""
    config = from_dict(saved.metadata["config"])
    if config.precision.compute == "float64":
        jax.config.update("jax_enable_x64", True)  # without it JAX has no such arrays
    preprocessing = Preprocessing.from_dict(saved.metadata["preprocessing"])
    model = make_model(config, len(saved.metadata["class_names"]))
    # The state does not depend on what the schedule says, only on there being one.
    optimizer = make_optimizer(config, optax.constant_schedule(0.0))
    shape = (*preprocessing.image_size, saved.metadata["source_shape"][-1])
    init = functools.partial(initial_state, config, model, optimizer, shape)
    where = sharding.replicated(sharding.make_mesh(jax.devices()[:1]))
    state: TrainState = saved.restore(abstract(init, where))
    return config, model, state.variables()


def load(path: str, step: int | None = None) -> tuple[nn.Module, Variables, dict[str, Any]]:
    """Loads a trained network from a workdir.

    Args:
      path: the workdir.
      step: a checkpoint's step; None: the newest one whose bytes are intact.

    Returns:
      `(model, variables, metadata)`: `model.apply(variables, images, train=False)` -> float32 logits [B, classes];
      metadata holds `class_names`, `preprocessing`, `config`, `step`, ...

    Raises:
      StorageError: there is no checkpoint, or it is damaged.
    """
    saved = find_checkpoint(path, step)
    _, model, variables = restore_variables(saved)
    return model, variables, {**saved.metadata, "step": saved.step}


def make_probabilities(config: Config, model: nn.Module, variables: Variables, preprocessing: dict[str, Any]) -> Any:
    """`uint8[B, H, W, C] -> softmax probabilities float32[B, classes]`, with the preprocessing of training."""
    prepare = Preprocessing.from_dict(preprocessing)

    @jax.jit
    def probabilities(variables: Variables, images: jax.Array) -> jax.Array:
        logits: Any = model.apply(variables, prepare(images, dataset_dtype(config)), train=False)
        return jax.nn.softmax(logits)

    return lambda images: np.asarray(probabilities(variables, images))
