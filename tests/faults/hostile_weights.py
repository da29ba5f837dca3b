"""Files that are given out for weights, each made to run code, to fill the memory, or to take for ever."""

import functools
import io
import json
import os
import pickle
import struct
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

import h5py
import joblib
import msgpack
import numpy as np
from flax import serialization
from safetensors.numpy import save

from resflax.weights.safetensors import write_weights
from tests.weights import random_network
from tests.weights.test_torch_reader import call, dictionary, integer, program, tensor, text, write_legacy, write_zip

GIGABYTE = 2**30


class Trap:
    """Unpickled, it writes the canary."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"echo sprung > '{self.canary}'",)


def bomb(size):
    """A deflate stream of so many zeros, a thousandth of their number, made without making them."""
    piece = 2**20
    assert size % piece == 0
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = packer.compress(bytes(piece)) + packer.flush(zlib.Z_FULL_FLUSH)
    return first * (size // piece) + packer.flush()


def zip_of(members):
    """A zip archive of `(name, stored bytes, size they claim to unpack to, method)`, with the checksums of what is stored."""
    body, directory = b"", b""
    for name, content, size, method in members:
        sizes = struct.pack("<IIIHH", zlib.crc32(content), len(content), size, len(name), 0)
        common = struct.pack("<HHHHH", 20, 0, method, 0, 0) + sizes
        place = struct.pack("<HHHII", 0, 0, 0, 0, len(body))
        directory += b"PK\x01\x02" + struct.pack("<H", 20) + common + place + name.encode()
        body += b"PK\x03\x04" + common + name.encode() + content
    return body + directory + end_of_zip(len(members), len(directory), len(body))


def end_of_zip(count, length, place):
    return b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, count, count, length, place, 0)


def npy_header(shape, dtype="|u1"):
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": dtype, "fortran_order": False, "shape": shape})
    return content.getvalue()


def npz_bomb(count):
    """An .npz of `count` GB of zeros in as many MB."""
    shape = (count * GIGABYTE // 64, 8, 8, 1)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    header = npy_header(shape)
    stream = packer.compress(header) + packer.flush(zlib.Z_FULL_FLUSH) + bomb(count * GIGABYTE)
    return zip_of([("train_images.npy", stream, len(header) + count * GIGABYTE, zipfile.ZIP_DEFLATED)])


def saved(function, *arguments, **options):
    content = io.BytesIO()
    function(content, *arguments, **options)
    return content.getvalue()


def h5(fill):
    content = io.BytesIO()
    with h5py.File(content, "w") as root:
        root.create_group("layers/conv2d/vars").attrs["name"] = "conv1_conv"
        fill(root, root["layers/conv2d/vars"])
    return content.getvalue()


def h5_many_names(root, variables):
    variables["0"] = np.zeros(2**18)
    for index in range(500):
        group = root.create_group(f"layers/conv2d_{index}/vars")
        group.attrs["name"], group["0"] = f"conv{index}", variables["0"]


def safetensors_of(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def nested_tuples(depth):
    """A pickle's tuple of tuples of tuples ..., whose hash takes 2 ** depth steps."""
    return b"K\x01" + b"".join(b"q" + bytes([index]) + b"h" + bytes([index]) + b"\x86" for index in range(depth))


def legacy_tar(canary):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            body = pickle.dumps(Trap(canary), 2)
            member = tarfile.TarInfo(name)
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return content.getvalue()


def torch_zip(folder, body, storages=None, **options):
    return write_zip(folder / "made", body, storages or {}, **options).read_bytes()


def torch_legacy(folder, body, storages=None):
    return write_legacy(folder / "made", body, storages or {}).read_bytes()


def overlapping_zip():
    """A thousand storages that are all the same megabyte of the file."""
    names = [f"x/data/{index:03x}" for index in range(1000)]
    body = b"}(" + b"".join(text(name) + tensor(name[-3:], (2**18,), (1,), count=2**18) for name in names) + b"u"
    pickled = program(body)
    whole = zip_of([("x/data.pkl", pickled, len(pickled), 0), (names[0], bytes(2**20), 2**20, 0)])
    directory, end = whole.index(b"PK\x01\x02"), whole.index(b"PK\x05\x06")
    entry = whole[whole.index(b"PK\x01\x02", directory + 1) : end]
    entries = b"".join(entry.replace(names[0].encode(), name.encode()) for name in names[1:])
    return whole[:end] + entries + end_of_zip(1001, end - directory + len(entries), directory)


