"""Random parts of encoded images, against Pillow: decode the whole, crop, resize."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from resflax.data import jpeg, parts
from resflax.data.decode import decode
from resflax.data.geometry import ATTEMPTS, random_box, shrink
from resflax.data.order import uniforms
from resflax.data.parts import random_part
from resflax.errors import InputError

BILINEAR = Image.Resampling.BILINEAR


def draws(index):
    return uniforms(0, 0, index, 4 * ATTEMPTS).tolist()


def encoded(image, **options):
    content = io.BytesIO()
    image.save(content, **{"format": "JPEG", "quality": 95, **options})
    return content.getvalue()


def reference(data, size, index, channels=3):
    """What the part must be near."""
    image = decode(io.BytesIO(data), channels)
    resized = image.crop(random_box(*image.size, draws(index))).resize((size, size), BILINEAR)
    return np.asarray(resized, float).reshape(size, size, channels)


def difference(one, other):
    return np.abs(one.astype(float) - other).mean()


@pytest.fixture(scope="module")
def photographs():
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


@pytest.fixture
def no_fallback(monkeypatch):
    """Decoding whole with Pillow fails here."""

    def fail(*_):
        raise AssertionError("the whole image was decoded")

    monkeypatch.setattr(parts, "decode", fail)


# Quality and subsampling of colour: 4:4:4 and 4:2:0.
@pytest.mark.parametrize(("quality", "subsampling"), [(95, 0), (75, 2)])
@pytest.mark.parametrize("size", [224, 128, 64])
def test_photographs_are_within_two_levels_of_pillow(photographs, quality, subsampling, size, no_fallback):
    for photograph in photographs:
        data = encoded(photograph, quality=quality, subsampling=subsampling)
        apart = [
            difference(random_part(io.BytesIO(data), 3, size, draws(index)), reference(data, size, index))
            for index in range(12)
        ]
        assert max(apart) <= 2
        assert np.mean(apart) <= 1.1


@pytest.mark.parametrize("factor", jpeg.FACTORS)
def test_large_photographs(photographs, factor, no_fallback, monkeypatch):
    """Of 8 and more times the size asked for, at every fraction."""
    used = []
    monkeypatch.setattr(parts.jpeg, "decode_rows", lambda *a, f=jpeg.decode_rows: used.append(a[2]) or f(*a))
    size = {1: 256, 2: 64, 4: 40, 8: 20}[factor]
    for photograph in photographs:
        data = encoded(photograph)
        apart = [
            difference(random_part(io.BytesIO(data), 3, size, draws(index)), reference(data, size, index))
            for index in range(30)
        ]
        assert max(apart) <= 2
    assert factor in used


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_blocks": 3}, {"exif": True}]
)
def test_rows_above_are_those_of_the_whole(photographs, options):
    """Leaving out what is beneath changes nothing above, and a decoded pixel is Pillow's."""
    if "exif" in options:  # a thumbnail before the image
        options = {"exif": b"Exif\0\0" + b"\xff\xd8\xff\xc0\0\x11\x08\0\x10\0\x10" * 50}
    for subsampling in (0, 1, 2):
        data = encoded(photographs[0], subsampling=subsampling, **options)
        whole = np.asarray(Image.open(io.BytesIO(data)))
        for rows in (1, 7, 8, 16, 17, 200, 419, 420, 426, 427):
            np.testing.assert_array_equal(jpeg.decode_rows(data, rows, 1, 3)[:rows], whole[:rows])


def test_fewer_rows_are_decoded(photographs):
    data = encoded(photographs[0])
    assert jpeg.decode_rows(data, 100, 1, 3).shape == (108, 640, 3)
    assert jpeg.decode_rows(data, 100, 4, 3).shape == (27, 160, 3)
    assert jpeg.decode_rows(data, 427, 2, 3).shape == (214, 320, 3)
    assert jpeg.decode_rows(encoded(photographs[0], progressive=True), 100, 1, 3).shape == (427, 640, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [96, 24])
def test_the_part_is_one_of_the_upright_image(photographs, orientation, size, no_fallback):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photographs[1], exif=exif)
    for index in range(4):
        assert difference(random_part(io.BytesIO(data), 3, size, draws(index)), reference(data, size, index)) <= 2


def test_grey(photographs, no_fallback):
    data = encoded(photographs[1].convert("L"))
    for size in (96, 24):
        part = random_part(io.BytesIO(data), 1, size, draws(2))
        assert part.shape == (size, size, 1)
        assert difference(part, reference(data, size, 2, channels=1)) <= 1.5


def variants(photograph):
    """Files of which the whole is decoded."""
    small = photograph.resize((160, 107))
    grey_as_colour = encoded(small.convert("L"))
    yield encoded(small, format="PNG"), 3
    yield encoded(small, format="WEBP"), 3
    yield encoded(small.convert("CMYK")), 3
    yield grey_as_colour, 3
    yield encoded(small), 1
    yield encoded(small) + b"trailing", 3
    yield encoded(small.resize((3, 2))), 3


