"""The configuration as JSON, and back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from resflax.config.fields import field_types, unknown_key
from resflax.config.schema import Config
from resflax.errors import ConfigError


def to_dict(config: Config) -> dict[str, Any]:
    """Nested dictionaries of JSON values; tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: dict[str, Any]) -> Config:
    """The inverse of `to_dict`; keys that this version does not know are a `ConfigError`."""
    return _section(Config, values, "")


def _section(section: type, values: Any, prefix: str) -> Any:
    if not isinstance(values, dict):
        name = f"config.{prefix}".rstrip(".")
        raise ConfigError(f"{name} must be a section of keys, got {values!r}; write it as a JSON object")
    hints = field_types(section)
    fields = {}
    for name, value in values.items():
        if name not in hints:
            raise unknown_key(prefix + name)
        if dataclasses.is_dataclass(hints[name]):
            value = _section(hints[name], value, f"{prefix}{name}.")
        fields[name] = tuple(value) if isinstance(value, list) else value
    return section(**fields)


def config_hash(config: Config) -> str:
    """Twelve hexadecimal digits that two runs share if and only if their configurations are equal.

    Fields that were added to the schema since the first records enter only where they differ from their default, so that a
    configuration keeps its hash when the schema grows.
    """
    values = _canonical(_without_added(config, to_dict(config)))
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _without_added(section: Any, values: dict[str, Any]) -> dict[str, Any]:
    """`values` of a section but for its `ADDED` fields that have their defaults."""
    kept = {}
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        added = field.metadata.get("added")
        if dataclasses.is_dataclass(value):
            section_kept = _without_added(value, values[field.name])
            if section_kept or not added:
                kept[field.name] = section_kept
        elif not (added and value == field.default):
            kept[field.name] = values[field.name]
    return kept


def _canonical(value: Any) -> Any:
    """Equal numbers become the same text: a file's `total_epochs=5` is the command line's 5.0."""
    if isinstance(value, dict):
        return {name: _canonical(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def changed_keys(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """`["config.optim.learning_rate: 0.1 -> 0.2", ...]` between two `to_dict` results; an absent key has its default."""
    return [f"config.{key}: {before} -> {after}" for key, before, after in changes(one, other)]


def changes(one: dict[str, Any], other: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """`[("optim.learning_rate", 0.1, 0.2), ...]`, see `changed_keys`."""
    defaults = to_dict(Config())
    return _changes(_completed(defaults, one), _completed(defaults, other), "")


def _completed(defaults: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """`values`, which an older version may have written, with the defaults of what they lack."""
    both = {**defaults, **values}
    nested = (name for name in defaults if isinstance(defaults[name], dict) and isinstance(both[name], dict))
    return {**both, **{name: _completed(defaults[name], both[name]) for name in nested}}


def _changes(one: dict[str, Any], other: dict[str, Any], prefix: str) -> list[tuple[str, Any, Any]]:
    found = []
    for name in sorted(one.keys() | other.keys()):
        before, after = one.get(name), other.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _changes(before, after, f"{prefix}{name}.")
        elif before != after:
            found.append((f"{prefix}{name}", before, after))
    return found
