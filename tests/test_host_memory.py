"""Memory that was freed is used again without a page fault, also in the threads in which XLA works."""

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, threading
import numpy as np
from resflax.host_memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()

def use():
    np.empty(100_000_000, np.uint8).fill(1)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    worker = threading.Thread(target=use)
    worker.start()
    worker.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="the C library is not glibc")
def test_freed_memory_is_used_again():
    counted = {}
    for how in ("keep", "return"):
        done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
        counted[how] = int(done.stdout)
    # 100 MB are 24,000 pages of 4 KiB, or 48 of 2 MiB.
    assert counted["keep"] < 20 < counted["return"], counted
