"""Compiles with options of XLA, such as a process can otherwise only set for all its programs, by XLA_FLAGS."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from resflax.errors import ConfigError

# How XLA refuses an option, by name or by value; whatever else goes wrong in a compilation is not the user's mistake.
_REFUSED = re.compile(r"No such compile option|While setting option")


def deterministic_options(device: jax.Device) -> dict[str, bool]:
    """`compiler_options` under which a program gives the same bits in every run; elsewhere than on GPUs none are needed.

    XLA then takes kernels without atomic sums, and the first that fits instead of the one that was the fastest when it was
    timed, which may be another one the next time.
    """
    return {"xla_gpu_deterministic_ops": True} if device.platform == "gpu" else {}


def fusion_options(device: jax.Device, compute: str) -> dict[str, str]:
    """`compiler_options` of a network's programs that say what XLA:CPU hands to YNNPACK; none elsewhere, and where not known.

    Products and sums, of which normalisations and their gradients are made, are faster there. Convolutions are not: they keep
    one and a half of two cores busy, Eigen's both; jax 0.10 by itself has it the other way round. bfloat16 is left alone, see
    `resflax.cli.avoid_broken_fusion`.
    """
    if device.platform != "cpu" or compute == "bfloat16" or not (0, 10) <= jax.__version_info__ < (0, 13):
        return {}
    return {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"}


def compile_with(
    lowered: jax.stages.Lowered, options: Sequence[str], others: Mapping[str, Any] | None = None
) -> jax.stages.Compiled:
    """Compiles a program.

    Args:
      lowered: what `jax.jit(...).lower(...)` gave.
      options: `NAME=VALUE`, names of XLA's debug options (`xla_gpu_autotune_level=0`) or of JAX's `compiler_options`. The
        items of a list are joined by `+`, and take the place of XLA's default list.
      others: more options, by name, that are not the user's.

    Raises:
      ConfigError: this version of XLA has no such option, or not this value. Options of another platform are accepted.
    """
    pairs = (text.split("=", 1) for text in options)
    given = {**(others or {}), **{name: _value(value) for name, value in pairs}}
    try:
        return lowered.compile(compiler_options=given or None)
    except (jax.errors.JaxRuntimeError, TypeError, ValueError, LookupError) as error:
        # JAX refuses values of its own options by Python's errors, XLA by its one error.
        if not isinstance(error, jax.errors.JaxRuntimeError) or _REFUSED.search(str(error)):
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