@functools.cache
def network_file():
    """The weight file of a real network: its header, and its numbers."""
    _, variables, metadata = random_network("cifar_resnet8", 8, width=4)
    reading = {"source_shape": [8, 8, 3], "crop": "none", "crop_ratio": 1.0, "interpolation": "bilinear"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        write_weights(path, variables, {**metadata, **reading})
        content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    return content[8 : 8 + size], content[8 + size :]


def weight_file(**changes):
    """That file with other metadata."""
    text, numbers = network_file()
    header = json.loads(text)
    described = json.loads(header["__metadata__"]["resflax"])
    for key, value in changes.items():
        (described["preprocessing"] if key in described["preprocessing"] else described)[key] = value
    header["__metadata__"]["resflax"] = json.dumps(described)
    text = json.dumps(header).encode()
    return safetensors_of(text + b" " * (-len(text) % 8), numbers)


def make_all(folder, canary):
    """`{file name: content}`; `folder` is for files on the way."""
    evil = Trap(canary)
    numbers = np.arange(6, dtype=np.float32)
    shared = np.zeros(2**18, np.float32)
    evil_zip = saved(lambda file: zip_pickle(file, pickle.dumps({"w": evil}, 2)))
    keyed = b"}(" + nested_tuples(60) + integer(1) + b"u"
    ordered_by_tuples = b"ccollections\nOrderedDict\n(](](" + nested_tuples(60) + integer(1) + b"eetR"
    many = b"".join(text(f"w{index}") + tensor("0", (2**18,), (1,), count=2**18) for index in range(2000))
    pairs = b"]q\x00(" + (b"](" + text("a") + integer(1) + b"e") * 4000 + b"e"
    copies = b"](" + pairs + b"ccollections\nOrderedDict\nh\x00\x85R" * 4000 + b"e"
    header = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    network = random_network("cifar_resnet8", 8, width=4)[1]
    return {
        # code
        **{f"protocol {number}.pkl": pickle.dumps(evil, number) for number in range(6)},
        "pickle.safetensors": pickle.dumps(evil),
        "pickle.npz": pickle.dumps(evil),
        "pickle.h5": pickle.dumps(evil),
        "zip.pt": evil_zip,
        "zip.safetensors": evil_zip,
        "zip.npz": evil_zip,
        "tar.pt": legacy_tar(canary),
        "legacy.pt": torch_legacy(folder, dictionary(a=call("os", "system", text(f"echo > '{canary}'")))),
        "joblib.pkl": saved(lambda file: joblib.dump(evil, file)),
        "compressed joblib.pkl": saved(lambda file: joblib.dump(evil, file, compress=3)),
        "object.npy": saved(lambda file: np.save(file, np.array([evil], object), allow_pickle=True)),
        "object.npz": saved(lambda file: np.savez(file, train_images=np.array([evil], object), train_labels=np.zeros(1, int))),
        "structured.npz": saved(lambda file: np.savez(file, train_images=np.array([(evil, 1)], [("a", "O"), ("b", "i4")]))),
        "network.msgpack": serialization.to_bytes(network),
        "array of 2 to the 32.msgpack": b"\xdd\xff\xff\xff\xff",
        "map of 2 to the 32.msgpack": b"\xdf\xff\xff\xff\xff" + msgpack.packb("a"),
        "web page.safetensors": b"<!DOCTYPE html><html>404</html>",
        "network.onnx": b"\x08\x07\x12\x07pytorch\x1a\x052.0.0" + bytes(100),
        "network.stablehlo": b"ML\xefR\x01StableHLO_v1.0.0\x00" + bytes(100),
        "empty.safetensors": b"",
        "a byte.pt": b"\x80",
        # memory
        "bomb.npz": npz_bomb(3),
        "claims.npz": zip_of([("train_images.npy", npy_header((2**40,)), len(npy_header((2**40,))), 0)]),
        "claims both.npz": zip_of([("train_images.npy", npy_header((2**31,)), 2**31 + 128, 0)]),
        "nothing.npz": zip_of([("train_images.npy", npy_header((0, 2**62)), len(npy_header((0, 2**62))), 0)]),
        "overflow.npz": zip_of([("train_images.npy", npy_header((2**62, 2**62)), 128, 0)]),
        "bzip2.npz": saved(lambda file: zip_with(file, zipfile.ZIP_BZIP2, npy_header((2**26,)) + bytes(2**26))),
        "deep header.npz": zip_of([deep()]),
        "bomb.h5": h5(lambda root, group: group.create_dataset("0", (2**40,), "f4", chunks=(2**20,), compression="gzip")),
        "not written.h5": h5(lambda root, group: group.create_dataset("0", (2**34,), "f4", fillvalue=1)),
        "zeros.h5": h5(lambda root, group: group.create_dataset("0", data=np.zeros(2**26, "f4"), compression="gzip")),
        "many names.h5": h5(h5_many_names),
        "external.h5": h5(lambda root, group: group.create_dataset("0", (4,), "f4", external=[("/etc/passwd", 0, 16)])),
        "virtual.h5": h5(virtual),
        "link.h5": h5(lambda root, group: group.__setitem__("0", h5py.ExternalLink("/etc/passwd", "x"))),
        "cycle.h5": h5(lambda root, group: root.__setitem__("layers/again", h5py.SoftLink("/layers"))),
        "bomb.keras": saved(lambda file: zip_with(file, zipfile.ZIP_DEFLATED, bytes(2**26), "model.weights.h5")),
        "header of 2 to the 63.safetensors": struct.pack("<Q", 2**63) + b"{}",
        "header of 100 MB.safetensors": struct.pack("<Q", 100_000_000) + b"{}",
        "overlapping.safetensors": safetensors_of({"a": header["w"], "b": header["w"]}, bytes(8)),
        "outside.safetensors": safetensors_of({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 2**40]}}, bytes(8)),
        "backwards.safetensors": safetensors_of({"w": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}, bytes(8)),
        "huge.safetensors": safetensors_of({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}}, bytes(8)),
        "overflow.safetensors": safetensors_of({"w": {"dtype": "F32", "shape": [2**33] * 4, "data_offsets": [0, 8]}}, bytes(8)),
        "a hole.safetensors": safetensors_of(header, bytes(64)),
        "deep.safetensors": safetensors_of(b'{"a":' * 50000 + b"1" + b"}" * 50000),
        "unknown type.safetensors": safetensors_of(
            {"w": {**header["w"], "dtype": "F8_E4M3", "data_offsets": [0, 2]}}, bytes(2)
        ),
        "deep metadata.safetensors": save({"w": np.zeros(1)}, {"resflax": "[" * 200_000}),
        "compressed.pt": torch_zip(
            folder, dictionary(w=tensor("0", (6,), (1,))), {"0": numbers}, compression=zipfile.ZIP_DEFLATED
        ),
        "a number repeated.pt": torch_zip(folder, dictionary(w=tensor("0", (2**30,), (0,))), {"0": numbers}),
        "one storage, many tensors.pt": torch_zip(folder, b"}(" + many + b"u", {"0": shared}),
        "overlapping members.pt": overlapping_zip(),
        "a string of 2 to the 60.pt": torch_legacy(folder, b"\x8d" + struct.pack("<Q", 2**60)),
        "bytes of 2 to the 60.pt": torch_zip(folder, b"\x8e" + struct.pack("<Q", 2**60)),
        "copies.pt": torch_zip(folder, copies),
        # time
        "keys of tuples.pt": torch_zip(folder, keyed),
        "keys of tuples.legacy.pt": torch_legacy(folder, keyed),
        "ordered by tuples.pt": torch_zip(folder, ordered_by_tuples),
        "a name of tuples.pt": torch_zip(folder, nested_tuples(60) + text("x") + b"\x93"),
        "a storage of tuples.pt": torch_zip(
            folder, b"(" + nested_tuples(60) + b"ctorch\nFloatStorage\n" + text("0") * 2 + integer(1) + b"tQ"
        ),
        "an endless integer.pt": torch_zip(folder, b"\x8b" + struct.pack("<i", 10**6) + b"\x7f" * 10**6),
        # what describes a network
        "large images.safetensors": weight_file(image_size=[2**20, 2**20]),
        "images of no size.safetensors": weight_file(image_size=[0, 8]),
        "images of text.safetensors": weight_file(image_size=["8", "8"]),
        "no deviation.safetensors": weight_file(std=[0, 1, 1]),
        "a mean of another shape.safetensors": weight_file(mean=[[0.5]] * 3),
        "infinite width.safetensors": weight_file(kwargs={"width": 10**30}),
        "large width.safetensors": weight_file(kwargs={"width": 2**30}),
        "a million layers.safetensors": weight_file(model="cifar_resnet6000002"),
        "a long name.safetensors": weight_file(model="x" * 10**7),
        "many digits.safetensors": weight_file(model="cifar_resnet" + "8" * 10**5),
        "many classes.safetensors": weight_file(num_classes=10**12, class_names=None),
        "too few names.safetensors": weight_file(class_names=["one"]),
        "names that are none.safetensors": weight_file(class_names=[{}] * 10),
        "no filter.safetensors": weight_file(interpolation=7),
        "no crop.safetensors": weight_file(crop="center", crop_ratio=0),
        "a wide crop.safetensors": weight_file(crop="center", crop_ratio=3.0),
        "a large source.safetensors": weight_file(source_shape=[10**6, 10**6, 3]),
        "other channels.safetensors": weight_file(source_shape=[8, 8, 1]),
        "not a number.safetensors": weight_file(std=[float("nan")] * 3),
    }


def deep():
    """A header of brackets alone."""
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"[" * 9000
    return "train_images.npy", content, len(content), 0


def virtual(root, group):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
    group.create_virtual_dataset("0", layout)


def zip_pickle(file, content):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3")


def zip_with(file, method, content, name="train_images.npy"):
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, content)
