"""Our own network and step in other forms, to be timed beside the one that is the default. Imports no JAX.

What each gives on an accelerator is to be measured: the figures here are predictions of their sources. The command is
`python -m resflax.benchmark train --against=closed_form,conv_fusion+closed_form,option:xla_gpu_autotune_level=0`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from resflax.bench.workload import Workload
from resflax.errors import ConfigError, nearest
from resflax.models.builders import Repeat
from resflax.models.zoo import model_options

LAYOUTS = get_args(Repeat)  # how equal blocks run
FREE = "option:"  # before any option of XLA, NAME=VALUE


@dataclass(frozen=True)
class Form:
    """Fields of `Workload` with other values than the default's."""

    changes: Mapping[str, Any]
    predicted: str  # to do, by its source
    source: str


# What XLA puts into CUDA graphs by default: jaxlib 0.10.2, openxla/xla xla/debug_options_flags.cc. Convolutions are not among
# it, so that a step falls into as many graphs as it has convolutions, and neither are the loops around them.
_CAPTURED = "FUSION+CUBLAS+CUBLASLT+CUSTOM_CALL+CUDNN+DYNAMIC_SLICE_FUSION"
_XLA = "https://github.com/openxla/xla"


def _captured(commands: str, predicted: str, source: str) -> Form:
    return _option(f"xla_gpu_enable_command_buffer={commands}", predicted, source)


def _option(text: str, predicted: str, source: str) -> Form:
    return Form({"compiler_options": (text,)}, predicted, source)


FORMS: dict[str, Form] = {
    "loop": Form({"repeat": "loop"}, "the default", "resflax.nn.repeat"),
    "scan": Form({"repeat": "scan"}, "compiles in constant time in depth, up to 13 % more bytes", "resflax.nn.repeat"),
    "scan_remat": Form({"repeat": "scan_remat"}, "less memory, activations computed twice", "resflax.nn.repeat"),
    "stepwise": Form({"fused": False}, "a dispatch a step: bound by launches at small batches", "resflax.training.chunk"),
    "fused": Form({"fused": True}, "a dispatch a chunk, the default on accelerators", "resflax.training.chunk"),
    "closed_form": Form({"gradient": "closed_form"}, "fewer and narrower passes over activations", "resflax.nn.normalise"),
    "space_to_depth": Form(
        {"kwargs": {"stem_form": "space_to_depth"}},
        "a stem of 12 input channels for 3",
        "https://github.com/mlcommons/training_results_v0.7 (Google, resnet-research-JAX-tpu-v3-8192)",
    ),
    "conv_fusion": _option(
        "xla_gpu_experimental_enable_conv_fusion=true",
        "what is before and after a convolution becomes part of it, and part of CUDA graphs",
        f"{_XLA}/pull/37311",
    ),
    "command_buffer_none": _captured("", "no CUDA graphs: what they give", f"{_XLA}/issues/6528"),
    "command_buffer_conv": _captured(
        f"{_CAPTURED}+CONVOLUTION", "a step is one CUDA graph, not one between each two convolutions", f"{_XLA}/pull/34572"
    ),
    "command_buffer_while": _captured(
        f"{_CAPTURED}+CONVOLUTION+CONDITIONAL+WHILE", "a chunk is one CUDA graph", f"{_XLA}/pull/19528"
    ),
    "double_buffering": _option(
        "xla_gpu_enable_while_loop_double_buffering=true", "no copies of what a loop carries", f"{_XLA}/blob/main/xla/xla.proto"
    ),
    "dynamic_slice_fusion": _option(
        "xla_gpu_enable_dynamic_slice_fusion=true", "with scan: no copies of stacked parameters", f"{_XLA}/pull/43701"
    ),
    "latency_hiding": _option(
        "xla_gpu_enable_latency_hiding_scheduler=true", "nothing on one device", f"{_XLA}/blob/main/docs/flags_guidance.md"
    ),
}


def is_form(text: str) -> bool:
    """Whether `text` means a form, rightly written or not, rather than a peer."""
    return text.startswith(FREE) or "+" in text or text in FORMS


def check_form(text: str, model: str) -> None:
    """Raises `ConfigError` unless `model` has the form."""
    if text.startswith(FREE):
        name, equals, _ = text.removeprefix(FREE).partition("=")
        if not (name and equals):
            raise ConfigError(
                f"--against={FREE}... must read {FREE}NAME=VALUE, got {text!r}; for example {FREE}xla_gpu_autotune_level=0"
            )
        return
    for part in text.split("+"):
        if part not in FORMS:
            raise ConfigError(
                f"--against={text} must join only {', '.join(FORMS)} by +, got {part!r}; did you mean "
                f"{nearest(part, FORMS)[0]}?"
            )
        changes = FORMS[part].changes
        if "repeat" in changes:
            check_layout(model, part)
        for option in changes.get("kwargs", ()):
            if option not in model_options(model):
                raise ConfigError(f"--against={part} needs a model with {option}, which {model} has not; leave it out")


def check_layout(model: str, layout: str) -> None:
    """Raises `ConfigError` unless the blocks of `model` can run so."""
    if "repeat" not in model_options(model):
        raise ConfigError(f"the blocks of {model} are not equal and cannot run as {layout}; leave the layout out")


def _parts(text: str) -> list[Form]:
    if text.startswith(FREE):
        return [_option(text.removeprefix(FREE), "not known", "the command line")]
    return [FORMS[part] for part in text.split("+")]


def in_form(workload: Workload, text: str) -> Workload:
    """`workload` in the form that `text` names; see `check_form`."""
    for form in _parts(text):
        changes = dict(form.changes)
        if "compiler_options" in changes:
            changes["compiler_options"] = (*workload.compiler_options, *changes["compiler_options"])
        if "kwargs" in changes:
            changes["kwargs"] = {**workload.kwargs, **changes["kwargs"]}
        workload = dataclasses.replace(workload, **changes)
    return workload


def describe(text: str) -> str:
    """What a form does and is predicted to do, with sources."""
    return "; ".join(f"{_written(form.changes)}: predicted {form.predicted} ({form.source})" for form in _parts(text))


def _written(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in changes.items())
