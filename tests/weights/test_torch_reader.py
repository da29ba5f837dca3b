"""Files of `torch.save`, written here byte by byte; tests/parity/test_converted_torch.py reads those that PyTorch writes."""

import io
import pickle
import struct
import zipfile

import numpy as np
import pytest

from resflax.errors import DataError, StorageError
from resflax.weights.pickles import Global, Refused, interpret
from resflax.weights.torch_reader import is_torch_file, read_torch


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def integer(value):
    return b"J" + struct.pack("<i", value)


def integers(values):
    return b"(" + b"".join(map(integer, values)) + b"t"


def call(module, name, *arguments):
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def tensor(key, shape, strides, offset=0, dtype="FloatStorage", count=6, view=b""):
    storage = b"(" + text("storage") + f"ctorch\n{dtype}\n".encode() + text(key) + text("cpu") + integer(count) + view + b"tQ"
    hooks = call("collections", "OrderedDict")
    arguments = (storage, integer(offset), integers(shape), integers(strides), b"\x89", hooks)
    return call("torch._utils", "_rebuild_tensor_v2", *arguments)


def dictionary(**items):
    return b"}(" + b"".join(text(key.replace("_", ".")) + value for key, value in items.items()) + b"u"


def program(body):
    return b"\x80\x02" + body + b"."


def write_zip(path, body, storages, compression=zipfile.ZIP_STORED, order=b"little"):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program(body))
        archive.writestr("archive/byteorder", order)
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
    return path


def write_legacy(path, body, storages, little=True):
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": little}]
    with open(path, "wb") as file:
        for part in parts:
            file.write(pickle.dumps(part, protocol=2))
        file.write(program(body))
        file.write(pickle.dumps(list(storages), protocol=2))
        for array in storages.values():
            file.write(struct.pack("<q", array.size) + array.tobytes())
    return path


def write_state_dict(path, tensors, write=write_zip):
    """What `torch.save` makes of float32 arrays."""
    items, storages = [], {}
    for key, (name, array) in enumerate(tensors.items()):
        strides = [stride // 4 for stride in np.ascontiguousarray(array).strides]
        items += [text(name), tensor(str(key), array.shape, strides, count=array.size)]
        storages[str(key)] = array
    return write(path, b"}(" + b"".join(items) + b"u", storages)


NUMBERS = np.arange(6, dtype=np.float32)
WRITERS = pytest.mark.parametrize("write", [write_zip, write_legacy])


@WRITERS
def test_tensors_are_views_of_storages(write, tmp_path):
    body = dictionary(
        a_weight=tensor("0", (2, 3), (3, 1)),
        a_turned=tensor("0", (3, 2), (1, 3)),
        a_part=tensor("0", (2,), (2,), offset=1),
        a_number=tensor("1", (), (), dtype="LongStorage", count=1),
    )
    path = write(tmp_path / "x.pth", body, {"0": NUMBERS, "1": np.array([7])})
    assert is_torch_file(path)
    found = read_torch(path)
    expected = {"a.weight": [[0, 1, 2], [3, 4, 5]], "a.turned": [[0, 3], [1, 4], [2, 5]], "a.part": [1, 3], "a.number": 7}
    assert {name: array.tolist() for name, array in found.items()} == expected
    assert found["a.weight"].dtype == np.float32
    assert found["a.number"].dtype == np.int64


@WRITERS
@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_the_weights_of_a_training_checkpoint(write, key, tmp_path):
    inside = b"}(" + text("epoch") + integer(3) + text(key) + dictionary(w=tensor("0", (6,), (1,))) + b"u"
    assert read_torch(write(tmp_path / "x.pth", inside, {"0": NUMBERS}))["w"].tolist() == NUMBERS.tolist()


@WRITERS
@pytest.mark.parametrize(
    "evil",
    [
        call("os", "system", text("true")),
        call("posix", "system", text("true")),
        call("builtins", "exec", text("1")),
        call("builtins", "getattr", b"cos\nsystem\n", text("x")),
        call("torch.storage", "_load_from_bytes", text("x")),
        b"(cos\nsystem\nX\x01\x00\x00\x00xo",  # OBJ
        b"(X\x01\x00\x00\x00xios\nsystem\n",  # INST
    ],
)
def test_a_call_of_anything_else_is_refused_by_name(write, evil, tmp_path):
    path = write(tmp_path / "x.pth", dictionary(a=evil, b=tensor("0", (6,), (1,))), {"0": NUMBERS})
    with pytest.raises(DataError) as error:
        read_torch(path)
    assert error.value.exit_code == 65
    assert "must hold tensors alone, but it" in str(error.value)


def test_a_real_malicious_pickle_does_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "canary"), "w")

    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        content = pickle.dumps({"a": Evil()}, protocol)
        with pytest.raises(Refused, match=r"open"):
            interpret(io.BytesIO(content), _refuse, _refuse)
        with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
            archive.writestr("x/data.pkl", content)
        with pytest.raises(DataError, match=r"it calls \w+\.open"):
            read_torch(tmp_path / "x.pth")
        assert not (tmp_path / "canary").exists()
        pickle.loads(content)["a"].close()  # noqa: S301  the canary sees a pickle that is run
        (tmp_path / "canary").unlink()


