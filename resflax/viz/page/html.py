"""HTML as a tree of elements: whatever text is put into it is escaped when the tree is written."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

Element = ElementTree.Element
Child = Element | str | None
_FOLDER = Path(__file__).parent


def element(name: str, /, *children: Child, **attributes: object) -> Element:
    """`element("td", "3", class_="number")`; an attribute `None` or a child `None` is left out, `_` in a name becomes `-`."""
    pairs = {key.rstrip("_").replace("_", "-"): str(value) for key, value in attributes.items() if value is not None}
    made = Element(name, pairs)
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif child is not None and len(made):
            made[-1].tail = (made[-1].tail or "") + child
        elif child is not None:
            made.text = (made.text or "") + child
    return made


def section(identifier: str, title: str, *children: Child) -> Element:
    """A part of the page that its navigation leads to."""
    return element("section", element("h2", title), *children, id=identifier)


def table(header: Sequence[str], rows: Iterable[Sequence[Child]], caption: str | None = None) -> Element:
    """Its first column names the rows; what does not fit the screen is scrolled."""
    head = element("tr", *(element("th", name, scope="col") for name in header))
    body = [element("tr", element("th", first, scope="row"), *(element("td", cell) for cell in rest)) for first, *rest in rows]
    parts = [element("caption", caption)] if caption else []
    made = element("table", *parts, element("thead", head), element("tbody", *body))
    return element("div", made, class_="scroll", role="region", aria_label=caption or header[0], tabindex=0)


def details(summary: str, *children: Child) -> Element:
    """What is shown on demand."""
    return element("details", element("summary", summary), *children)


def notice(text: str) -> Element:
    """What a reader must know before the numbers."""
    return element("p", text, class_="notice")


def document(title: str, header: Element, sections: Sequence[Element], footer: str) -> bytes:
    """The page. Its own policy forbids browsers to load anything, or to run any script but ours."""
    style, script = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", style),
    )
    links = [element("li", element("a", one[0].text, href=f"#{one.get('id')}")) for one in sections if one.get("id")]
    navigation = element("nav", element("ul", *links), aria_label="sections")
    body = element("body", header, navigation, element("main", *sections), element("footer", footer), element("script", script))
    root = element("html", head, body, lang="en")
    text = ElementTree.tostring(root, encoding="unicode", method="html")
    # Names of files need not be Unicode; what of them is not becomes a sign that says so.
    return f"<!DOCTYPE html>\n{text}\n".encode("utf-8", "replace")


def picture(pixels: np.ndarray, alt: str, longest: int, title: str | None = None) -> Element:
    """An image in the page itself: small ones pixel for pixel, others shrunk to `longest` pixels a side.

    Args:
      pixels: float[H, W, C] in 0..1, one channel or three.
      alt: what it shows, in words.
      longest: pixels of the longer side that are enough.
      title: shown where the mouse rests on it.
    """
    levels = np.round(255 * pixels).astype(np.uint8)
    image = Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)
    small = max(image.size) <= 32
    image.thumbnail((longest, longest))
    content = io.BytesIO()
    image.save(content, "PNG" if small else "JPEG", quality=85, optimize=True)
    source = f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(content.getvalue()).decode()}"
    return element(
        "img", src=source, alt=alt, title=title, width=image.width, height=image.height, class_="small" if small else None
    )
