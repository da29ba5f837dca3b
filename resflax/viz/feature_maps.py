"""What the stages of a network make of one image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from resflax.viz.style import entitle, show

SHOWN = 8


def plot_feature_maps(image: np.ndarray, stages: Mapping[str, np.ndarray], title: str) -> Figure:
    """The image, then a row a stage with its eight channels of greatest mean magnitude; one scale a row.

    Args:
      image: float[H, W, C] in 0..1, as the network sees it.
      stages: `{name: output float[H', W', C']}`, from input to output.
      title: of the figure.
    """
    figure = Figure(figsize=(1.5 + 1.12 * (SHOWN + 1), 0.5 + 1.3 * len(stages)), layout="constrained")
    entitle(figure, f"{title}\nthe most active channels; bright: large, in each row on a scale of its own")
    grid = figure.subplots(len(stages), SHOWN + 1, squeeze=False)
    for row, (name, output) in zip(grid, stages.items(), strict=True):
        for axes in row:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        channels = np.argsort(-np.abs(output).mean(axis=(0, 1)), kind="stable")[:SHOWN]
        low, high = np.percentile(output[..., channels], (1, 99))
        for axes, channel in zip(row[1:], channels, strict=False):
            axes.imshow(
                output[..., channel], cmap="viridis", vmin=min(low, 0.0), vmax=max(high, 1e-12), interpolation="nearest"
            )
            axes.set_title(f"channel {channel}", fontsize=7, color="0.4", pad=2)
        height, width, count = output.shape
        row[1].set_ylabel(f"{name}\n{height} x {width} x {count}", fontsize=8)
    show(grid[0, 0], image)
    return figure
