"""Huge pages for a program's large blocks of memory, which many Linux systems give only to those who ask.

XLA:CPU allocates a step's temporaries when the step begins and frees them when it ends: 301 MB for ResNet-20 at batch 128.
The C library returns blocks of that size to the kernel, which clears every page anew: 73,400 pages of 4 KiB a step, an eighth
of its time. Of pages of 2 MiB it is about 500. NumPy asks for them by itself; the C library does so where a variable tells it
at the start of a program, which is too early for the program to set it: so it starts again in its own place.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

VARIABLES = TUNABLES, STARTED_AGAIN = "GLIBC_TUNABLES", "RESFLAX_STARTED_AGAIN"
_TUNABLE = "glibc.malloc.hugetlb"  # 1: madvise(MADV_HUGEPAGE) for what malloc takes; from glibc 2.35 on, unknown before
_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # "always [madvise] never", the one in brackets holds


def use_huge_pages() -> None:
    """Starts this program again with the variable set; returns where that would change nothing, or lose something.

    A set `GLIBC_TUNABLES=glibc.malloc.hugetlb=...` of the user's holds, 0 switches it off. The process keeps its number, its
    parent and its files. Programs that it starts inherit the variable.
    """
    try:
        setting = _SETTING.read_text()
    except OSError:  # not Linux, or a kernel without them
        return
    if _can_gain(setting, os.environ, sys.orig_argv):
        others = os.environ.get(TUNABLES, "")
        os.environ[TUNABLES] = f"{others}:{_TUNABLE}=1".removeprefix(":")
        os.environ[STARTED_AGAIN] = "1"  # programs with capabilities find the other variable removed: no second time
        with contextlib.suppress(OSError):
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _can_gain(setting: str, environment: Mapping[str, str], command: Sequence[str]) -> bool:
    """Whether huge pages are for those who ask, nobody has asked, and the process is `python -m resflax...` and nothing else.

    A notebook or a debugger that runs a command's module is not: starting it again would lose what it holds.
    """
    asked = _TUNABLE in environment.get(TUNABLES, "") or STARTED_AGAIN in environment
    module = command[command.index("-m") + 1 :][:1] if "-m" in command else []
    return "[madvise]" in setting and not asked and "".join(module).startswith("resflax.")
