"""The examples a network is most wrong about."""

from __future__ import annotations

from collections.abc import Sequence

from resflax.viz.mistakes import Mistake
from resflax.viz.page.html import Element, element, picture
from resflax.viz.style import overlay

LONGEST = 160  # pixels


def mistakes(found: Sequence[Mistake]) -> Element:
    """Each image beside the same under Grad-CAM of the class it is taken for."""
    return element("div", *map(_mistake, found), class_="mistakes")


def _mistake(one: Mistake) -> Element:
    said = f"{one.label} taken for {one.prediction}"
    probability = f"{100 * one.probability:.0f} %"
    return element(
        "figure",
        picture(one.image, f"{said}, {probability}", LONGEST),
        picture(overlay(one.image, one.heat), f"Where the network sees {one.prediction}", LONGEST),
        element(
            "figcaption",
            element("b", one.label),
            f" taken for {one.prediction}, {probability}",
            element("br"),
            element("small", one.name),
        ),
    )
