"""The record of a run: what came out, and how it was obtained."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resflax.version import __version__

if TYPE_CHECKING:
    from resflax.config import Config

VIEWS = {"single": 1, "mirror": 2, "mirror_shift": 6, "ten_crop": 10}  # of each image, see `resflax.data.views`
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets")


def versions() -> dict[str, str]:
    """Python's version and those of the packages a result depends on."""
    found = {"python": platform.python_version(), "resflax": __version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit of the checkout this package runs from, with `-dirty` where it was changed; None outside of one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def evaluated_weights(config: Config) -> str:
    """`ema` or `swa`, averages over the run; `slow`, those of lookahead; `raw`, as the last step left them."""
    if config.ema.decay is not None:
        return "ema"
    if config.swa.start is not None:
        return "swa"
    return "raw" if config.optim.lookahead_steps is None else "slow"


def describe_evaluation(config: Config, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """How images became scores; a number without this is not comparable.

    Args:
      config: of the run.
      metadata: of the run, see `resflax.build.Run.metadata`; `source_shape` that of the images that were scored.
    """
    size, source = metadata["preprocessing"]["image_size"], metadata["source_shape"][:2]
    return {
        "resolution": size,
        "crop_ratio": metadata.get("crop_ratio", config.data.crop_ratio) if metadata["crop"] == "center" else 1.0,
        "interpolation": f"{metadata.get('interpolation', 'bilinear')}, antialiased" if size != source else "none",
        "decoder": "pillow" if None in source else "none" if config.data.name.endswith(".npz") else "opencv",
        "views": VIEWS[config.data.eval_views],
        "weights": evaluated_weights(config),
        "batch_norm": "reestimated" if config.batch_norm.reestimate else "running",
    }
