"""Line charts whose values are read at the cursor. They are drawn here; the page's script only moves the cursor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from resflax.viz.page.html import Child, Element, element

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 480, 276, 52, 10, 10, 46  # of the drawing and of its margins
COLORS = 8  # that page.css has
DRAWN = 1000  # points of a line; no screen has more to show


class Line(NamedTuple):
    """What was measured at some steps."""

    name: str
    steps: Sequence[int]
    values: Sequence[float]
    color: int  # 0, 1, ...
    dashed: bool = False


def chart(title: str, lines: Sequence[Line], logarithmic: bool = False) -> Element | None:
    """A figure with a legend that says the values at the cursor, at first the last ones; None where there is nothing to draw.

    Args:
      title: quantity and unit.
      lines: on a logarithmic axis, values that are not positive are left out.
      logarithmic: the axis of values; else it begins at 0.
    """
    lines = [thinned for line in lines if (thinned := _drawn(line, logarithmic)).steps]
    if not lines:
        return None
    last = max(line.steps[-1] for line in lines)
    highest = max(max(line.values) for line in lines)
    low, high, ticks = _scale(min(min(line.values) for line in lines), highest, logarithmic)

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / max(last, 1)

    def y(value: float) -> float:
        value, bottom, top = (math.log10(one) for one in (value, low, high)) if logarithmic else (value, low, high)
        return TOP + (HEIGHT - TOP - BOTTOM) * (top - value) / (top - bottom)

    drawing: list[Child] = []
    for tick in ticks:
        drawing.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=f"{y(tick):.1f}", y2=f"{y(tick):.1f}", class_="grid"))
        drawing.append(element("text", f"{tick:g}", x=LEFT - 6, y=f"{y(tick) + 4:.1f}", text_anchor="end"))
    for step in _round_numbers(0, last, 5):
        anchor = "end" if x(step) > WIDTH - 30 else "middle"
        drawing.append(element("text", f"{step:,.0f}", x=f"{x(step):.1f}", y=HEIGHT - BOTTOM + 20, text_anchor=anchor))
    drawing.append(element("text", "step", x=f"{x(last / 2):.1f}", y=HEIGHT - 6, text_anchor="middle"))
    drawing.append(element("line", x1=LEFT, x2=LEFT, y1=TOP, y2=HEIGHT - BOTTOM, class_="cursor", hidden=""))
    drawing += [
        _polyline(line, [(x(step), y(value)) for step, value in zip(line.steps, line.values, strict=True)]) for line in lines
    ]
    ends = "; ".join(f"{line.name} {_text(line.values[0])} to {_text(line.values[-1])}" for line in lines)
    label = f"{title} by step, from step {min(line.steps[0] for line in lines):,} to {last:,}: {ends}"
    shown = element("p", element("b", title), " at step ", element("output", f"{last:,}", class_="step"), class_="title")
    legend = [
        element(
            "li", element("span", class_=_style(line, "swatch")), f"{line.name} ", element("output", _text(line.values[-1]))
        )
        for line in lines
    ]
    svg = element("svg", *drawing, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)
    return element("figure", shown, svg, element("ul", *legend, class_="legend"), class_="chart", tabindex=0)


def _drawn(line: Line, logarithmic: bool) -> Line:
    """At most some `DRAWN` points of those that can be drawn, the last one among them."""
    points = [
        (step, value)
        for step, value in zip(line.steps, line.values, strict=True)
        if math.isfinite(value) and (value > 0 or not logarithmic)
    ]
    every = -(-len(points) // DRAWN) or 1
    kept = points[::-1][::every][::-1]
    return line._replace(steps=[step for step, _ in kept], values=[value for _, value in kept])


def _polyline(line: Line, points: list[tuple[float, float]]) -> Element:
    return element(
        "polyline",
        points=" ".join(f"{x:.1f},{y:.1f}" for x, y in (points if len(points) > 1 else 2 * points)),  # a dot is a line too
        class_=_style(line, "line" if len(points) > 1 else "line point"),
        data_steps=" ".join(map(str, line.steps)),
        data_values=" ".join(map(_text, line.values)),
    )


def _style(line: Line, kind: str) -> str:
    return f"{kind} color{line.color % COLORS}{' dashed' if line.dashed else ''}"


def _text(value: float) -> str:
    return f"{value:.4g}"


def _scale(low: float, high: float, logarithmic: bool) -> tuple[float, float, list[float]]:
    """The ends of an axis and what is written at it."""
    if not logarithmic:
        ticks = _round_numbers(0, high or 1.0, 5)
        low = min(low, 0.0)
        return low, max(ticks[-1], high or 1.0), ticks
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{factor}e{decade}") for decade in decades for factor in ((1,) if len(decades) > 3 else (1, 2, 5))]
    inside = [tick for tick in ticks if low <= tick <= high]
    if len(inside) < 2 and high > 1.01 * low:  # less than a decade: round numbers on both sides of all
        interval = _round_numbers(0, high - low, 4)[1]
        inside = [index * interval for index in range(int(low / interval), math.ceil(high / interval) + 1) if index]
    elif len(inside) < 2:  # all is nearly the same
        inside = [
            max((tick for tick in ticks if tick < low), default=low / 2),
            min((tick for tick in ticks if tick > high), default=2 * high),
        ]
    return min(low, inside[0]), max(high, inside[-1]) * (1 + 1e-9), inside


def _round_numbers(low: float, high: float, most: int) -> list[float]:
    """At most `most` intervals of 1, 2 or 5 times a power of ten."""
    rough = max(high - low, 1e-12) / most
    power = 10 ** math.floor(math.log10(rough))
    interval = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return [low + index * interval for index in range(int((high - low) / interval + 1e-9) + 1)]
