"""How much of the loss's gradient reaches each layer of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resflax.viz.style import tidy


def plot_gradients(norms: Mapping[str, Sequence[float]], title: str) -> Figure:
    """A line a moment, from the first convolution to the last.

    Args:
      norms: `{step: Euclidean norm of the gradient with respect to each convolution's kernel}`, by growing step.
      title: of the figure.
    """
    figure = Figure(figsize=(6.5, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=11)
    colors = colormaps["viridis"](np.linspace(0.0, 0.85, len(norms)))
    for (step, values), color in zip(norms.items(), colors, strict=True):
        depth = np.arange(1, len(values) + 1)
        axes.plot(depth, values, color=color, linewidth=1.6, marker="o", markersize=3, label=f"step {int(step):,}")
    axes.set(xlabel="convolution, from the input", ylabel="gradient norm (nats per unit of weight)", yscale="log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(axes)
    axes.legend(frameon=False, fontsize=9)
    return figure
