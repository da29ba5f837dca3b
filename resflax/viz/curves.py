"""Loss and accuracy over the steps of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resflax.viz.style import BLUE, ORANGE, entitle, tidy


def plot_curves(rows: Sequence[Mapping[str, float]], split: str, title: str) -> Figure:
    """Two panels, loss and error in percent, of the rows of `metrics.jsonl`.

    Args:
      rows: each with `step` and some of `train_loss`, `train_accuracy`, `{split}_loss`, `{split}_accuracy`.
      split: the name the evaluation's scalars start with.
      title: of the figure.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    entitle(figure, title)
    left, right = figure.subplots(1, 2)
    for name, color, label in (("train", BLUE, "training (running mean)"), (split, ORANGE, split)):
        losses = [(row["step"], row[f"{name}_loss"]) for row in rows if f"{name}_loss" in row]
        errors = [(row["step"], 100 - 100 * row[f"{name}_accuracy"]) for row in rows if f"{name}_accuracy" in row]
        for axes, points in ((left, losses), (right, errors)):
            if points:
                steps, values = zip(*points, strict=True)
                text = f"{label}, at the end {values[-1]:.2f} %" if name == split else label  # the legend is that of the errors
                marker = "o" if len(points) == 1 else None
                axes.plot(steps, values, color=color, label=text, linewidth=1.6, marker=marker)
    left.set(xlabel="step", ylabel="cross-entropy (nats)", yscale="log")
    right.set(xlabel="step", ylabel="error (%)", ylim=(0, None))
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
        tidy(axes)
    if right.lines:
        right.legend(frameon=False, fontsize=9)
    return figure
