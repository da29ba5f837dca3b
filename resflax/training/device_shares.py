"""Devices for processes side by side, found without JAX: what this process took of them would be missing to the others."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import subprocess
from pathlib import Path

from resflax.errors import ConfigError

MEMORY = 0.9  # of a GPU, for all processes that share it; the rest is what they need outside of JAX's pools


def share_devices(count: int) -> list[dict[str, str]]:
    """What `count` processes at a time need in their environments: a GPU each where there are several, or a share of one.

    Raises:
      ConfigError: there are TPUs, which belong to one process at a time.
    """
    if _has_tpu():
        raise ConfigError(f"--at_once must be 1 on a TPU, which belongs to one process at a time, got {count}; leave it out")
    gpus = visible_gpus()
    sharing = math.ceil(count / max(1, len(gpus)))
    memory = {}
    if sharing > 1 and not {"XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"} & os.environ.keys():
        memory = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{MEMORY / sharing:.3f}"}  # reserved at the start, by JAX's default
    if len(gpus) < 2:
        return [dict(memory) for _ in range(count)]
    return [{**memory, "CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]} for index in range(count)]


def visible_gpus() -> list[str]:
    """The NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; found without JAX."""
    if not {"", "cuda", "gpu"} & {*os.environ.get("JAX_PLATFORMS", "").split(",")}:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    # By UUID: nvidia-smi and CUDA need not count in the same order.
    return re.findall(r"^GPU \d+: .*\(UUID: (GPU-[\w-]+)\)", listed, re.MULTILINE)


def _has_tpu() -> bool:
    """As far as it can be told without JAX."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms:
        return "tpu" in platforms.split(",")
    chips = (*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*"))
    return bool(chips) and importlib.util.find_spec("libtpu") is not None
