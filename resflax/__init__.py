"""resflax: convolutional and residual image classifiers in JAX and Flax (linen).

`create_model`, `list_models` and `load` are resolved on first use, so that `import resflax` costs nothing and
`python -m resflax.train` can refuse a bad configuration before JAX is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resflax.version import __version__

if TYPE_CHECKING:
    from resflax.build import load
    from resflax.models.zoo import create_model, list_models

__all__ = ["__version__", "create_model", "list_models", "load"]


def __getattr__(name: str) -> Any:
    if name in ("create_model", "list_models"):
        from resflax.models import zoo

        return getattr(zoo, name)
    if name == "load":
        from resflax.build import load

        return load
    raise AttributeError(f"module 'resflax' has no attribute {name!r}")
