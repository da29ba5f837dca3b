"""From a workdir, or a weight file, back to a network."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from flax import linen as nn

from resflax.build.inputs import make_reader
from resflax.build.parts import abstract, dataset_dtype, initial_state, make_model, make_optimizer
from resflax.config import Config, apply_overrides, from_dict, validate
from resflax.data.preprocess import Preprocessing
from resflax.data.reading import file_reader
from resflax.errors import ConfigError, DataError, StorageError
from resflax.nn.repeat import Repeat, stack_blocks, unstack_blocks
from resflax.training import sharding
from resflax.training.checkpoints import Saved, committed_steps, latest_checkpoint, open_checkpoint
from resflax.training.state import TrainState
from resflax.types import Array, DType, Variables
from resflax.viz.grad_cam import grad_cam, upsample
from resflax.weights.hub import PREFIX, read_hub
from resflax.weights.network import load_weights, make_network


def find_checkpoint(path: str, step: int | None = None, say: Any = None) -> Saved:
    """The checkpoint of a workdir: the newest that verifies, or `step`; `StorageError` when there is none."""
    root = epath.Path(path) / "checkpoints"
    if step is not None:
        there = committed_steps(root)
        if step not in there:
            raise StorageError(f"{path} has no checkpoint of step {step}; there are {', '.join(map(str, there)) or 'none'}")
        return open_checkpoint(root / str(step))
    saved = latest_checkpoint(root, say)
    if saved is None:
        raise StorageError(f"{path} must be the workdir of a run with a checkpoint, but there is none in {root}")
    return saved


def restore_variables(saved: Saved) -> tuple[Config, nn.Module, Variables]:
    """The network of a checkpoint and the variables it is evaluated with, on the first device."""
    where = sharding.replicated(sharding.make_mesh(jax.devices()[:1]))
    with _metadata_of(saved):
        config = from_dict(saved.metadata["config"])
        if config.precision.compute == "float64":
            jax.config.update("jax_enable_x64", True)  # without it JAX has no such arrays
        preprocessing = Preprocessing.from_dict(saved.metadata["preprocessing"])
        model = make_model(config, len(saved.metadata["class_names"]))
        # The state does not depend on what the schedule says, only on there being one.
        optimizer = make_optimizer(config, optax.constant_schedule(0.0))
        images = np.zeros((1, *preprocessing.image_size, len(preprocessing.std)), np.uint8)
        init = functools.partial(initial_state, config, model, optimizer, preprocessing)
        state: TrainState = saved.restore(abstract(init, where, 0, images))
    return config, model, state.variables()


@contextlib.contextmanager
def _metadata_of(saved: Saved) -> Iterator[None]:
    """Turns what metadata that no run has written lead to into one sentence."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise StorageError(f"the metadata in {saved.path} must be those of a run, but {error!r}; copy the run again") from error


def load(path: str, step: int | None = None, repeat: Repeat | None = None) -> tuple[nn.Module, Variables, dict[str, Any]]:
    """Loads a trained network.

    Args:
      path: the workdir of a run, a weight file, or `hf:organisation/repository` on the Hugging Face hub.
      step: a checkpoint's step, of a workdir; None: the newest one whose bytes are intact.
      repeat: the layout in which the network is wanted, see `resflax.nn.repeat`; None: the one it was trained in.

    Returns:
      `(model, variables, metadata)`: `model.apply(variables, images, train=False)` -> float32 logits [B, classes];
      metadata holds `class_names`, `preprocessing`, `layout` (of `variables`), and of a workdir `config`, `step`, ...

    Raises:
      StorageError: there is no checkpoint, or what there is is damaged.
      DataError: the file holds something else than the weights of a network of this package.
      ConfigError: there is no such layout, or none but its own for this network; or no such repository.
    """
    if is_weight_file(path):
        return _load_weight_file(path, step, repeat)
    saved = find_checkpoint(path, step)
    config, model, variables = restore_variables(saved)
    metadata = {**saved.metadata, "step": saved.step}
    if repeat in (None, metadata["layout"]):
        return model, variables, metadata
    config = validate(apply_overrides(config, [f"model.kwargs.repeat={repeat}"]))
    model = make_model(config, len(metadata["class_names"]))
    return model, in_layout(variables, repeat), {**metadata, "layout": repeat}


def is_weight_file(path: str) -> bool:
    """Whether `path` is that of one file or of a repository on the hub, and not of a workdir."""
    return path.startswith(PREFIX) or epath.Path(path).is_file()


