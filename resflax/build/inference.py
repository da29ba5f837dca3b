"""Our networks compiled or exported for inference, as `resflax.benchmark infer` times them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax import linen as nn

from resflax.bench.forward import our_network
from resflax.bench.workload import Contender, Workload
from resflax.bench.workload import Program as Timed
from resflax.errors import ConfigError
from resflax.tree import parameter_count
from resflax.types import Array, Variables
from resflax.weights import onnx
from resflax.weights.folding import fold
from resflax.weights.inference import compile_inference
from resflax.weights.program import Program, retrace

_PROVIDERS = {"cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider"}


def our_inference(workload: Workload) -> Contender:
    """The network of `resflax.models.zoo` with its normalisations folded, see `resflax.weights.inference`."""
    model, variables, images = our_network(workload)

    def make() -> Timed:
        forward = compile_inference(lambda images: model.apply(variables, images, train=False), images)

        def advance(steps: int) -> float:
            for _ in range(steps):
                logits = jax.block_until_ready(forward(images))
            return float(logits.mean())

        return Timed(advance, parameter_count(variables["params"]))

    return Contender("resflax", make, "normalisations folded into convolutions, one executable")


def onnxruntime_inference(workload: Workload) -> Contender:
    """Our network exported and run by ONNX Runtime; `ConfigError` where that or jax2onnx is missing or lacks JAX's device."""
    _, onnxruntime = onnx.libraries()
    platform, available = jax.devices()[0].platform, onnxruntime.get_available_providers()
    provider = _PROVIDERS.get(platform)
    if provider not in available:
        raise ConfigError(
            f"--against=onnxruntime must run on the {platform} that JAX uses, but it has {', '.join(available)}; leave it out"
        )
    if workload.precision != "float32":
        raise ConfigError(f"--against=onnxruntime needs --precision=float32, got {workload.precision}; leave it out")
    model, variables, on_device = our_network(workload)
    images = np.asarray(on_device)

    def make() -> Timed:
        session = onnxruntime.InferenceSession(export(model, variables, images, workload.model), providers=[provider])

        def advance(steps: int) -> float:
            for _ in range(steps):
                (logits,) = session.run(None, {"images": images})
            return float(logits.mean())

        return Timed(advance, parameter_count(variables["params"]))

    differs = "our network as an ONNX file, normalisations folded; images and logits in host memory"
    return Contender("onnxruntime", make, differs)


def export(model: nn.Module, variables: Variables, images: np.ndarray, name: str) -> bytes:
    """The content of an ONNX file for normalised images of this shape and dtype."""

    def forward(images: Array) -> Any:
        return model.apply(variables, images, train=False)

    closed = fold(retrace(jax.make_jaxpr(forward)(jax.ShapeDtypeStruct(images.shape, images.dtype))))
    return onnx.serialize(Program(closed, "logits", {"model": name}))
