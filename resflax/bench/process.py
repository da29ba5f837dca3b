"""A process of its own for what must be measured cold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resflax.errors import TemporaryError


def in_new_process(initialize: Callable[[], None], function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function of a module in a new process, after `initialize()`: nothing was traced or compiled there before."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initialize) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise TemporaryError(
                "the process that compiles must finish, but it was killed; free memory or take less"
            ) from error
