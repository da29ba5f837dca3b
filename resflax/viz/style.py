"""What the figures share."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from resflax.files import write_bytes

BLUE, ORANGE, GREY = "#1f6fb4", "#d9632a", "#8a8a8a"  # told apart in every common form of colour blindness, and in grey


def save(figure: Figure, path: Any) -> None:
    """Writes a PNG file, the same bytes for the same figure; `StorageError` where it cannot be written."""
    content = io.BytesIO()
    figure.savefig(content, dpi=140, metadata={"Software": None})
    write_bytes(path, content.getvalue())


def tidy(axes: Axes) -> None:
    """A light grid behind everything, and no frame."""
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def shorten(name: str, length: int = 18) -> str:
    """A class's name for a place with little room."""
    return name if len(name) <= length else f"{name[: length - 1]}…"


def shorten_path(path: str, length: int = 24) -> str:
    """The end of a path: its folder and its file."""
    end = "/".join(path.split("/")[-2:])
    return end if len(end) <= length else f"…{end[1 - length :]}"


def show(axes: Axes, image: np.ndarray) -> None:
    """Draws float[H, W, C] in 0..1, grey for one channel, pixels as they are; or a finished float[H, W, 3]."""
    axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A map laid on its image: float[H, W, 3].

    Args:
      image: float[H, W, C] in 0..1, one channel or three; its colours are taken out, so that those seen are the map's.
      heat: float[H, W] >= 0, of which the largest value is the brightest colour; no value, no colour.
    """
    grey = np.repeat(image.mean(axis=-1, keepdims=True), 3, axis=-1)
    share = heat / heat.max() if heat.max() > 0 else heat
    opacity = 0.7 * np.sqrt(share)[..., None]
    return (1 - opacity) * grey + opacity * colormaps["turbo"](0.1 + 0.8 * share)[..., :3]
