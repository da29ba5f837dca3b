"""What the figures share."""

from __future__ import annotations

import io
import textwrap
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, LogFormatterSciNotation

from resflax.files import write_bytes

BLUE, ORANGE, GREY = "#1f6fb4", "#d9632a", "#8a8a8a"  # told apart in every common form of colour blindness, and in grey


def save(figure: Figure, path: Any) -> None:
    """Writes a PNG file, the same bytes for the same figure; `StorageError` where it cannot be written."""
    content = io.BytesIO()
    figure.savefig(content, dpi=140, metadata={"Software": None})
    write_bytes(path, content.getvalue())


class _PlainNumbers(LogFormatter):
    """0.01 where matplotlib has 1e-02, or a power of ten with a factor."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def entitle(figure: Figure, title: str, size: float = 11) -> None:
    """Puts a title above the figure, in as many lines as its width asks for: names of models and folders may be long."""
    most = int(figure.get_figwidth() * 72 / (0.62 * size))  # letters in a line; one is about 0.6 of its size wide
    figure.suptitle("\n".join(part for line in title.split("\n") for part in textwrap.wrap(line, most)), fontsize=size)


def tidy(axes: Axes) -> None:
    """A light grid behind everything, no frame, and plain numbers along logarithmic axes."""
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    for axis in (axes.xaxis, axes.yaxis):
        if isinstance(axis.get_major_formatter(), LogFormatterSciNotation):  # what a logarithmic axis has by default
            axis.set_major_formatter(_PlainNumbers())
            axis.set_minor_formatter(_PlainNumbers())  # says something only where the axis spans less than a decade


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
