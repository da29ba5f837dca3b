"""Scores of each class, and of a network's confidence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resflax.viz.page.html import Child, Element, element, table


def class_table(
    precision: np.ndarray, recall: np.ndarray, f1: np.ndarray, support: np.ndarray, class_names: Sequence[str]
) -> Element:
    """A row a class, the lowest F1 on top; all arrays are [K], fractions and counts."""
    order = np.argsort(f1, kind="stable")
    rows: list[Sequence[Child]] = [
        (class_names[index], *(_bar(score[index]) for score in (precision, recall, f1)), f"{support[index]:,}")
        for index in order
    ]
    rows.append(("mean over classes", *(f"{score.mean():.4f}" for score in (precision, recall, f1)), f"{support.sum():,}"))
    return table(("class", "precision", "recall", "F1", "images"), rows, "Scores of each class, the lowest F1 first")


def _bar(share: float) -> Element:
    return element("span", f"{share:.4f}", class_="bar", style=f"--share:{share:.4f}")


def reliability(
    edges: np.ndarray, counts: np.ndarray, confidence: np.ndarray, accuracy: np.ndarray, expected_error: float
) -> Element:
    """The reliability diagram of Guo et al. 2017, Fig. 1, and its numbers; arguments as in `resflax.viz.reliability`."""
    side, margin = 280, 54

    def x(share: float) -> str:
        return f"{margin + side * share:.1f}"

    def y(share: float) -> str:
        return f"{10 + side * (1 - share):.1f}"

    drawing: list[Child] = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        drawing.append(element("line", x1=x(0), x2=x(1), y1=y(tick), y2=y(tick), class_="grid"))
        drawing.append(element("text", f"{tick:g}", x=margin - 6, y=float(y(tick)) + 4, text_anchor="end"))
        drawing.append(element("text", f"{tick:g}", x=x(tick), y=side + 28, text_anchor="middle"))
    filled = [index for index in range(len(counts)) if counts[index]]
    for index in filled:
        left, width = edges[index], edges[index + 1] - edges[index]
        means = f"confidence {confidence[index]:.4f}, accuracy {accuracy[index]:.4f}"
        says = f"{_range(edges, index)}: {counts[index]:,} images, {means}"
        bar = {"x": x(left + 0.05 * width), "width": f"{0.9 * width * side:.1f}"}
        low, high = sorted((accuracy[index], confidence[index]))
        drawing += [
            element(
                "rect",
                element("title", says),
                **bar,
                y=y(accuracy[index]),
                height=f"{accuracy[index] * side:.1f}",
                class_="share",
            ),
            element("rect", element("title", says), **bar, y=y(high), height=f"{(high - low) * side:.1f}", class_="gap"),
        ]
    drawing.append(element("line", x1=x(0), y1=y(0), x2=x(1), y2=y(1), class_="diagonal"))
    drawing.append(element("text", "confidence", x=x(0.5), y=side + 48, text_anchor="middle"))
    upright = f"rotate(-90 14 {y(0.5)})"
    drawing.append(element("text", "accuracy", x=14, y=y(0.5), text_anchor="middle", transform=upright))
    title = f"Expected calibration error {100 * expected_error:.2f} % ({len(counts)} bins)"
    drawn = element(
        "svg",
        *drawing,
        viewBox=f"0 0 {margin + side + 15} {side + 55}",
        role="img",
        aria_label=f"Accuracy by confidence. {title}",
    )
    rows = [
        (_range(edges, index), f"{counts[index]:,}", f"{confidence[index]:.4f}", f"{accuracy[index]:.4f}") for index in filled
    ]
    note = "Blue: the share that is right, by the probability of the predicted class; orange: its gap to that probability."
    return element(
        "div",
        element(
            "figure", element("p", element("b", title), class_="title"), drawn, element("figcaption", note), class_="square"
        ),
        table(("confidence", "images", "mean confidence", "accuracy"), rows, "Bins that are not empty"),
        class_="columns",
    )


def _range(edges: np.ndarray, index: int) -> str:
    return f"{edges[index]:.3f} to {edges[index + 1]:.3f}"
