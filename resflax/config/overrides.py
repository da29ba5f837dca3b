"""Applies `--config.a.b=value` to a frozen configuration, typed by the field it names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from resflax.config.fields import all_keys, parse, unknown_key, unknown_option
from resflax.config.schema import Config
from resflax.errors import ConfigError
from resflax.models.zoo import model_options

_KWARGS = "model.kwargs."
# Keys of which one at most is set, and the value of the others.
_ONE_OF: tuple[tuple[frozenset[str], Any], ...] = (
    (frozenset({"total_steps", "total_epochs"}), None),
    (frozenset({"optim.warmup_steps", "optim.warmup_epochs", "optim.warmup_fraction"}), 0),
)


def apply_overrides(config: Config, overrides: Iterable[str]) -> Config:
    """`config` with each `"optim.learning_rate=0.2"` applied in turn.

    Overriding one of `total_steps` and `total_epochs`, or one of the three lengths of the warm-up, clears the others.
    Arguments of the model's builder are
    `model.kwargs.NAME=VALUE`, typed by the builder's signature. Raises `ConfigError` for an unknown key, or a value
    that is not of the key's type or outside its range.
    """
    # The model's name decides which builder arguments exist, so it goes first wherever it stands.
    ordered = sorted(overrides, key=lambda text: not text.startswith("model.name="))
    given = {text.partition("=")[0] for text in ordered}
    for text in ordered:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"an override must read --config.KEY=VALUE, got --config.{text}")
        if key.startswith(_KWARGS):
            config = _replace_kwarg(config, key.removeprefix(_KWARGS), value)
        elif key in all_keys() and key != "model.kwargs":
            config = _replace(config, key.split("."), parse(key, all_keys()[key], value))
        else:
            raise unknown_key(key, tuple(_KWARGS + name for name in model_options(config.model.name)))
        for group, unset in _ONE_OF:
            if key in group and parse(key, all_keys()[key], value) != unset:
                for other in group - given:  # two given at once are left to `validate` to refuse
                    config = _replace(config, other.split("."), unset)
    return config


def _replace(section: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    if rest:
        value = _replace(getattr(section, name), rest, value)
    return dataclasses.replace(section, **{name: value})


def _replace_kwarg(config: Config, name: str, text: str) -> Config:
    options = model_options(config.model.name)
    if name not in options:
        raise unknown_option(config.model.name, name, options)
    value = parse(_KWARGS + name, options[name], text)
    return _replace(config, ["model", "kwargs"], {**config.model.kwargs, name: value})