def _load_weight_file(path: str, step: int | None, repeat: Repeat | None) -> tuple[nn.Module, Variables, dict[str, Any]]:
    if step is not None:
        raise ConfigError(f"a step is for the workdir of a run, but {path} is a weight file; leave it out")
    if path.startswith(PREFIX):
        variables, metadata = read_hub(path)
        model = make_network(metadata)
    else:
        model, variables, metadata = load_weights(path)
    layout = repeat or "loop"
    if layout != "loop":
        model = make_network({**metadata, "kwargs": {**metadata["kwargs"], "repeat": layout}})
        variables = dict(in_layout(variables, layout))
    return model, jax.tree.map(jnp.asarray, variables), {**metadata, "layout": layout}


def in_layout(variables: Variables, repeat: Repeat) -> Variables:
    """`variables` of any layout with the names and shapes that a network has in the layout `repeat`."""
    convert = unstack_blocks if repeat == "loop" else stack_blocks
    return {collection: convert(tree) for collection, tree in variables.items()}


class Network(NamedTuple):
    """A trained network as `predict` uses it."""

    read: Callable[[Path], np.ndarray]  # a file's image as uint8[H, W, C]
    probabilities: Callable[[Any], Array]  # uint8[B, H, W, C] -> float32[B, classes]; compiled, and can be traced
    class_names: list[str]
    # uint8[B, H, W, C], classes int[B], stage -> float32[B, H', W', C] in 0..1, the images as the network sees them, and
    # Grad-CAM of the classes on them, float32[B, H', W']; see `resflax.viz.grad_cam`
    explain: Callable[[Any, Any, str | None], tuple[np.ndarray, np.ndarray]]


def open_run(workdir: str, step: int | None = None, say: Any = None) -> Network:
    """The network of a workdir; arguments and errors are those of `find_checkpoint`."""
    saved = find_checkpoint(workdir, step, say)
    config, model, variables = restore_variables(saved)
    settings = (model, variables, saved.metadata["preprocessing"], dataset_dtype(config))
    with _metadata_of(saved):
        read, names = make_reader(config, saved.metadata), saved.metadata["class_names"]
    return Network(read, make_probabilities(*settings), names, make_explanation(*settings))


def open_weights(path: str) -> Network:
    """The network of a weight file, or of a repository on the hub, whose classes have numbers where they have no names.

    Raises the errors of `load`, and `ConfigError` for a network without a classifier.
    """
    model, variables, metadata = _load_weight_file(path, None, None)
    if metadata["num_classes"] is None:
        raise ConfigError(f"the network of {path} gives features and no classes; take one with a classifier")
    try:
        read = file_reader(metadata)
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(f"the metadata of {path} must say how images are read, but {error!r}; convert it again") from error
    names = metadata["class_names"] or [str(index) for index in range(metadata["num_classes"])]
    settings = (model, variables, metadata["preprocessing"])
    return Network(read, make_probabilities(*settings), names, make_explanation(*settings))


def make_probabilities(
    model: nn.Module, variables: Variables, preprocessing: dict[str, Any], dtype: DType = jnp.float32
) -> Callable[[Any], Array]:
    """`uint8[B, H, W, C] -> softmax probabilities float32[B, classes]`; images are normalised in `dtype`.

    The probabilities of an image are NaN if one of its logits is not finite, a lone -inf too.
    """
    prepare = Preprocessing.from_dict(preprocessing)

    @jax.jit
    def probabilities(variables: Variables, images: jax.Array) -> jax.Array:
        logits: Any = model.apply(variables, prepare(images, dtype), train=False)
        finite = jnp.isfinite(logits).all(axis=-1, keepdims=True)
        return jnp.where(finite, jax.nn.softmax(logits), jnp.nan)

    return functools.partial(probabilities, variables)


def make_explanation(
    model: nn.Module, variables: Variables, preprocessing: dict[str, Any], dtype: DType = jnp.float32
) -> Callable[[Any, Any, str | None], tuple[np.ndarray, np.ndarray]]:
    """See `Network.explain`."""
    prepare = Preprocessing.from_dict(preprocessing)

    def explain(images: Any, classes: Any, stage: str | None) -> tuple[np.ndarray, np.ndarray]:
        normalised = prepare(jnp.asarray(images), dtype)
        maps = grad_cam(model, variables, normalised, jnp.asarray(classes), stage)
        return prepare.pixels(normalised), np.asarray(upsample(maps, *normalised.shape[1:3]))

    return explain
