"""A decoded split is stored once, believed only while it is what was stored, and never in the way."""

import numpy as np
import pytest

from resflax.data import cache
from resflax.data.arrays import ImageArrays


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return ImageArrays(rng.integers(0, 256, (20, 4, 5, 3), np.uint8), np.arange(20, dtype=np.int32) % 3, ("a", "b", "ü"))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "resflax" / "decoded"


class Decoder:
    """Counts how often it decodes."""

    def __init__(self, arrays):
        self.arrays, self.calls = arrays, 0

    def __call__(self):
        self.calls += 1
        return self.arrays


def assert_same(found, arrays):
    np.testing.assert_array_equal(found.images, arrays.images)
    np.testing.assert_array_equal(found.labels, arrays.labels)
    assert found.class_names == arrays.class_names
    assert found.fingerprint() == arrays.fingerprint()


def test_the_second_call_reads_a_memory_map(arrays, folder):
    make = Decoder(arrays)
    for _ in range(3):
        found = cache.decoded("a1", make)
        assert_same(found, arrays)
    assert make.calls == 1
    assert type(found.images) is np.ndarray
    assert isinstance(found.images.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        found.images[0] = 0
    assert [path.name for path in folder.iterdir()] == ["a1"]


def test_another_key_is_another_split(arrays):
    cache.decoded("a1", Decoder(arrays))
    other = Decoder(ImageArrays(arrays.images[:5], arrays.labels[:5], arrays.class_names))
    assert len(cache.decoded("b2", other)) == 5
    assert other.calls == 1


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "bit in the images": lambda folder: flip_a_bit(folder / "images.npy"),
    "bit in the labels": lambda folder: flip_a_bit(folder / "labels.npy"),
    "images cut off": lambda folder: (folder / "images.npy").write_bytes((folder / "images.npy").read_bytes()[:200]),
    "empty images": lambda folder: (folder / "images.npy").write_bytes(b""),
    "no labels": lambda folder: (folder / "labels.npy").unlink(),
    "description cut off": lambda folder: (folder / "about.json").write_text('{"class_names": ["a"'),
    "description of something else": lambda folder: (folder / "about.json").write_text("[1]"),
    "other class names": lambda folder: (folder / "about.json").write_text(
        (folder / "about.json").read_text().replace('"a"', '"c"')
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_decoded_again(damage, arrays, folder):
    make = Decoder(arrays)
    cache.decoded("a1", make)
    DAMAGES[damage](folder / "a1")
    assert_same(cache.decoded("a1", make), arrays)
    assert make.calls == 2
    assert_same(cache.decoded("a1", make), arrays)
    assert make.calls == 2


def test_a_cache_that_cannot_be_written_is_done_without(arrays, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    make = Decoder(arrays)
    for _ in range(2):
        assert_same(cache.decoded("a1", make), arrays)
    assert make.calls == 2


@pytest.mark.parametrize("damage", [None, "labels.npy", "about.json"])
def test_labels_and_fingerprints_are_kept_likewise(damage, tmp_path):
    calls = []

    def make():
        calls.append(1)
        return np.arange(7, dtype=np.int32), "0123456789abcdef"

    for _ in range(2):
        labels, fingerprint = cache.scanned("a1", make)
        assert (labels.tolist(), fingerprint) == (list(range(7)), "0123456789abcdef")
        assert labels.dtype == np.int32
        if damage:
            flip_a_bit(tmp_path / "resflax" / "scanned" / "a1" / damage)
    assert len(calls) == (2 if damage else 1)
