"""What a run's record says, and how several differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from resflax.viz.page.html import Element, details, element, table

Record = Mapping[str, Any]
_LONG = ("config", "first_losses")  # the one is shown apart, of the other there is the digest


def header(name: str, facts: Sequence[str], accuracy: float | None = None) -> Element:
    """The page's first lines; `accuracy` is a fraction, None where the run is not finished."""
    number = (
        None
        if accuracy is None
        else element("p", f"{100 * accuracy:.2f} %", element("span", " test accuracy"), class_="result")
    )
    return element("header", element("h1", name), number, element("p", ", ".join(facts)))


def configuration(changes: Sequence[tuple[str, Any, Any]], config: Mapping[str, Any]) -> Element:
    """What differs from the defaults, `(key, default, value)`, then the whole."""
    rows = [(key, _text(value), _text(default)) for key, default, value in changes]
    caption = "What differs from the defaults" if rows else "Nothing differs from the defaults"
    whole = [(key, _text(value)) for key, value in flat(config).items()]
    return element(
        "div",
        table(("key", "this run", "default"), rows, caption),
        details(f"All {len(whole)} keys", table(("key", "value"), whole, "The whole configuration")),
    )


def provenance(record: Record) -> Element:
    """All else that a record holds."""
    rest = {key: value for key, value in record.items() if key not in _LONG}
    return table(("field", "value"), [(key, _text(value)) for key, value in flat(rest).items()], "From result.json")


def comparison(names: Sequence[str], rows: Mapping[str, Sequence[Any]]) -> Element:
    """A row a run, a column each thing that differs: `{column: its values}`."""
    body = [[name, *(_text(values[index]) for values in rows.values())] for index, name in enumerate(names)]
    return table(("run", *rows), body, "What came out, and in which keys the configurations differ")


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"optim.name": "sgd", ...}` of nested dictionaries."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
