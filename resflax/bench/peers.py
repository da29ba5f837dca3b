"""The table of peers, `--against`: each is imported when it is asked for."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any, cast

from resflax.bench.forms import FORMS, LAYOUTS, check_form, check_layout, is_form
from resflax.bench.saving import ORBAX
from resflax.bench.start import EXAMPLE, EXAMPLE_WARM
from resflax.bench.workload import Contender, Workload, bottleneck_depth, cifar_depth, is_large
from resflax.errors import ConfigError, nearest
from resflax.models.builders import Repeat
from resflax.models.zoo import check_model

NETWORKS = ("linen", "torch", "torch-compile", "keras")
TORCH = ("torch", "torch-compile")  # which have bottlenecks too
GRAPHS = "torch-graphs"
ONNX = "onnxruntime"  # our network exported, which `resflax.build.inference` makes
LARGE = ("timm", "timm-compile")  # of ImageNet networks under timm's names
# The peers of each task; the first needs no further package and is the default.
PEERS: dict[str, tuple[str, ...]] = {
    "train": (*NETWORKS, GRAPHS, *LARGE, *FORMS, "FORM+FORM", "option:NAME=VALUE"),
    "infer": (*NETWORKS, ONNX, *LARGE, "unfolded"),
    "input": ("pillow", "tf.data"),
    "input-cifar": ("host", "torch-loader", "tf.data"),
    "compile": ("MODEL:LAYOUT",),
    "start": (EXAMPLE, EXAMPLE_WARM),
    "checkpoint": (ORBAX,),
}
INPUTS = ("input", "input-cifar")  # tasks without a network
PACKAGES = {
    "linen": "flax",
    "torch": "torch",
    "torch-compile": "torch",
    GRAPHS: "torch",
    **dict.fromkeys(LARGE, "timm"),
    "keras": "keras",
    ONNX: "onnxruntime",
    "pillow": "pillow",
    "torch-loader": "torch",
    "tf.data": "tensorflow",
    EXAMPLE: "tensorflow",
    EXAMPLE_WARM: "tensorflow",
}
USE_TORCH = frozenset(name for name, package in PACKAGES.items() if package in ("torch", "timm"))


def default_peers(task: str, model: str) -> tuple[str, ...]:
    """What is compared with where nothing was asked for."""
    return PEERS[task][:1] if task in INPUTS or (task in ("train", "infer") and cifar_depth(model)) else ()


def check_peers(task: str, names: Sequence[str], model: str) -> None:
    """Raises `ConfigError` unless all are peers of the task that have the model."""
    for name in names:
        if task == "compile":
            form_of(name)
            continue
        if task == "train" and is_form(name):
            check_form(name, model)
            continue
        if name not in PEERS[task]:
            near = nearest(name, PEERS[task])[0]
            raise ConfigError(
                f"--against must hold only {', '.join(PEERS[task])} with {task}, got {name!r}; did you mean {near}?"
            )
        if name in TORCH and bottleneck_depth(model):
            continue
        if name in (*NETWORKS, GRAPHS, *PEERS["start"]) and cifar_depth(model) is None:
            others = " or resnet50, resnet101, resnet152" if name in TORCH else ""
            raise ConfigError(f"--against={name} needs a --model=cifar_resnet<depth>{others}, got {model}; leave --against out")
        if name in LARGE and not is_large(model):
            raise ConfigError(f"--against={name} needs a --model for ImageNet, got {model}; use --model=resnet50")


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


def _graphs(task: str, workload: Workload) -> Contender:
    from resflax.bench import graphs_peer

    return graphs_peer.contender(workload)


def _timm(task: str, workload: Workload, compiled: bool = False) -> Contender:
    from resflax.bench import timm_peer

    return timm_peer.contender(task, workload, compiled)


def _unfolded(task: str, workload: Workload) -> Contender:
    from resflax.bench import forward

    return forward.unfolded_inference(workload)


def _keras(task: str, workload: Workload) -> Contender:
    from resflax.bench import keras_peer

    return keras_peer.contender(task, workload)


_MAKERS: dict[str, Callable[[str, Workload], Contender]] = {
    "linen": _linen,
    "torch": _torch,
    "torch-compile": functools.partial(_torch, compiled=True),
    "keras": _keras,
    GRAPHS: _graphs,
    "timm": _timm,
    "timm-compile": functools.partial(_timm, compiled=True),
    "unfolded": _unfolded,
}
