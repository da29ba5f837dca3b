"""One trainer a workdir."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from typing import TextIO

from etils import epath

from resflax.errors import TemporaryError
from resflax.files import is_remote, storage
from resflax.training import distributed

NAME = ".lock"


@contextlib.contextmanager
def held(root: epath.Path) -> Iterator[None]:
    """Keeps other trainers out of the workdir `root` while the block runs; every process of a job calls it alike.

    The kernel keeps the lock, for process 0, and gives it back however that ends. Storage without locks, an object store or a
    network file system, lets everybody in.

    Raises `TemporaryError` on every process where another trainer has the lock.
    """
    with contextlib.ExitStack() as stack:
        owner = None
        if distributed.is_primary() and not is_remote(root):
            with storage("write", root / NAME):
                file = stack.enter_context(open(root / NAME, "a+", encoding="utf-8"))
                owner = _take(file)
        if distributed.anywhere(owner is not None):
            raise TemporaryError(
                f"{root} must be trained by one process at a time, but {owner or 'another one'} is at it; wait for its end, or "
                "name another --workdir"
            )
        yield


def _take(file: TextIO) -> str | None:
    """Locks `file` until it is closed and writes this process into it; returns who has the lock where that cannot be."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        return file.read() or "another one"
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise
        return None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return None
