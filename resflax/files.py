"""Files that are either whole or absent, the layout of a run's working directory, and the user's cache.

Paths go through `etils.epath`, so a workdir may be local or `gs://`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etils import epath

from resflax.errors import ConfigError, ResflaxError, StorageError


@dataclass(frozen=True)
class Workdir:
    """The paths of a run (DESIGN, section 5)."""

    root: epath.Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", epath.Path(self.root))  # a plain pathlib path will do

    @property
    def config(self) -> epath.Path:
        """The resolved configuration, written first."""
        return self.root / "config.json"

    @property
    def metrics(self) -> epath.Path:
        """One JSON object a line."""
        return self.root / "metrics.jsonl"

    @property
    def checkpoints(self) -> epath.Path:
        """One folder a committed step."""
        return self.root / "checkpoints"

    @property
    def figures(self) -> epath.Path:
        """PNG files."""
        return self.root / "figures"

    @property
    def result(self) -> epath.Path:
        """The immutable record; the run is finished when it exists."""
        return self.root / "result.json"


def cache_folder() -> Path:
    """Where what can be made again is kept between runs: `resflax` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "resflax"


@contextlib.contextmanager
def storage(action: str, path: Any) -> Iterator[None]:
    """Turns an `OSError` inside the block into a `StorageError` that names the action and the path.

    For an object store every other error too: its client has classes of its own for what the network and the store say.
    """
    try:
        yield
    except ResflaxError:
        raise
    except ImportError as error:
        raise ConfigError(f"{path} must be storage that can be reached, but {error}; pip install 'resflax[gcs]'") from error
    except Exception as error:
        if not (isinstance(error, OSError) or is_remote(path)):
            raise
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise StorageError(f"cannot {action} {path}: {reason}; check the path, its permissions and free space") from error


def is_remote(path: Any) -> bool:
    """Whether `path` names an object store (`gs://...`)."""
    return "://" in str(path)


MAX_JSON = 64 * 2**20  # bytes; what this package writes is far below, and parsed it takes twenty times as much
_UNPACKED = 64 * 2**20, 100  # what a small file may unpack to, and how many times its size a larger one


def require_file(path: epath.PathLike) -> None:
    """Raises `StorageError` for a folder, a pipe or a device, which might give bytes without end; what is missing passes."""
    if not is_remote(path) and os.path.exists(path) and not os.path.isfile(path):
        raise StorageError(f"{path} must be a file, but it is a folder, a pipe or a device; name a file")


def is_bomb(unpacked: int, stored: int) -> bool:
    """Whether `stored` bytes that unpack to so many are made to fill the memory rather than to keep numbers.

    Random weights hardly shrink, images by a factor of two to ten; the densest deflate has about 1000.
    """
    least, times = _UNPACKED
    return unpacked > max(least, times * stored)


def write_bytes(path: epath.PathLike, content: bytes) -> None:
    """Replaces `path` by `content`: a reader, or a restart after a crash, sees the old file or the new one."""
    path = epath.Path(path)
    with storage("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_remote(path):  # object stores replace whole objects by themselves
            path.write_bytes(content)
            return
        temporary = f"{path}.tmp{os.getpid()}"
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        sync(path.parent)


def remove_temporaries(folder: epath.Path) -> None:
    """Removes what `write_bytes` left in `folder` when its process was killed."""
    with storage("remove", folder):
        for path in folder.glob("*.tmp*") if folder.exists() else ():
            if path.suffix.removeprefix(".tmp").isdecimal():
                path.unlink()


def sync(path: epath.PathLike) -> None:
    """Waits until a local file, or the names in a local folder, would survive a power cut; object stores see to it."""
    if is_remote(path):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # some network file systems sync no folders
            raise
    finally:
        os.close(descriptor)


def write_json(path: epath.PathLike, value: Any) -> None:
    """Like `write_bytes`; refuses NaN and infinity, which JSON does not have."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: epath.PathLike) -> Any:
    """The value of a JSON file; a file that is not JSON, or has more than `MAX_JSON` bytes, is a `StorageError`."""
    require_file(path)
    with storage("read", path):
        size = epath.Path(path).stat().length
        content = epath.Path(path).read_bytes() if size <= MAX_JSON else b""
    if size > MAX_JSON:
        raise StorageError(f"{path} must have at most {MAX_JSON} bytes of JSON, got {size}; restore or remove the file")
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{path} must hold JSON, but {error}; restore or remove the file") from error


def append_line(path: epath.Path, value: Mapping[str, Any]) -> None:
    """Adds one JSON object to a `.jsonl` file."""
    line = json.dumps(value, allow_nan=False) + "\n"
    with storage("write", path):
        if is_remote(path):  # object stores cannot append
            path.write_text((path.read_text() if path.exists() else "") + line)
            return
        with open(path, "a", encoding="utf-8") as file:
            file.write(line)


def read_lines(path: epath.Path) -> list[dict[str, Any]]:
    """The objects of a `.jsonl` file; a torn last line, left by a crash, is dropped."""
    with storage("read", path):
        if not path.exists():
            return []
        lines = path.read_text().split("\n")[:-1]
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise StorageError(f"{path} has a line that is not JSON ({error}); restore or remove the file") from error
    return rows


def truncate_lines(path: epath.Path, step: int) -> None:
    """Keeps only the lines whose `step` is at most `step`: what a resumed run has not yet redone."""
    rows = [row for row in read_lines(path) if row["step"] <= step]
    write_bytes(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def sha256(path: epath.PathLike) -> str:
    """The SHA-256 of a file's bytes, read a piece at a time."""
    sha = hashlib.sha256()
    with epath.Path(path).open("rb") as file:
        while piece := file.read(1 << 20):
            sha.update(piece)
    return sha.hexdigest()
