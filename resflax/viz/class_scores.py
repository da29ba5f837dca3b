"""Precision, recall and F1 of each class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from resflax.viz.style import BLUE, ORANGE, entitle, shorten, tidy

SHOWN = 30


def plot_class_scores(
    precision: np.ndarray, recall: np.ndarray, f1: np.ndarray, support: np.ndarray, class_names: Sequence[str], title: str
) -> Figure:
    """A row a class, the lowest F1 on top; of more than 30 classes, the 30 of lowest F1.

    Args:
      precision, recall, f1: float[K], fractions.
      support: int[K], examples of each class, written beside its name.
      class_names: of the K classes.
      title: of the figure.
    """
    order = np.argsort(f1, kind="stable")[:SHOWN]
    figure = Figure(figsize=(7.5, 1.6 + 0.26 * len(order)), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(order))
    axes.hlines(rows, np.minimum(precision, recall)[order], np.maximum(precision, recall)[order], color="0.8", linewidth=2)
    axes.plot(precision[order], rows, "o", color=BLUE, label="precision", markersize=8)
    axes.plot(recall[order], rows, "s", color=ORANGE, label="recall", markersize=5)
    axes.plot(f1[order], rows, "|", color="black", label="F1", markersize=11, markeredgewidth=1.8)
    axes.set_yticks(rows, [f"{shorten(class_names[index], 24)}  ({support[index]})" for index in order], fontsize=9)
    axes.invert_yaxis()
    lowest = min(precision[order].min(), recall[order].min())
    left = max(0.0, np.floor(10 * lowest - 0.5) / 10)
    axes.set(xlabel="fraction", ylabel="class (examples)", xlim=(left, 1 + 0.03 * (1 - left)))
    which = f"the {SHOWN} of {len(f1)} classes with the lowest F1\n" if len(f1) > SHOWN else ""
    means = f"precision {precision.mean():.3f}, recall {recall.mean():.3f}, F1 {f1.mean():.3f}"
    entitle(figure, f"{title}\n{which}mean over all classes: {means}", 10)
    axes.margins(y=0.6 / len(order))
    tidy(axes)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure
