"""What the commands share: arguments, exit codes, and the settings of JAX that belong to a process."""

from __future__ import annotations

import argparse
import difflib
import gc
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from resflax.errors import ConfigError, ResflaxError
from resflax.pages import use_huge_pages
from resflax.training.signals import Ended, end_at_once, end_undisturbed

# Allocations before Python looks for garbage, and rounds of that before it looks among what is older. Importing and tracing
# make objects by the hundred thousand that live on; at Python's own 700 the search among them takes a seventh of a start.
_COLLECTIONS = (50_000, 20, 100)


class Parser(argparse.ArgumentParser):
    """Reports a usage error as one sentence."""

    def __init__(self, **settings: Any):
        super().__init__(allow_abbrev=False, **settings)  # else a flag that is added later changes what a command line means

    def error(self, message: str) -> NoReturn:
        """Raises `ConfigError`, with the flag that was perhaps meant by one that does not exist."""
        unknown = re.match(r"unrecognized arguments:.*?(--[^\s=]+)", message)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
            message += "".join(f"; did you mean {flag}?" for flag in difflib.get_close_matches(unknown[1], flags, 1))
        raise ConfigError(f"{message}; see {self.prog} --help")


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates `--config.a.b=value` (or `--config.a.b value`) from the other arguments; returns (others, overrides)."""
    others, overrides = [], []
    arguments = iter(argv)
    for argument in arguments:
        if not argument.startswith("--config."):
            others.append(argument)
        elif "=" in argument:
            overrides.append(argument.removeprefix("--config."))
        else:
            value = next(arguments, None)
            if value is None:
                raise ConfigError(f"{argument} must be followed by a value; write {argument}=VALUE")
            overrides.append(f"{argument.removeprefix('--config.')}={value}")
    return others, overrides


def run(main: Callable[[Sequence[str]], int], listen: Callable[[], None] = end_at_once) -> NoReturn:
    """Runs a command; an error that a user can cause becomes one sentence on stderr and its exit code.

    So does a signal, in one of the ways of `resflax.training.signals`.
    """
    use_huge_pages()
    gc.set_threshold(*_COLLECTIONS)
    listen()
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files and classes may hold what the terminal's encoding has not
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except ResflaxError as error:
        print(f"resflax: {error}", file=sys.stderr)
        code = error.exit_code
    except Ended as ended:
        (number,) = ended.args
        print(f"resflax: ended by {signal.Signals(number).name}, what was half made is removed; run again", file=sys.stderr)
        code = 128 + number
    except BrokenPipeError:  # the reader of our output went away; nobody is left to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    end_undisturbed()
    sys.exit(code)


def prepare_jax(float64: bool = False) -> Any:
    """Imports JAX for a command: compiled programs are kept on disk, notes of the libraries stay quiet."""
    import jax

    from resflax.files import cache_folder
    from resflax.training.logs import quiet

    quiet()
    avoid_broken_fusion()
    if float64:
        jax.config.update("jax_enable_x64", True)
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
    # By default JAX keeps only what took it a second to compile: a second start would compile all the rest again.
    for name, least in (("jax_persistent_cache_min_compile_time_secs", 0.0), ("jax_persistent_cache_min_entry_size_bytes", -1)):
        if name.upper() not in os.environ:
            jax.config.update(name, least)
    return jax


def avoid_broken_fusion() -> None:
    """Switches off what makes NaN of bfloat16 on CPUs in JAX 0.12; without effect once a device was used.

    XLA:CPU there hands chains of convolutions that end in a sum or maximum to YNNPACK, with NaN for two bfloat16 convolutions
    with normalisation and ReLU. float32 is not affected, but the option is of the process; steps in float32 set their own.
    """
    import jax

    option, flags = "--xla_cpu_experimental_ynn_fusion_type", os.environ.get("XLA_FLAGS", "")
    if (0, 12) <= jax.__version_info__ < (0, 13) and option not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {option}="
