"""Finds and runs a configuration file: `PATH.py[:variant]`, or the bare name of a shipped experiment."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from resflax.config.fields import unknown_key
from resflax.config.schema import Config
from resflax.errors import ConfigError, nearest

_PACKAGE = Path(__file__).resolve().parents[1]
# A wheel carries the experiments inside the package; a checkout has them beside it.
_SHIPPED = (_PACKAGE / "experiments", _PACKAGE.parent / "experiments")


def load_config(specification: str) -> tuple[Config, str]:
    """Runs `get_config(variant)` of a Python file; returns its configuration and a name, `"he2015_cifar-resnet20"`.

    The file is code and is executed: use only files you trust. Raises `ConfigError` when there is no such file, it has
    no `get_config`, it does not know the variant, or it does not return a `Config`.
    """
    name, _, variant = specification.partition(":")
    module, path = load_experiment(name)
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise ConfigError(f"{path} must define get_config(variant) -> resflax.config.Config, but does not; define it")
    with _running(path):
        config = get_config(variant) if variant else get_config()
    if not isinstance(config, Config):
        raise ConfigError(f"get_config of {path} must return a resflax.config.Config, got {type(config).__name__}; correct it")
    default = inspect.signature(get_config).parameters.get("variant")
    variant = variant or (str(default.default) if default is not None else "default")
    return config, f"{path.stem}-{variant}"


def load_experiment(name: str) -> tuple[ModuleType, Path]:
    """Runs the file that `name` means, see `find_experiment`; returns the module and the file."""
    path = find_experiment(name)
    spec = importlib.util.spec_from_file_location(f"resflax_experiment_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--config must name a Python file, got {path}; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    with _running(path):
        spec.loader.exec_module(module)
    return module, path


@contextlib.contextmanager
def _running(path: Path) -> Iterator[None]:
    """Turns whatever the code of a configuration file raises into one sentence."""
    try:
        yield
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        wrong = _wrong_name(error)
        if wrong is not None:
            raise ConfigError(f"{path}: {unknown_key(wrong)}") from error
        raise ConfigError(f"{path} must run without an error, but {type(error).__name__}: {error}; correct it") from error


def _wrong_name(error: BaseException) -> str | None:
    """The name that is no field of a section, which Python has refused to set or to get; None for any other error."""
    call = re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    sections = {Config.__name__: ""}
    sections |= {type(one).__name__: f"{name}." for name, one in vars(Config()).items() if dataclasses.is_dataclass(one)}
    if isinstance(error, TypeError) and call and call[1] in sections:
        return sections[call[1]] + call[2]
    if isinstance(error, AttributeError) and type(error.obj).__name__ in sections and error.name:
        return sections[type(error.obj).__name__] + error.name
    return None


def find_experiment(name: str) -> Path:
    """The file that `name` means: a path, or the name of a shipped experiment with or without `.py`."""
    given = Path(name)
    stem = given.name.removesuffix(".py")
    candidates = [
        given,
        *(folder / f"{stem}.py" for folder in _SHIPPED if given.parent in (Path("."), Path("experiments"))),
    ]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    shipped = {path.stem for folder in _SHIPPED for path in folder.glob("[a-z]*.py")}
    hint = f"; did you mean {nearest(stem, shipped)[0]}?" if shipped else ""
    raise ConfigError(f"--config must name a configuration file, but there is no {name}{hint}")


def choose_variant(variant: str, variants: dict[str, Config]) -> Config:
    """`variants[variant]`, or a `ConfigError` that lists what there is. For use in `get_config`."""
    if variant not in variants:
        raise ConfigError(f"the variant must be one of {', '.join(variants)}, got {variant!r}; choose one")
    return variants[variant]
