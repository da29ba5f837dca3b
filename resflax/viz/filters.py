"""What a network's first convolution looks for."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resflax.viz.style import entitle

SHOWN = 64


def plot_filters(kernel: np.ndarray, title: str) -> Figure:
    """The filters of float[h, w, C, F] as small pictures, the largest norm first; of more than 64 filters, 64.

    With three channels a weight is a colour, grey being zero; with another number of channels each filter is their sum, blue
    below and red above zero. All filters have one scale.
    """
    height, width, channels, count = kernel.shape
    order = np.argsort(-np.sqrt((kernel**2).sum(axis=(0, 1, 2))), kind="stable")[:SHOWN]
    columns = min(8 if len(order) <= 32 else 16, len(order))
    rows = -(-len(order) // columns)
    size = (max(5.0, 0.7 * columns + 0.4), 0.72 * rows + (1.2 if channels != 3 else 0.5))
    figure = Figure(figsize=size, layout="constrained")
    which = f", {len(order)} of {count} filters by their norm" if count > SHOWN else f", {count} filters by their norm"
    entitle(figure, f"{title}: {height} x {width}{which}{'; grey: zero' if channels == 3 else ''}", 10)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    values = kernel if channels == 3 else kernel.sum(axis=2)
    largest = np.abs(values).max() or 1.0
    for axes in grid:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes, index in zip(grid, order, strict=False):
        if channels == 3:
            axes.imshow(0.5 + values[..., index] / (2 * largest), vmin=0, vmax=1, interpolation="nearest")
        else:
            image = axes.imshow(values[..., index], cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
    if channels != 3:
        scale = figure.colorbar(image, ax=list(grid), label="weight", orientation="horizontal", aspect=40, shrink=0.6)
        scale.locator = MaxNLocator(5)
    return figure
