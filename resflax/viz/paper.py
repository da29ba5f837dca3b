"""The figures of a paper's table: error against iterations, as Fig. 6 of He et al. 2015, and error against depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from resflax.viz.style import BLUE, ORANGE, entitle, tidy

FAMILIES = {"plain": ORANGE, "resnet": BLUE}


@dataclass(frozen=True)
class Curve:
    """A row's error over its steps, the mean over its seeds, in percent."""

    family: str  # `plain` or `resnet`
    depth: int
    train_steps: Sequence[float]
    train_errors: Sequence[float]  # a running mean with augmentation
    test_steps: Sequence[float]
    test_errors: Sequence[float]


def plot_error_by_step(curves: Sequence[Curve], title: str) -> Figure:
    """A panel a family: thin dashed lines are training errors, bold lines test errors."""
    families = [family for family in FAMILIES if any(curve.family == family for curve in curves)]
    figure = Figure(figsize=(4.6 * len(families), 3.8), layout="constrained")
    entitle(figure, title)
    panels = figure.subplots(1, len(families), sharey=True, squeeze=False)[0]
    depths = sorted({curve.depth for curve in curves})
    colors = dict(zip(depths, colormaps["viridis"](np.linspace(0.2, 0.85, len(depths))), strict=True))
    for axes, family in zip(panels, families, strict=True):
        for curve in sorted((one for one in curves if one.family == family), key=lambda one: one.depth):
            color = colors[curve.depth]
            axes.plot(curve.train_steps, curve.train_errors, "--", color=color, linewidth=0.9)
            label = f"{family}-{curve.depth}  {curve.test_errors[-1]:.1f} %"
            marker = "o" if len(curve.test_steps) == 1 else None
            axes.plot(curve.test_steps, curve.test_errors, color=color, linewidth=2.2, marker=marker, label=label)
        axes.set(xlabel="step", title=f"{family} (dashed: training)", ylim=(0, None))
        axes.title.set_fontsize(10)
        tidy(axes)
        axes.legend(frameon=False, fontsize=9, title="test error, last step", title_fontsize=8)
    panels[0].set(ylabel="error (%)")
    return figure


def plot_error_by_depth(errors: Mapping[tuple[str, int], Sequence[float]], title: str) -> Figure:
    """Test error at the last step against depth: a point a seed, a line through the means.

    Args:
      errors: `{(family, depth): errors in percent, one a seed}`.
      title: of the figure.
    """
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=11)
    for family, color in FAMILIES.items():
        depths = sorted(depth for name, depth in errors if name == family)
        if not depths:
            continue
        axes.plot(depths, [np.mean(errors[family, depth]) for depth in depths], color=color, marker="_", label=family)
        for depth in depths:
            axes.plot([depth] * len(errors[family, depth]), errors[family, depth], "o", color=color, alpha=0.45, markersize=4)
    every = sorted({depth for _, depth in errors})
    axes.set(xlabel="layers", ylabel="test error (%)", xscale="log", ylim=(0, None))
    axes.set_xticks(every, [str(depth) for depth in every])
    axes.minorticks_off()
    tidy(axes)
    axes.legend(frameon=False, fontsize=9)
    return figure


def plot_gradient_by_layer(norms: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> Figure:
    """Gradient norms of the convolutions from input to output, a panel a moment.

    Args:
      norms: `{moment: {network: norm of each convolution}}`.
      title: of the figure.
    """
    figure = Figure(figsize=(4.6 * len(norms), 3.6), layout="constrained")
    entitle(figure, title)
    panels = figure.subplots(1, len(norms), sharey=True, squeeze=False)[0]
    for axes, (moment, networks) in zip(panels, norms.items(), strict=True):
        for family, color in FAMILIES.items():
            mine = {name: values for name, values in networks.items() if name.startswith(family)}
            label = f"{family}: {', '.join(name.removeprefix(f'{family}-') for name in mine)} layers"
            for values in mine.values():
                axes.plot(np.arange(1, len(values) + 1), values, color=color, linewidth=1.4, label=label)
                label = "_"  # one entry a family: a line ends where its network does
        axes.set(xlabel="convolution, from the input", yscale="log", title=moment)
        axes.title.set_fontsize(10)
        tidy(axes)
    panels[0].set(ylabel="gradient norm (nats per unit of weight)")
    panels[0].legend(frameon=False, fontsize=9)
    return figure
