"""StableHLO: a program that JAX runs on CPU, GPU and TPU without this package, its weights inside.

To run it: `jax.export.deserialize(bytearray(open("network.stablehlo", "rb").read())).call(images)`.
"""

from __future__ import annotations

import jax
import numpy as np
from etils import epath
from jax.extend import core

from resflax.files import storage
from resflax.weights.checked import Function
from resflax.weights.program import Program

_PLATFORMS = ("cpu", "cuda", "tpu")


def serialize(program: Program) -> bytes:
    """The content of a file that `jax.export.deserialize` reads; it has no place for the metadata."""

    def function(images: jax.Array) -> jax.Array:
        return core.jaxpr_as_fun(program.jaxpr)(images)[0]

    return bytes(jax.export.export(jax.jit(function), platforms=_PLATFORMS)(program.images).serialize())


def load(path: epath.PathLike) -> Function:
    """The function of a file, on the first device."""
    with storage("read", path):
        exported = jax.export.deserialize(bytearray(epath.Path(path).read_bytes()))
    return lambda images: np.asarray(exported.call(images))