def test_all_others_are_exactly_pillows(photographs):
    for number, (data, channels) in enumerate(variants(photographs[0])):
        part = random_part(io.BytesIO(data), channels, 20, draws(number))
        if data.startswith(b"\xff\xd8") and channels == 3 and len(data) < 1000:  # tiny, and enlarged
            assert difference(part, reference(data, 20, number, channels)) <= 1.5
        else:
            np.testing.assert_array_equal(part, reference(data, 20, number, channels))


def test_a_photograph_in_a_file_and_one_in_memory_are_the_same(photographs, tmp_path):
    data = encoded(photographs[0])
    (tmp_path / "a.jpg").write_bytes(data)
    np.testing.assert_array_equal(
        random_part(tmp_path / "a.jpg", 3, 64, draws(0)), random_part(io.BytesIO(data), 3, 64, draws(0))
    )


@pytest.mark.parametrize("kept", [0, 1, 2, 100, 0.3, 0.9, -2, -1])
def test_a_file_cut_short_is_an_error_even_below_the_part(photographs, kept, tmp_path):
    """The part is the upper left corner, so that nothing of what is missing is needed."""
    data = encoded(photographs[0])
    cut = data[: int(kept * len(data)) if isinstance(kept, float) else kept]
    (tmp_path / "cut.jpg").write_bytes(cut)
    corner = [0.0, 0.5, 0.0, 0.0] * ATTEMPTS
    with pytest.raises(InputError) as of_whole:
        decode(tmp_path / "cut.jpg", 3)
    with pytest.raises(InputError) as of_part:
        random_part(tmp_path / "cut.jpg", 3, 32, corner)
    assert str(of_part.value) == str(of_whole.value)
    with pytest.raises(InputError, match=r"^example 7 must be a readable JPEG"):
        random_part(io.BytesIO(cut), 3, 32, corner, "example 7")


def test_paths_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, says in (
        (tmp_path / "none.jpg", "check the path"),
        (tmp_path, "it is a folder"),
        (tmp_path / "pipe", "or a device"),
    ):
        with pytest.raises(InputError, match=says):
            random_part(path, 3, 8, draws(0))


def test_whatever_was_damaged_ends_as_decoding_the_whole_does(photographs):
    """Pixels where that gives pixels, its error where it does not."""
    data = encoded(photographs[0].resize((90, 60)))
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(150):
        damaged, outcome = bytearray(data), []
        for place in rng.integers(0, min(len(data), 900), rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        for function, more in ((decode, ()), (random_part, (16, draws(1)))):
            try:
                outcome.append(function(io.BytesIO(damaged), 3, *more, name="x") is not None)
            except InputError as error:
                outcome.append(str(error))
        outcomes.add(outcome[0])
        assert outcome[0] == outcome[1]
    assert len(outcomes) > 3


def test_too_many_pixels(photographs, monkeypatch):
    monkeypatch.setattr("resflax.data.decode.MAX_PIXELS", 640 * 427 - 1)
    with pytest.raises(InputError, match="must have at most 273279 pixels, got 640 x 427; scale it down"):
        random_part(io.BytesIO(encoded(photographs[0])), 3, 64, draws(0), "x")


# ---- shrink


def triangle(pixels, size):
    """Antialiased bilinear by its definition, in float64."""
    for _ in range(2):
        length = pixels.shape[0]
        scale = length / size
        centers = (np.arange(size) + 0.5) * scale
        weights = np.maximum(0, 1 - np.abs(np.arange(length) + 0.5 - centers[:, None]) / max(scale, 1))
        pixels = np.tensordot(weights / weights.sum(1, keepdims=True), pixels, 1).swapaxes(0, 1)
    return pixels


@pytest.mark.parametrize("scale", [0.5, 1, 2, 3, 4, 5, 6, 8])
def test_whole_scales_are_exact_but_for_rounding(photographs, scale):
    pixels = np.asarray(photographs[0])[20:260, 100:340]
    size = round(240 / scale)
    ours = shrink(pixels, (0, 0, 240, 240), size)
    inner = slice(3, -3)  # at the edge the outermost pixels are repeated, where Pillow weighs fewer
    assert difference(ours[inner, inner], triangle(pixels.astype(float), size)[inner, inner]) <= 0.6


@pytest.mark.parametrize("scale", [1.0, 1.1, 1.5, 1.99, 2.0, 2.7, 3.3, 4.0, 4.9])
def test_brightness_is_kept(scale):
    for level in (1, 127, 254):
        pixels = np.full((200, 200, 3), level, np.uint8)
        assert (shrink(pixels, (0, 0, 40 * scale, 40 * scale), 40) == level).all()


def test_a_box_may_cut_through_pixels():
    """A ramp stays a ramp, in its place."""
    ramp = np.repeat(np.arange(250, dtype=np.uint8)[None], 250, 0)[..., None]
    for left in (10.0, 10.25, 10.5, 10.75):
        found = shrink(ramp, (left, 3.5, left + 120, 123.5), 80)[40, 5:-5, 0]
        expected = left + (np.arange(80) + 0.5) * 1.5 - 0.5
        assert np.abs(found - expected[5:-5]).max() <= 1


def test_nothing_outside_of_the_box_is_seen():
    pixels = np.full((100, 100, 3), 255, np.uint8)
    pixels[20:80, 30:90] = 7
    for size in (80, 50, 33, 10):
        assert (shrink(pixels, (30, 20, 90, 80), size) == 7).all()
