"""Convolutions, sums and random numbers in C (`native.c`) for XLA:CPU, where the machine has a C compiler.

XLA:CPU leaves convolutions to Eigen, which copies what it multiplies and multiplies more than is needed, writes to memory what
it is to sum, and makes many loops of a random number. The file is compiled for the machine's own processor when a program first
wants it, in about half a second, and kept in the user's cache. `CC` names another compiler, and `CC=false` none: then, as where
there is no compiler, XLA's own are used.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np

from resflax.files import cache_folder
from resflax.types import Array

Pair = tuple[int, int]
VECTOR = 16  # features, or the channels that are normalised, are a multiple of it
_TURN = threading.Lock()
_SOURCE = Path(__file__).with_suffix(".c")
_CONVOLUTION, _KERNEL_GRADIENT, _MOMENTS, _SUMS, _THREEFRY = _FUNCTIONS = (
    "resflax_convolution", "resflax_kernel_gradient", "resflax_moments", "resflax_sums", "resflax_threefry",
)  # fmt: skip


def is_available() -> bool:
    """Whether XLA:CPU knows the functions of `native.c`, which are compiled if they were not before."""
    with _TURN:  # the state's program may be traced in one thread and the step's in another
        return _is_registered()


def prepare() -> None:
    """Begins in another thread what `is_usable` would wait for: the compiler, the first time on a machine."""
    threading.Thread(target=is_usable, name="native").start()


@functools.cache
def _is_registered() -> bool:
    if sys.platform != "linux":
        return False
    try:
        library = ctypes.CDLL(str(_compiled()))
    except (OSError, ValueError, subprocess.SubprocessError):  # no compiler, one that refuses, or no place for what it makes
        return False
    for name in _FUNCTIONS:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    return True


def _compiled() -> Path:
    """The shared library; its name is made of all that it depends on."""
    command = [*shlex.split(os.environ.get("CC", "cc")), "-O2", "-march=native", "-std=gnu11", "-shared", "-fPIC"]
    headers = Path(jax.ffi.include_dir())
    inputs = (_SOURCE.read_bytes(), (headers / "xla/ffi/api/c_api.h").read_bytes(), shlex.join(command), _processor())
    key = hashlib.sha256("\n".join(map(repr, inputs)).encode()).hexdigest()[:16]
    library = cache_folder() / "native" / f"{key}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        temporary = library.with_suffix(f".tmp{os.getpid()}")
        try:
            subprocess.run(
                [*command, f"-I{headers}", str(_SOURCE), "-o", str(temporary)], check=True, capture_output=True, timeout=60
            )
            os.replace(temporary, library)  # another process sees all of it, or nothing
        finally:
            temporary.unlink(missing_ok=True)
    return library


def _processor() -> str:
    """What `-march=native` depends on: a cache may be shared by machines."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name", "CPU part"))}))
    return platform.processor()


def is_usable(*arrays: Array) -> bool:
    """Whether programs can have these functions, of `arrays` if any are: float32 and not empty, on one CPU that has them.

    The partitioner does not see through them, so with several devices they are left alone.
    """
    fit = all(array.dtype == np.float32 and array.size for array in arrays)
    return fit and jax.default_backend() == "cpu" and jax.device_count() == 1 and is_available()


def is_filtered(x: tuple[int, ...], kernel: tuple[int, ...], stride: Pair, dilation: Pair) -> bool:
    """Whether `convolution` multiplies less, by minimal filtering (Lavin and Gray 2015, arXiv:1509.09308, Sec. 4.1)."""
    return kernel[:2] == (3, 3) and stride == dilation == (1, 1) and kernel[2] % VECTOR == 0 and min(x[-3:-1]) > 1


def convolution(x: Array, kernel: Array, *, stride: Pair, padding: tuple[Pair, Pair], dilation: Pair) -> Array:
    """Two-dimensional cross-correlation, if `is_available()`, as all below.

    Args:
      x: float32[B, H, W, C].
      kernel: float32[h, w, C, F], F a multiple of `VECTOR`.
      stride: step between outputs.
      padding: zeros before and after each spatial axis.
      dilation: step between the taps of the kernel.

    Returns:
      float32[B, H', W', F].
    """
    rows, columns = (
        (x.shape[1 + axis] + sum(padding[axis]) - (kernel.shape[axis] - 1) * dilation[axis] - 1) // stride[axis] + 1
        for axis in (0, 1)
    )
    result = jax.ShapeDtypeStruct((x.shape[0], rows, columns, kernel.shape[3]), x.dtype)
    call = jax.ffi.ffi_call(_CONVOLUTION, result, vmap_method="broadcast_all")
    return call(x, kernel, options=_options(stride, padding, dilation))


def kernel_gradient(
    kernel: tuple[int, ...], stride: Pair, padding: tuple[Pair, Pair], dilation: Pair, x: Array, dy: Array
) -> Array:
    """dL/dkernel float32[h, w, C, F], the shape `kernel`, of `convolution` for dy = dL/dy float32[B, H', W', F]."""
    call = jax.ffi.ffi_call(_KERNEL_GRADIENT, jax.ShapeDtypeStruct(kernel, x.dtype), vmap_method="broadcast_all")
    return call(x, dy, options=_options(stride, padding, dilation))


def moments(x: Array) -> tuple[Array, Array]:
    """Mean and biased variance float32[G, 1, ..., C] of x float32[G, N, ..., C], in one pass without cancellation."""
    return _over_places(_MOMENTS, x)


def sums(x: Array, dy: Array, mean: Array) -> tuple[Array, Array]:
    """The sums of dy and of dy (x - mean), float32[G, 1, ..., C] as `mean`, for x and dy float32[G, N, ..., C]."""
    return _over_places(_SUMS, x, dy, mean.reshape(x.shape[0], x.shape[-1]))


def is_summable(x: Array, *others: Array) -> bool:
    """Whether `moments` and `sums` can be had for x [G, N, ..., C]."""
    return x.shape[-1] % VECTOR == 0 and is_usable(x, *others)


def _over_places(function: str, x: Array, *others: Array) -> tuple[Array, Array]:
    groups, channels = x.shape[0], x.shape[-1]
    call = jax.ffi.ffi_call(function, jax.ShapeDtypeStruct((groups, 2, channels), x.dtype), vmap_method="broadcast_all")
    places = (array.reshape(groups, -1, channels) if array.ndim > 2 else array for array in (x, *others))
    result = call(*places).reshape(groups, 2, *(1,) * (x.ndim - 3), channels)
    return result[:, :1], result[:, 1:]


def _options(stride: Pair, padding: tuple[Pair, Pair], dilation: Pair) -> np.ndarray:
    return np.array([*stride, padding[0][0], padding[1][0], *dilation], np.int64)


def threefry(key: Array, first: Array, count: int) -> Array:
    """Both words uint32[2, count] of the counts from `first`, uint32[], on, by Threefry 2x32 with `key`, uint32[2]."""
    call = jax.ffi.ffi_call(_THREEFRY, jax.ShapeDtypeStruct((2, count), np.uint32), vmap_method="broadcast_all")
    return call(key, first)
