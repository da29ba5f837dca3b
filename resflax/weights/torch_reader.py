"""Tensors out of what `torch.save` wrote (`.pth`, `.pt`, `.bin`), without torch and without unpickling."""

from __future__ import annotations

import functools
import io
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from resflax.errors import DataError, ResflaxError, StorageError
from resflax.files import require_file, storage
from resflax.weights.names import Tensors
from resflax.weights.pickles import Global, Refused, interpret, make_dictionary

_MAGIC = 0x1950A86A20F9469CFC6C  # begins the format before PyTorch 1.6, in which torchvision's files still are
_ZIP = b"PK\x03\x04"
_DTYPES: dict[str, Any] = {
    "torch.DoubleStorage": np.float64,
    "torch.FloatStorage": np.float32,
    "torch.HalfStorage": np.float16,
    "torch.BFloat16Storage": ml_dtypes.bfloat16,
    "torch.LongStorage": np.int64,
    "torch.IntStorage": np.int32,
    "torch.ShortStorage": np.int16,
    "torch.CharStorage": np.int8,
    "torch.ByteStorage": np.uint8,
    "torch.BoolStorage": np.bool_,
}
_INSIDE = ("state_dict", "model")  # where training checkpoints keep the weights


class _Storage(NamedTuple):
    key: str
    dtype: Any


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int  # in elements, as the strides
    shape: tuple[int, ...]
    strides: tuple[int, ...]


BytesOf = Callable[[_Storage], bytes]


def is_torch_file(path: Path) -> bool:
    """Whether a file begins as those of `torch.save` do, in either format; no safetensors file does, whatever its length."""
    require_file(path)
    with storage("read", path), open(path, "rb") as file:
        start = file.read(9)
    return start.startswith(_ZIP) or (start.startswith(b"\x80") and not start.endswith(b"{"))


def read_torch(path: Path) -> Tensors:
    """The state dict in a file of `torch.save`.

    Raises:
      DataError: it asks for something else than tensors, or holds no state dict.
      StorageError: it cannot be read or is damaged.
    """
    try:
        with storage("read", path), open(path, "rb") as file:
            content, bytes_of = _open_zip(file) if file.read(4) == _ZIP else _open_legacy(file)
            return {name: _resolve(tensor, bytes_of) for name, tensor in _state_dict(content).items()}
    except Refused as error:
        raise DataError(
            f"{path} must hold tensors alone, but {error}; load it where it comes from, save state_dict()"
        ) from error
    except ResflaxError:
        raise
    except Exception as error:  # a damaged file leads the parsers of pickles and archives to what not
        reason = str(error) or type(error).__name__
        raise StorageError(f"{path} must be what torch.save writes, but it is damaged ({reason}); fetch it again") from error


def _open_zip(file: BinaryIO) -> tuple[Any, BytesOf]:
    archive = zipfile.ZipFile(file)
    members = {one.filename.partition("/")[2]: one for one in archive.infolist()}
    if any(one.compress_type != zipfile.ZIP_STORED for one in members.values()):
        raise Refused("it is compressed, which torch.save never does")  # and would let a small file fill the memory
    if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
        raise Refused("its numbers are big-endian")
    content, _ = _interpret(io.BytesIO(archive.read(members["data.pkl"])))

    @functools.cache  # tensors may share a storage, and must not fill the memory with copies of it
    def bytes_of(one: _Storage) -> bytes:
        return archive.read(members[f"data/{one.key}"])

    return content, bytes_of


def _open_legacy(file: BinaryIO) -> tuple[Any, BytesOf]:
    """Magic number, version, machine, content and the keys of storages, pickled one after another; then the numbers."""
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    if _interpret(file)[0] != _MAGIC:
        raise Refused("it is some other pickle")
    _interpret(file)  # the version, 1001 in every release
    if not _interpret(file)[0]["little_endian"]:
        raise Refused("its numbers are big-endian")
    content, storages = _interpret(file)
    keys, _ = _interpret(file)
    if not all(isinstance(key, str) for key in keys):
        raise TypeError("a storage without a name")
    numbers = {}
    for key in keys:
        size = int.from_bytes(file.read(8), "little") * np.dtype(storages[key].dtype).itemsize
        if size > length - file.tell():
            raise ValueError(f"storage {key} is cut short")
        numbers[key] = file.read(size)
    return content, lambda one: numbers[one.key]


