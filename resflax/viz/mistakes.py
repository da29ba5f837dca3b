"""The examples a network is most wrong about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from resflax.viz.style import ORANGE, entitle, overlay, shorten, shorten_path, show

COLUMNS = 4


class Mistake(NamedTuple):
    """One example, and what was said of it."""

    image: np.ndarray  # float[H, W, C] in 0..1, as the network sees it
    heat: np.ndarray  # float[H, W] >= 0: Grad-CAM of the predicted class
    name: str  # of the example
    label: str
    prediction: str
    probability: float  # of the prediction


def plot_mistakes(mistakes: Sequence[Mistake], title: str) -> Figure:
    """A grid, four in a row: each image with, beside it, where the network sees what it took it for."""
    rows = -(-len(mistakes) // COLUMNS)
    figure = Figure(figsize=(12, 0.5 + 2.0 * rows), layout="constrained")
    entitle(figure, f"{title} (red: most)")
    cells = figure.subfigures(rows, COLUMNS, squeeze=False, wspace=0.03).ravel()
    for cell, one in zip(cells, mistakes, strict=False):
        left, right = cell.subplots(1, 2, gridspec_kw={"wspace": 0.02})
        left.set_anchor("N"), right.set_anchor("N")
        show(left, one.image)
        show(right, overlay(one.image, one.heat))
        wrong = one.label != one.prediction
        verb = "taken for" if wrong else "known as"
        text = f"{shorten(one.label)}\n{verb} {shorten(one.prediction)}, {100 * one.probability:.0f} %"
        cell.suptitle(text, fontsize=9, color=ORANGE if wrong else "black")
        left.set_xlabel(shorten_path(one.name), fontsize=7, color="0.45")
    return figure
