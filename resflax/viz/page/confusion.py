"""Which class is taken for which; each cell of the matrix leads to its images, by links alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from resflax.viz.page.html import Child, Element, element, table
from resflax.viz.style import shorten

NAMED, PAIRS = 40, 40  # classes up to which there is a matrix; pairs that are listed of more classes

Cell = tuple[int, int]  # label, prediction


class Images(NamedTuple):
    """Those of one cell that are shown."""

    pictures: Sequence[Element]
    total: int  # of the cell's examples, shown or not


def cells(confusion: np.ndarray) -> list[Cell]:
    """Those of a matrix of counts int[K, K] that a reader can open: all that are not empty, or the most frequent mistakes."""
    if len(confusion) <= NAMED:
        return [(int(row), int(column)) for row, column in np.argwhere(confusion)]
    wrong = confusion * (1 - np.eye(len(confusion), dtype=confusion.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    return [(int(row), int(column)) for row, column in np.argwhere(wrong >= 0)[order] if wrong[row, column]]


def matrix(confusion: np.ndarray, class_names: Sequence[str]) -> Element:
    """A grid of links, or a list of pairs; blue is the share of a class that is right, orange what is wrong, both by row."""
    if len(class_names) > NAMED:
        rows = [
            (class_names[row], class_names[column], _link((row, column), str(confusion[row, column]), class_names))
            for row, column in cells(confusion)
        ]
        return table(("true class", "taken for", "images"), rows, f"The {len(rows)} most frequent confusions")
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    head = element("tr", element("td"), *(_name(name, "col") for name in class_names))
    body = []
    for row, name in enumerate(class_names):
        columns = range(len(class_names))
        body.append(
            element("tr", _name(name, "row"), *(_cell(confusion, share, (row, column), class_names) for column in columns))
        )
    grid = element(
        "table",
        element("caption", "Rows are true classes, columns what they are taken for. Choose a cell to see its images."),
        element("thead", head),
        element("tbody", *body),
        class_="matrix long" if max(map(len, class_names)) > 3 else "matrix",
    )
    return element("div", grid, class_="scroll", role="region", aria_label="confusion matrix", tabindex=0)


def _name(name: str, scope: str) -> Element:
    return element("th", element("span", shorten(name)), scope=scope, title=name)


def _cell(confusion: np.ndarray, share: np.ndarray, cell: Cell, class_names: Sequence[str]) -> Element:
    if not confusion[cell]:
        return element("td")
    right = cell[0] == cell[1]
    depth = share[cell] if right else share[cell] ** 0.5  # few mistakes can be seen too
    style = ("right" if right else "wrong") + (" deep" if depth > 0.6 else "")
    return element("td", _link(cell, str(confusion[cell]), class_names), class_=style, style=f"--share:{depth:.2f}")


def _link(cell: Cell, text: str, class_names: Sequence[str]) -> Element:
    return element("a", text, href=f"#{_identifier(cell)}", aria_label=f"{said(cell, class_names)}: {text}")


def said(cell: Cell, class_names: Sequence[str]) -> str:
    """`"3 taken for 8"`, or `"3 known as 3"`."""
    label, prediction = cell
    return f"{class_names[label]} {'known as' if label == prediction else 'taken for'} {class_names[prediction]}"


def _identifier(cell: Cell) -> str:
    return "cell-{}-{}".format(*cell)


def galleries(found: Mapping[Cell, Images], class_names: Sequence[str]) -> Element:
    """The images of each cell, of which a browser shows those that the page's address names."""
    made: list[Child] = []
    for cell, (pictures, total) in found.items():
        which = "" if len(pictures) == total else f", {len(pictures)} shown, the greatest loss first"
        heading = element("h3", f"{said(cell, class_names)} ({total:,} image{'s' if total > 1 else ''}{which})")
        close = element("a", "close", href="#confusion")
        made.append(
            element(
                "section", heading, element("div", *pictures, class_="pictures"), close, id=_identifier(cell), class_="cell"
            )
        )
    return element("div", *made, class_="galleries")
