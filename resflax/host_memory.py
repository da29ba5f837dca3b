"""What the C library does with memory that is given back to it."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util

# Of glibc's malloc.h; no other C library has them.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Lets this process keep what it frees, where it will compute on the CPU and its C library is glibc.

    XLA:CPU allocates the temporaries of a step when the step begins and frees them at its end. Blocks of that size glibc maps
    and unmaps, so the kernel clears every page in every step: 300 MB for ResNet-20 at 128 images, a sixth of the step's
    processor time. Kept, they are there already. The price: memory that was used once is not returned before the process ends.

    Has an effect on threads that are not running yet; call it before JAX finds its devices.
    """
    if any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu")):  # an accelerator will do the work
        return
    with contextlib.suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - other libraries have a mallopt of another meaning
        for parameter, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_ARENA_MAX, 1)):
            library.mallopt(parameter, value)
