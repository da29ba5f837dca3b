"""Compiles with options of XLA, such as a process can otherwise only set for all its programs, by XLA_FLAGS."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import Any

import jax

from resflax.errors import ConfigError

# How XLA refuses an option, by name or by value; whatever else goes wrong in a compilation is not the user's mistake.
_REFUSED = re.compile(r"No such compile option|While setting option")


def compile_with(lowered: jax.stages.Lowered, options: Sequence[str]) -> jax.stages.Compiled:
    """Compiles a program.

    Args:
      lowered: what `jax.jit(...).lower(...)` gave.
      options: `NAME=VALUE`, names of XLA's debug options (`xla_gpu_autotune_level=0`) or of JAX's `compiler_options`. The
        items of a list are joined by `+`, and take the place of XLA's default list.

    Raises:
      ConfigError: this version of XLA has no such option, or not this value. Options of another platform are accepted.
    """
    if not options:
        return lowered.compile()
    pairs = (text.split("=", 1) for text in options)
    try:
        return lowered.compile(compiler_options={name: _value(value) for name, value in pairs})
    except (jax.errors.JaxRuntimeError, TypeError) as error:
        if isinstance(error, TypeError) or _REFUSED.search(str(error)):
            raise ConfigError(
                f"config.precision.compiler_options must be known to XLA (jax {jax.__version__}), got {', '.join(options)}, "
                f"but {' '.join(str(error).split())}; correct or leave out what it names"
            ) from error
        raise


def _value(text: str) -> Any:
    """Booleans and numbers as Python's, which JAX and XLA both take; XLA's lists have commas."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text.replace("+", ",")
