"""Whether a network is right as often as it says."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from resflax.viz.style import BLUE, ORANGE, tidy


def plot_reliability(
    edges: np.ndarray, counts: np.ndarray, confidence: np.ndarray, accuracy: np.ndarray, expected_error: float, title: str
) -> Figure:
    """The reliability diagram of Guo et al. 2017, Fig. 1, above the number of examples in each bin.

    Args:
      edges: float[M + 1], of the bins of confidence.
      counts: int[M], examples in each bin.
      confidence, accuracy: float[M], their means; NaN in an empty bin.
      expected_error: the expected calibration error, a fraction.
      title: of the figure.
    """
    figure = Figure(figsize=(5, 5.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    middles, width = (edges[:-1] + edges[1:]) / 2, edges[1] - edges[0]
    filled = counts > 0
    above.bar(middles[filled], accuracy[filled], 0.92 * width, color=BLUE, label="accuracy")
    low, high = np.minimum(accuracy, confidence)[filled], np.maximum(accuracy, confidence)[filled]
    above.bar(
        middles[filled], high - low, 0.92 * width, bottom=low, facecolor="none", edgecolor=ORANGE, hatch="////",
        linewidth=1.2, label="gap to confidence",
    )  # fmt: skip
    above.plot([0, 1], [0, 1], "--", color="0.35", linewidth=1, label="as sure as right")
    above.set(ylabel="accuracy (fraction)", xlim=(0, 1), ylim=(0, 1.02))
    above.set_title(f"{title}\nexpected calibration error {100 * expected_error:.2f} % ({len(counts)} bins)", fontsize=10)
    above.legend(frameon=False, fontsize=9, loc="upper left")
    below.bar(middles[filled], counts[filled], 0.92 * width, color="0.6")
    below.set(xlabel="confidence: probability of the predicted class", ylabel="examples", yscale="log", ylim=(0.5, None))
    tidy(above)
    tidy(below)
    return figure
