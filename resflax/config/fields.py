"""Walks the configuration's dataclasses: dotted keys, their types, and the two checks every value passes."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import sys
import types
from collections.abc import Collection, Hashable, Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from resflax.config.schema import Config
from resflax.errors import ConfigError
from resflax.ranges import Range

# What people type for a field that is called something else here, by the last part of the key.
ALIASES = {
    "lr": "optim.learning_rate",
    "wd": "optim.weight_decay",
    "bs": "data.batch_size",
    "epochs": "total_epochs",
    "num_epochs": "total_epochs",
    "steps": "total_steps",
    "num_steps": "total_steps",
    "dataset": "data.name",
    "data": "data.name",
    "augmentation": "data.augment",
    "optimizer": "optim.name",
    "optim": "optim.name",
    "scheduler": "optim.schedule",
    "lr_schedule": "optim.schedule",
    "grad_clip": "optim.clip_norm",
    "dtype": "precision.compute",
    "precision": "precision.compute",
    "model": "model.name",
    "ema": "ema.decay",
    "loss": "loss.label_smoothing",
    "save_every_steps": "checkpoint.every_steps",
}

_KWARGS = "model.kwargs"
# How messages name the plain types.
_NAMES = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
    dict: "a dictionary",
    types.NoneType: "none",
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
    """The error for a key that does not exist, with up to three of the nearest that do; `also` exist beside the fields."""
    asked = key.lower().replace("-", "_")
    last = _last(asked)

    def likeness(name: str) -> tuple[float, float]:
        # A misplaced name (`batch_size` for `data.batch_size`) is close by its last part, a misspelt one as a whole.
        ratios = _ratio(asked, name), _ratio(last, _last(name))
        return max(ratios), sum(ratios)

    ranked = sorted((name for name in (*all_keys(), *also) if name != _KWARGS), key=likeness, reverse=True)
    near = [name for name in ranked if likeness(name)[0] > 0.6]
    suggestions = [ALIASES[last]] if last in ALIASES else []
    suggestions += [name for name in near or ranked if name not in suggestions]
    named = ", ".join(f"config.{name}" for name in suggestions[: 3 if near else 1])
    return ConfigError(f"config.{key} is not a configuration key; did you mean {named}?")


def unknown_option(model: str, name: str, options: Collection[str]) -> ConfigError:
    """The error for `model.kwargs.NAME` when the builder of `model` has no such argument."""
    if not options:
        return ConfigError(f"config.model.kwargs.{name} cannot be set: model {model} has no arguments; leave it out")
    return unknown_key(f"{_KWARGS}.{name}", tuple(f"{_KWARGS}.{option}" for option in options))


def _last(key: str) -> str:
    return key.rsplit(".", 1)[-1]


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def describe(hint: Any) -> str:
    """A type as an error message names it: `an integer at least 1 or none`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return " ".join([describe(arguments[0]), *(str(extra) for extra in arguments[1:])])
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(describe(option) for option in arguments)
    if origin is tuple:
        return f"a tuple, each item {describe(arguments[0])}"
    return _NAMES.get(origin or hint, str(hint))


def accepts(hint: Any, value: Any) -> bool:
    """Whether `value` has the type `hint` and lies in its range; an int is a float, a bool is not an int.

    No number is larger than 64 bits can hold.
    """
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
        # Comparing, unlike `math.isfinite`, also takes an int that no float can hold.
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return hint is Any or isinstance(value, hint)


def check(key: str, hint: Any, value: Any) -> None:
    """Raises `ConfigError` unless `accepts(hint, value)`."""
    if not accepts(hint, value):
        raise _wrong_value(key, hint, value)


def _wrong_value(key: str, hint: Any, value: Any) -> ConfigError:
    shown = repr(value)
    if len(shown) > 80:
        shown = f"{shown[:77]}..."
    usage = f"{key}.NAME=VALUE" if hint is dict or get_origin(hint) is dict else f"{key}=VALUE"
    usage += ",VALUE" if get_origin(hint) is tuple else ""
    return ConfigError(f"config.{key} must be {describe(hint)}, got {shown}; set it with --config.{usage}")


def parse(key: str, hint: Any, text: str) -> Any:
    """The value that `text`, from a command line, has as a `hint`; `ConfigError` where it has none."""
    # None first: where text is allowed, "none" would be read as text.
    for option in sorted(_options(hint), key=lambda option: option is not types.NoneType):
        try:
            value = _read(option, text)
        except ValueError:
            continue
        if accepts(hint, value):
            return value
    raise _wrong_value(key, hint, text)


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
