"""timm where torchvision cannot be imported: its networks need nothing of torchvision, but its data loaders name it."""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types

import pytest


class _Names(type):
    """A class any attribute of which is a string: an enumeration that is only listed."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{cls.__name__}.{name}"


class _Module(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Names(name, (), {})


class _Torchvision(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] == "torchvision" else None

    def create_module(self, spec):
        return _Module(spec.name)

    def exec_module(self, module):
        pass


def import_timm():
    """The package, with a torchvision of empty names beside it while it is imported; skips where it is not installed."""
    pytest.importorskip("torch")
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    try:
        import torchvision  # noqa: F401
    except Exception:  # a build for another torch raises whatever it likes  # noqa: BLE001
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        finder = _Torchvision()
        sys.meta_path.insert(0, finder)
        try:
            import timm
        finally:
            sys.meta_path.remove(finder)
        return timm
    import timm

    return timm
