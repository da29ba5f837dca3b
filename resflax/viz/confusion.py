"""Which class is taken for which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure


def plot_confusion(confusion: np.ndarray, class_names: Sequence[str], title: str) -> Figure:
    """A matrix of counts int[K, K], rows true and columns predicted classes, shaded by the share of the row.

    Counts are written into the cells up to 20 classes.
    """
    count = len(class_names)
    side = min(12.0, max(4.5, 0.5 * count + 2))
    figure = Figure(figsize=(side, side * 0.9), layout="constrained")
    axes = figure.subplots()
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    axes.set_title(title, fontsize=11)
    axes.set(xlabel="predicted class", ylabel="true class")
    if count <= 40:
        longest = max(len(name) for name in class_names)
        axes.set_xticks(range(count), class_names, rotation=45 if longest > 3 else 0, ha="right" if longest > 3 else "center")
        axes.set_yticks(range(count), class_names)
    if count <= 20:
        for row in range(count):
            for column in range(count):
                if confusion[row, column]:
                    color = "white" if share[row, column] > 0.5 else "black"
                    axes.text(column, row, str(confusion[row, column]), ha="center", va="center", color=color, fontsize=8)
    return figure
