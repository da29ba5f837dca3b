"""resflax: convolutional and residual image classifiers in JAX and Flax (linen).

The names below are resolved on first use, so that `import resflax` costs nothing and `python -m resflax.train` can refuse a
bad configuration before JAX is imported.
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any

from resflax.version import __version__

if TYPE_CHECKING:
    from resflax.build import load
    from resflax.models.heads import reset_head
    from resflax.models.intermediates import intermediates
    from resflax.models.zoo import create_model, list_models

if sys.argv[:1] == ["-m"] and any(word.startswith("resflax.") for word in sys.orig_argv):
    # A command is being imported: until it listens to signals by itself, Ctrl-C ends it without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

__all__ = ["__version__", "create_model", "intermediates", "list_models", "load", "reset_head"]

_PLACES = {
    "create_model": "resflax.models.zoo",
    "intermediates": "resflax.models.intermediates",
    "list_models": "resflax.models.zoo",
    "load": "resflax.build",
    "reset_head": "resflax.models.heads",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        import importlib

        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'resflax' has no attribute {name!r}")
