"""Walks the configuration's dataclasses: dotted keys, their types, and the two checks every value passes."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from collections.abc import Hashable, Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from resflax.config.schema import Config, Range
from resflax.errors import ConfigError, nearest

# What people type for a field that is called something else here.
ALIASES = {
    "lr": "optim.learning_rate",
    "wd": "optim.weight_decay",
    "bs": "data.batch_size",
    "epochs": "total_epochs",
    "num_epochs": "total_epochs",
    "steps": "total_steps",
    "dataset": "data.name",
    "optimizer": "optim.name",
    "dtype": "precision.compute",
    "model": "model.name",
    "ema": "ema.decay",
}


@functools.cache
def field_types(section: Hashable) -> dict[str, Any]:
    """`{field name: type}` of a configuration class, with `Annotated` ranges kept."""
    return get_type_hints(section, include_extras=True)


@functools.cache
def all_keys() -> dict[str, Any]:
    """`{"optim.learning_rate": type, ...}` of every leaf of `Config`."""

    def walk(section: type, prefix: str) -> Iterator[tuple[str, Any]]:
        for name, hint in field_types(section).items():
            if dataclasses.is_dataclass(hint) and isinstance(hint, type):
                yield from walk(hint, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", hint

    return dict(walk(Config, ""))


def unknown_key(key: str, also: tuple[str, ...] = ()) -> ConfigError:
    """The error for a key that does not exist, with the three nearest that do."""
    valid = [*all_keys(), *also]
    last = key.rsplit(".", 1)[-1]
    suggestions = [ALIASES[last]] if last in ALIASES else []
    # A misplaced name (`batch_size` for `data.batch_size`) is close by its last part, a misspelt one as a whole.
    by_last = nearest(last, {name.rsplit(".", 1)[-1] for name in valid}, 1)
    suggestions += [name for name in nearest(key, valid, 2) if name not in suggestions]
    suggestions += [name for name in valid if name.rsplit(".", 1)[-1] in by_last and name not in suggestions]
    named = ", ".join(f"config.{name}" for name in suggestions[:3])
    return ConfigError(f"config.{key} is not a configuration key; did you mean {named}?")


def describe(hint: Any) -> str:
    """A type as an error message names it."""
    if get_origin(hint) is Annotated:
        base, *extras = get_args(hint)
        return " ".join([describe(base), *(str(extra) for extra in extras)])
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(describe(option) for option in get_args(hint))
    if get_origin(hint) is tuple:
        return f"a tuple of {describe(get_args(hint)[0])}"
    return "none" if hint is types.NoneType else getattr(hint, "__name__", str(hint))


def accepts(hint: Any, value: Any) -> bool:
    """Whether `value` has the type `hint` and lies in its range; an int is a float, a bool is not an int."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        ranges = [extra for extra in arguments[1:] if isinstance(extra, Range)]
        return accepts(arguments[0], value) and all(one.holds(value) for one in ranges)
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in arguments)
    if origin in (Union, types.UnionType):
        return any(accepts(option, value) for option in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(accepts(arguments[0], item) for item in value)
    if origin is dict or hint is dict:
        return isinstance(value, dict) and all(isinstance(name, str) for name in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return hint is Any or isinstance(value, hint)


def check(key: str, hint: Any, value: Any) -> None:
    """Raises `ConfigError` unless `accepts(hint, value)`."""
    if not accepts(hint, value):
        raise ConfigError(f"config.{key} must be {describe(hint)}, got {value!r}; set it with --config.{key}=VALUE")


def parse(key: str, hint: Any, text: str) -> Any:
    """The value that `text`, from a command line, has as a `hint`; `ConfigError` where it has none."""
    for option in _options(hint):
        try:
            value = _read(option, text)
        except ValueError:
            continue
        if accepts(hint, value):
            return value
    raise ConfigError(f"config.{key} must be {describe(hint)}, got {text!r}; set it with --config.{key}=VALUE")


def _options(hint: Any) -> Iterator[Any]:
    if get_origin(hint) is Annotated:
        yield from _options(get_args(hint)[0])
    elif get_origin(hint) in (Union, types.UnionType):
        for option in get_args(hint):
            yield from _options(option)
    else:
        yield hint


def _read(hint: Any, text: str) -> Any:
    """`text` as a plain type; raises ValueError where it cannot be read as one."""
    if get_origin(hint) is Literal:
        return {str(option): option for option in get_args(hint)}.get(text, text)
    if get_origin(hint) is tuple:
        item = next(_options(get_args(hint)[0]))
        return tuple(_read(item, part.strip()) for part in text.split(",") if part.strip())
    if hint is types.NoneType:
        if text.lower() in ("none", "null"):
            return None
        raise ValueError(text)
    if hint is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if hint in (int, float):
        return hint(text)
    if hint is Any:
        return _guess(text)
    return text


def _guess(text: str) -> Any:
    for option in (types.NoneType, int, float):
        try:
            return _read(option, text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)
