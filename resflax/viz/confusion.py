"""Which class is taken for which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resflax.viz.style import BLUE, entitle, shorten, tidy

NAMED, COUNTED, PAIRS = 40, 20, 20  # classes up to which they are named, and counts written; pairs shown of more classes


def plot_confusion(confusion: np.ndarray, class_names: Sequence[str], title: str) -> Figure:
    """A matrix of counts int[K, K], rows true and columns predicted classes, shaded by the share of the row.

    Counts are written into the cells up to 20 classes. Beyond 40, where there is no room for names, the 20 most frequent
    confusions are listed beside it.
    """
    count = len(class_names)
    many = count > NAMED
    side = 8.0 if many else min(12.0, max(4.5, 0.5 * count + 2))
    figure = Figure(figsize=(13 if many else side, side * 0.9), layout="constrained")
    entitle(figure, title)
    axes, *beside = figure.subplots(1, 2 if many else 1, width_ratios=(2, 1) if many else None, squeeze=False)[0]
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    # Beyond 40 classes a cell is a few pixels, and what is off the diagonal would not be seen by its share alone.
    image = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5 if many else 1.0, 0, 1), interpolation="nearest")
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    axes.set(xlabel="predicted class", ylabel="true class")
    if not many:
        names = [shorten(name, 30) for name in class_names]
        longest = max(map(len, names))
        axes.set_xticks(range(count), names, rotation=45 if longest > 3 else 0, ha="right" if longest > 3 else "center")
        axes.set_yticks(range(count), names)
    if count <= COUNTED:
        for row in range(count):
            for column in range(count):
                if confusion[row, column]:
                    color = "white" if share[row, column] > 0.5 else "black"
                    axes.text(column, row, str(confusion[row, column]), ha="center", va="center", color=color, fontsize=8)
    if beside:
        _list_pairs(beside[0], confusion, class_names)
    return figure


def _list_pairs(axes: Axes, confusion: np.ndarray, class_names: Sequence[str]) -> None:
    """The most frequent confusions as bars."""
    wrong = confusion * (1 - np.eye(len(confusion), dtype=confusion.dtype))
    rows, columns = np.unravel_index(np.argsort(-wrong, axis=None, kind="stable")[:PAIRS], wrong.shape)
    names = [f"{shorten(class_names[row])} → {shorten(class_names[column])}" for row, column in zip(rows, columns, strict=True)]
    axes.barh(range(len(names)), wrong[rows, columns], color=BLUE)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set_title(f"the {len(names)} most frequent confusions", fontsize=10)
    axes.set(xlabel="examples (true class → predicted class)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(axes)