def _refuse(name, *_):
    raise Refused(f"it calls {name}")


def test_plain_data_of_every_protocol_are_read():
    value = {"a": [1, -2, 2**40, 1.5, None, True, False], "b": ("x", (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)), 3: [[], {}]}
    value["again"] = value["a"]
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert interpret(io.BytesIO(pickle.dumps(value, protocol)), _refuse, _refuse) == value


def test_a_global_is_its_name():
    assert interpret(io.BytesIO(program(b"cos\nsystem\n")), _refuse, _refuse) == Global("os.system")


@WRITERS
@pytest.mark.parametrize(
    "body",
    [
        dictionary(w=tensor("0", (7,), (1,))),  # longer than its storage
        dictionary(w=tensor("0", (2, 3), (3, 2))),  # reaches outside
        dictionary(w=tensor("0", (2,), (1,), offset=5)),
        dictionary(w=tensor("0", (2,), (-1,), offset=1)),
        dictionary(w=tensor("0", (2**30,), (0,))),  # one number repeated until the memory is full
        dictionary(w=tensor("0", (6,), (1, 1))),
        dictionary(w=tensor("missing", (6,), (1,))),
        b"a",  # an item for nothing
        b"h\x07",  # an object that was never remembered
        b"]" + text("a") + text("b") + b"s",  # sets an item of a list
    ],
)
def test_damage_is_a_storage_error(write, body, tmp_path):
    with pytest.raises(StorageError, match=r"must be what torch\.save writes, but it is damaged"):
        read_torch(write(tmp_path / "x.pth", body, {"0": NUMBERS}))


def test_a_file_cut_short_is_damaged(tmp_path):
    whole = write_legacy(tmp_path / "x.pth", dictionary(w=tensor("0", (6,), (1,))), {"0": NUMBERS}).read_bytes()
    for size in (2, 40, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.pth").write_bytes(whole[:size])
        with pytest.raises(StorageError, match="damaged"):
            read_torch(tmp_path / "cut.pth")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"compression": zipfile.ZIP_DEFLATED}, "compressed"),
        ({"order": b"big"}, "big-endian"),
    ],
)
def test_what_torch_does_not_write_is_refused(arguments, reason, tmp_path):
    path = write_zip(tmp_path / "x.pth", dictionary(w=tensor("0", (6,), (1,))), {"0": NUMBERS}, **arguments)
    with pytest.raises(DataError, match=reason):
        read_torch(path)


@pytest.mark.parametrize("size", [0x0280, 0x4B50])
def test_a_safetensors_file_is_not_taken_for_one_of_torch(size, tmp_path):
    """Its first bytes are the length of its header, which may read as those of a pickle or a zip."""
    header = b'{"__metadata__":{"a":"b"}}'.ljust(size)
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", size) + header)
    assert not is_torch_file(tmp_path / "x.safetensors")


def test_a_file_without_a_state_dict(tmp_path):
    with pytest.raises(DataError, match=r"it holds 'epoch' and no state dict, alone or under 'state_dict' or 'model'"):
        read_torch(write_zip(tmp_path / "x.pth", dictionary(epoch=integer(3)), {}))
    (tmp_path / "y.pth").write_bytes(pickle.dumps([1], protocol=2))
    with pytest.raises(DataError, match="some other pickle"):
        read_torch(tmp_path / "y.pth")
    with pytest.raises(StorageError, match="No such file"):
        read_torch(tmp_path / "none.pth")