def _interpret(stream: BinaryIO) -> tuple[Any, dict[str, _Storage]]:
    """What a pickle describes, and the storages it names."""
    storages: dict[str, _Storage] = {}

    def persistent(identity: Any) -> _Storage:
        if not isinstance(identity, tuple) or len(identity) not in (4, 5, 6):
            raise TypeError("a storage of another form")
        kind, dtype, key, _, *view = identity  # and where it was, and its length
        if not (isinstance(kind, str) and isinstance(dtype, Global) and isinstance(key, str)):
            raise TypeError("a storage of another kind")
        if kind != "storage" or dtype.name not in _DTYPES:
            raise Refused(f"it has a {kind} of {dtype.name}")
        if len(view) == 0 or view[1:] not in ([], [None]):
            raise TypeError("a storage of another form")
        return storages.setdefault(key, _Storage(key, _DTYPES[dtype.name]))

    return interpret(stream, _call, persistent), storages


def _call(name: str, arguments: Any) -> Any:
    """The three calls that a state dict consists of."""
    if name == "collections.OrderedDict":
        return _ordered(*arguments)
    if name == "torch._utils._rebuild_parameter":
        return arguments[0]
    if name == "torch._utils._rebuild_tensor_v2":
        of, offset, shape, strides = arguments[:4]
        if not isinstance(of, _Storage) or any(not isinstance(one, tuple) or len(one) > 64 for one in (shape, strides)):
            raise TypeError("a tensor of another form")
        if not all(isinstance(one, int) and 0 <= one < 2**63 for one in (offset, *shape, *strides)):
            raise TypeError("a tensor without numbers")
        return _Tensor(of, offset, shape, strides)
    raise Refused(f"it calls {name}")


def _ordered(pairs: Any = None) -> dict[Any, Any]:
    """An OrderedDict: empty, or as Python 2 wrote it, of a list of [key, value]."""
    if pairs is None:
        return {}
    if not isinstance(pairs, list):
        raise TypeError("a dictionary of another form")
    result = make_dictionary(*zip(*pairs, strict=True))
    pairs.clear()  # a pickle can name a list again and again, each time for a copy of it
    return result


def _state_dict(content: Any) -> dict[str, _Tensor]:
    for key in ("", *_INSIDE):
        inside = content if not key else content.get(key) if isinstance(content, Mapping) else None
        if isinstance(inside, Mapping) and inside and all(isinstance(value, _Tensor) for value in inside.values()):
            return {str(name): value for name, value in inside.items()}
    found = ", ".join(map(repr, list(content)[:5])) if isinstance(content, Mapping) else f"a {type(content).__name__}"
    raise Refused(f"it holds {found or 'nothing'} and no state dict, alone or under {' or '.join(map(repr, _INSIDE))}")


def _resolve(tensor: _Tensor, bytes_of: BytesOf) -> np.ndarray:
    """The array of a tensor, a view of its storage; one that reaches outside, or repeats numbers, is an error."""
    size = math.prod(tensor.shape)
    flat = np.frombuffer(bytes_of(tensor.storage), tensor.storage.dtype)
    reach = sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.strides, strict=True))
    if size > len(flat):
        raise ValueError("a tensor is larger than its storage")
    if size == 0:
        return np.zeros(tensor.shape, flat.dtype)
    if tensor.offset + reach >= len(flat):
        raise ValueError("a tensor reaches outside its storage")
    steps = tuple(stride * flat.itemsize for stride in tensor.strides)
    return np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, steps, writeable=False)
