"""Images beside what in them speaks for a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from resflax.viz.style import entitle, overlay, shorten, show


class Explained(NamedTuple):
    """One image, and what speaks for its predicted class."""

    image: np.ndarray  # float[H, W, C] in 0..1, as the network sees it
    heat: np.ndarray  # float[H, W] >= 0: Grad-CAM
    pixels: np.ndarray  # float[H, W]: integrated gradients summed over the channels, in logits
    caption: str
    gap: float  # of the integrated gradients, a fraction


def plot_attributions(examples: Sequence[Explained], title: str) -> Figure:
    """A column an example: the image, Grad-CAM laid on it, integrated gradients (red speaks for the class, blue against)."""
    figure = Figure(figsize=(max(5.0, 1.2 + 1.55 * len(examples)), 5.6), layout="constrained")
    entitle(figure, title)
    grid = figure.subplots(3, len(examples), squeeze=False)
    for column, one in zip(grid.T, examples, strict=True):
        show(column[0], one.image)
        show(column[1], overlay(one.image, one.heat))
        largest = np.percentile(np.abs(one.pixels), 99.5) or 1.0
        column[2].imshow(one.pixels, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
        column[2].set(xticks=[], yticks=[])
        column[2].spines[:].set_visible(False)
        column[0].set_title(one.caption, fontsize=8)
        column[2].set_xlabel(f"sum off by {100 * one.gap:.1f} %", fontsize=7, color="0.4")
    names = ("image", "Grad-CAM\nred: most", "integrated gradients\nred: for, blue: against")
    for axes, name in zip(grid[:, 0], names, strict=True):
        axes.set_ylabel(name, fontsize=8)
    return figure


def plot_overlay(image: np.ndarray, heat: np.ndarray, caption: str) -> Figure:
    """One image, float[H, W, C] in 0..1, and beside it the same under Grad-CAM, float[H, W]."""
    height, width = heat.shape
    figure = Figure(figsize=(5.6, 2.8 * height / width + 0.45), layout="constrained")
    entitle(figure, shorten(caption, 60), 10)
    left, right = figure.subplots(1, 2)
    show(left, image)
    show(right, overlay(image, heat))
    right.set_xlabel("Grad-CAM, red: most", fontsize=7, color="0.4")
    return figure
