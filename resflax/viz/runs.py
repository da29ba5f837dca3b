"""Loss and error of several runs in one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resflax.viz.style import entitle, tidy


class Run(NamedTuple):
    """What a run has logged."""

    rows: Sequence[Mapping[str, float]]  # of `metrics.jsonl`, see `resflax.viz.curves`
    split: str  # the name its evaluation's scalars start with


def plot_runs(runs: Mapping[str, Run], title: str) -> Figure:
    """Two panels, loss and error in percent, a colour a run: thin dashed lines are training, bold lines evaluation."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    entitle(figure, title)
    left, right = figure.subplots(1, 2)
    few = len(runs) <= 10
    colors = colormaps["tab10"](range(10)) if few else colormaps["viridis"](np.linspace(0, 0.9, len(runs)))
    for (name, run), color in zip(runs.items(), colors, strict=False):
        for prefix, style, width in (("train", "--", 0.9), (run.split, "-", 2.0)):
            losses = [(row["step"], row[f"{prefix}_loss"]) for row in run.rows if f"{prefix}_loss" in row]
            errors = [(row["step"], 100 - 100 * row[f"{prefix}_accuracy"]) for row in run.rows if f"{prefix}_accuracy" in row]
            label = f"{name}  {errors[-1][1]:.2f} %" if prefix == run.split and errors else None
            for axes, points in ((left, losses), (right, errors)):
                if points:
                    steps, values = zip(*points, strict=True)
                    marker = "o" if len(points) == 1 else None
                    axes.plot(steps, values, style, color=color, linewidth=width, marker=marker, markersize=4, label=label)
    left.set(xlabel="step", ylabel="cross-entropy (nats)", yscale="log")
    right.set(xlabel="step", ylabel="error (%)", ylim=(0, None))
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
        tidy(axes)
    handles, labels = right.get_legend_handles_labels()
    if handles:
        longest = 6 + max(map(len, labels))  # letters, with the line before it; one is about 0.6 of its size wide
        columns = max(1, min(len(labels), 4, int(figure.get_figwidth() * 72 / (0.62 * 9 * longest))))
        figure.set_figheight(3.8 + 0.2 * -(-len(labels) // columns))
        figure.legend(
            handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9,
            title="evaluation error, last step (dashed: training, a running mean)", title_fontsize=8,
        )  # fmt: skip
    return figure
