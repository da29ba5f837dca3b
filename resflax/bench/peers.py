"""The table of peers, `--against`: each is imported when it is asked for."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any, cast, get_args

from resflax.bench.workload import Contender, Workload, cifar_depth
from resflax.errors import ConfigError, nearest
from resflax.models.builders import Repeat
from resflax.models.zoo import check_model, model_options

NETWORKS = ("linen", "torch", "torch-compile", "keras")
LAYOUTS = get_args(Repeat)  # our own network in another form
# The peers of each task; the first needs no further package and is the default.
PEERS: dict[str, tuple[str, ...]] = {
    "train": (*NETWORKS, *LAYOUTS),
    "infer": NETWORKS,
    "input": ("pillow",),
    "compile": ("MODEL:LAYOUT",),
}
PACKAGES = {"linen": "flax", "torch": "torch", "torch-compile": "torch", "keras": "keras", "pillow": "pillow"}


def default_peers(task: str, model: str) -> tuple[str, ...]:
    """What is compared with where nothing was asked for."""
    return PEERS[task][:1] if task == "input" or (task != "compile" and cifar_depth(model)) else ()


def check_peers(task: str, names: Sequence[str], model: str) -> None:
    """Raises `ConfigError` unless all are peers of the task that have the model."""
    for name in names:
        if task == "compile":
            form_of(name)
            continue
        if name in LAYOUTS:
            check_layout(model, name)
        if name not in PEERS[task]:
            near = nearest(name, PEERS[task])[0]
            raise ConfigError(
                f"--against must hold only {', '.join(PEERS[task])} with {task}, got {name!r}; did you mean {near}?"
            )
        if name in NETWORKS and cifar_depth(model) is None:
            raise ConfigError(f"--against={name} needs a --model=cifar_resnet<depth>, got {model}; leave --against out")


def check_layout(model: str, layout: str) -> None:
    """Raises `ConfigError` unless the blocks of `model` can run so."""
    if "repeat" not in model_options(model):
        raise ConfigError(f"the blocks of {model} are not equal and cannot run as {layout}; leave the layout out")


def form_of(text: str) -> tuple[str, Repeat]:
    """The model and the layout of a peer of `compile`, `cifar_resnet1202:scan`; `ConfigError` for anything else."""
    model, _, layout = text.partition(":")
    if layout not in LAYOUTS:
        raise ConfigError(
            f"--against must hold MODEL:LAYOUT with compile, the layout one of {', '.join(LAYOUTS)}, got {text!r}; for "
            "example --against=cifar_resnet1202:scan"
        )
    check_model(model)
    check_layout(model, layout)
    return model, cast(Repeat, layout)


def require(package: str, peer: str) -> Any:
    """Imports what a peer is made of; `ConfigError` naming the remedy where it is missing."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(f"--against={peer} needs the package {package}, but {error}; pip install {package}") from error


def make_peer(name: str, task: str, workload: Workload) -> Contender:
    """The peer, ready to be prepared; `ConfigError` where its package is missing. See `check_peers`."""
    return _MAKERS[name](task, workload)


def _linen(task: str, workload: Workload) -> Contender:
    from resflax.bench import linen_peer

    return linen_peer.contender(task, workload)


def _torch(task: str, workload: Workload, compiled: bool = False) -> Contender:
    from resflax.bench import torch_peer

    return torch_peer.contender(task, workload, compiled)


def _keras(task: str, workload: Workload) -> Contender:
    from resflax.bench import keras_peer

    return keras_peer.contender(task, workload)


_MAKERS: dict[str, Callable[[str, Workload], Contender]] = {
    "linen": _linen,
    "torch": _torch,
    "torch-compile": functools.partial(_torch, compiled=True),
    "keras": _keras,
}
