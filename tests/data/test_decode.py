import io
import os
import random
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from resflax.data.decode import MAX_PIXELS, decode, find_images
from resflax.data.geometry import stretch
from resflax.errors import InputError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3)).astype(np.uint8)
GREY = RNG.integers(0, 256, (5, 7)).astype(np.uint8)
ALPHA = RNG.integers(0, 256, (5, 7)).astype(np.uint8)
SHAPE = (5, 7, 3)
ORIENTATION = 0x0112


def read_image(path, shape):
    return np.asarray(stretch(decode(path, shape[2]), *shape[:2])).reshape(shape)


def encode(pixels, file_format="PNG", **options):
    content = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(content, file_format, **options)
    return content.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth, colour, data):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def exif(orientation):
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def refusal(path, shape=SHAPE):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError) as caught:
            read_image(path, shape)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path} must ".replace("\n", " "))
    return message


def laid_on_white(colours, alpha):
    opacity = alpha[..., None] / 255
    return colours * opacity + 255 * (1 - opacity)


PNG = encode(RGB)
JPEG = encode(RGB, "JPEG")
IDAT = PNG.index(b"IDAT")
SAME = np.repeat(GREY[..., None], 3, axis=2)
PALETTE = np.arange(35).reshape(5, 7).astype(np.uint8)
COLOURS = RNG.integers(0, 256, (256, 3)).astype(np.uint8)


def palette_with_alpha():
    image = Image.frombytes("P", (7, 5), PALETTE.tobytes())
    image.putpalette(COLOURS.tobytes())
    return encode(image, transparency=bytes(range(0, 210, 6)))


# name -> (content, expected pixels, tolerance in levels)
GOOD = {
    "rgb.png": (PNG, RGB, 0),
    "rgb.webp": (encode(RGB, "WEBP", lossless=True), RGB, 0),
    "rgba.webp": (
        encode(np.dstack([RGB, np.full_like(ALPHA, 255)]), "WEBP", lossless=True),
        RGB,
        0,
    ),
    "rgb.jpg": (JPEG, np.asarray(Image.open(io.BytesIO(JPEG))), 0),
    "no suffix at all": (PNG, RGB, 0),
    "png called.jpg": (PNG, RGB, 0),
    "with junk behind.png": (PNG + b"junk", RGB, 0),
    "grey.png": (encode(GREY), SAME, 0),
    "grey.jpg": (encode(np.full((5, 7), 77, np.uint8), "JPEG"), np.full(SHAPE, 77), 0),
    "one bit.png": (encode(Image.fromarray(GREY > 127)), (SAME > 127) * 255, 0),
    "grey and alpha.png": (encode(np.dstack([GREY, ALPHA])), laid_on_white(SAME, ALPHA), 1),
    "rgb and alpha.png": (encode(np.dstack([RGB, ALPHA])), laid_on_white(RGB, ALPHA), 1),
    "one colour transparent.png": (
        encode(RGB, transparency=tuple(map(int, RGB[2, 3]))),
        np.where(np.equal(RGB, RGB[2, 3]).all(-1, keepdims=True), 255, RGB),
        0,
    ),
    "palette.png": (
        palette_with_alpha(),
        laid_on_white(COLOURS[PALETTE], np.arange(0, 210, 6).reshape(5, 7)),
        1,
    ),
    "sixteen bits grey.png": (encode((GREY * np.uint16(257)).astype(np.uint16)), SAME, 0),
    "sixteen bits rgb.png": (
        png(7, 5, 16, 2, b"".join(b"\0" + row.astype(">u2").tobytes() for row in RGB * np.uint16(257))),
        RGB,
        0,
    ),
    "cmyk.jpg": (encode(Image.new("CMYK", (7, 5), (0, 255, 255, 0)), "JPEG"), np.tile([255, 0, 0], (5, 7, 1)), 3),
    "one pixel.png": (encode(np.full((1, 1, 3), 9, np.uint8)), np.full(SHAPE, 9), 0),
    "progressive.jpg": (
        encode(np.full(SHAPE, 200, np.uint8), "JPEG", progressive=True),
        np.full(SHAPE, 200),
        1,
    ),
    "damaged exif.jpg": (encode(np.full(SHAPE, 50, np.uint8), "JPEG", exif=b"Exif\0\0garbage"), np.full(SHAPE, 50), 1),
    "damaged exif.png": (
        PNG[: IDAT - 4] + chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x05\x01\x12") + PNG[IDAT - 4 :],
        RGB,
        0,
    ),
}

BAD = {
    "empty.png": (b"", "it is none, or its beginning is damaged"),
    "one byte.jpg": (b"\xff", "it is none, or its beginning is damaged"),
    "only a signature.png": (PNG[:8], "must be a readable"),
    "only a header.png": (PNG[: IDAT - 4], "must be a readable"),
    "only a header.jpg": (JPEG[:20], "must be a readable"),
    "only a header.webp": (encode(RGB, "WEBP")[:16], "must be a readable"),
    "truncated.png": (PNG[: IDAT + 40], "truncated"),
    "truncated.jpg": (JPEG[:-10], "truncated"),
    "truncated.webp": (encode(RGB, "WEBP")[:-20], "must be a readable"),
    "bad checksum in header.png": (PNG[:20] + b"\x09" + PNG[21:], "it is none, or its beginning is damaged"),
    "bad checksum in pixels.png": (PNG[: IDAT + 20] + bytes([PNG[IDAT + 20] ^ 1]) + PNG[IDAT + 21 :], "must be a readable"),
    "no compressed stream.png": (png(7, 5, 8, 2, b"")[: IDAT + 4] + b"\0" * 30, "must be a readable"),
    "no pixels.png": (png(0, 0, 8, 2, b""), "must be a readable"),
    "bomb.png": (png(9000, 9000, 8, 2, b""), f"at most {MAX_PIXELS} pixels, got 9000 x 9000; scale it down"),
    "greater bomb.png": (png(2**31 - 1, 2**31 - 1, 8, 2, b""), f"at most {MAX_PIXELS} pixels; scale it down"),
    "bomb.gif": (b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0", "it is none"),
    "animation.gif": (encode(RGB, "GIF"), "it is none"),
    "bitmap.bmp": (encode(RGB, "BMP"), "it is none"),
    "photo.tiff": (encode(RGB, "TIFF"), "it is none"),
    "web page.jpg": (b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>", "it is none"),
    "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "it is none"),
    "two\nlines.png": (b"", "it is none"),
}


RAMP = np.stack(np.meshgrid(np.arange(0, 192, 2), np.arange(0, 192, 3)), axis=-1)[..., [0, 1, 0]].astype(np.uint8)
LARGE = encode(RAMP, "JPEG", quality=95)
RESTARTS = encode(RAMP, "JPEG", quality=95, restart_marker_blocks=1)
FRAME, TABLE = LARGE.index(b"\xff\xc0"), LARGE.index(b"\xff\xc4")


def archive():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("photo.jpg", LARGE)
    return content.getvalue()


def as_ycck():
    """The mark that Adobe's programs leave: four channels of which three are luminance and colour differences."""
    content = bytearray(encode(Image.fromarray(np.dstack([RAMP, RAMP[..., 0]]), "CMYK"), "JPEG", quality=95))
    content[content.index(b"Adobe") + 11] = 2
    return bytes(content)


ODD = {
    "cmyk": encode(Image.fromarray(np.dstack([RAMP, RAMP[..., 0]]), "CMYK"), "JPEG", quality=95),
    "ycck": as_ycck(),
    "progressive": encode(RAMP, "JPEG", quality=95, progressive=True),
    "junk behind": LARGE + b"junk" * 10,
    "restart markers": RESTARTS,
    "a wrong restart marker": RESTARTS.replace(b"\xff\xd3", b"\xff\xd6", 1),
    "a damaged colour profile": encode(RAMP, "JPEG", quality=95, icc_profile=b"damaged" * 30),
    "65,500 pixels wide": encode(np.full((1, 65500, 3), 9, np.uint8), "JPEG"),
}

BAD |= {
    "10 percent.jpg": (LARGE[: len(LARGE) // 10], "must be a readable"),
    "50 percent.jpg": (LARGE[: len(LARGE) // 2], "truncated"),
    "99 percent.jpg": (LARGE[: len(LARGE) * 99 // 100], "truncated"),
    "without an end.jpg": (LARGE[:-2], "truncated"),
    "damaged table.jpg": (LARGE[: TABLE + 5] + b"\xff" * 16 + LARGE[TABLE + 21 :], "broken data stream"),
    "without pixels.jpg": (LARGE[: FRAME + 5] + bytes(4) + LARGE[FRAME + 9 :], "it is none, or its beginning is damaged"),
    "zip.jpg": (archive(), "it is none"),
    "gif.jpg": (encode(RGB, "GIF"), "it is none"),
    "animation.jpg": (
        encode(Image.fromarray(RGB), "GIF", save_all=True, append_images=[Image.fromarray(255 - RGB)]),
        "it is none",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_jpegs_have_the_pixels_that_opencv_sees(name, tmp_path):
    path = tmp_path / "odd.jpg"
    path.write_bytes(ODD[name])
    theirs = cv2.imdecode(np.frombuffer(ODD[name], np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(float)
    assert np.abs(np.asarray(decode(path, 3), float) - theirs).mean() <= 2


@pytest.mark.parametrize("name", GOOD)
def test_good_images_have_the_expected_pixels(name, tmp_path):
    content, expected, tolerance = GOOD[name]
    path = tmp_path / name
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = read_image(path, SHAPE)
    assert pixels.dtype == np.uint8
    assert pixels.shape == SHAPE
    np.testing.assert_allclose(pixels.astype(float), expected, atol=tolerance)


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_refused_in_one_line_that_names_them(name, tmp_path):
    content, says = BAD[name]
    path = tmp_path / name
    path.write_bytes(content)
    assert says in refusal(path)


def test_what_is_no_file_is_refused_without_being_opened(tmp_path):
    folder, pipe = tmp_path / "x.jpg", tmp_path / "pipe.png"
    folder.mkdir()
    os.mkfifo(pipe)  # opening it would wait for a writer that never comes
    for path in (folder, pipe, Path(os.devnull)):
        assert "must be an image file, but it is a folder or a device; name a file" in refusal(path)


def test_what_cannot_be_reached_is_refused(tmp_path):
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "dangling.png").symlink_to("nothing.png")
    (tmp_path / "file").write_bytes(PNG)
    assert "Too many levels of symbolic links" in refusal(tmp_path / "loop.png")
    assert "No such file" in refusal(tmp_path / "dangling.png")
    assert "No such file" in refusal(tmp_path / "missing.png")
    assert "Not a directory" in refusal(tmp_path / "file" / "x.png")
    assert "File name too long" in refusal(tmp_path / ("x" * 300))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path):
    path = tmp_path / "secret.png"
    path.write_bytes(PNG)
    path.chmod(0)
    assert "Permission denied" in refusal(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_exif_orientation_is_applied_as_pillow_does(orientation, file_format, tmp_path):
    path = tmp_path / "turned"
    options = {"lossless": True} if file_format == "WEBP" else {}
    path.write_bytes(encode(RGB, file_format, exif=exif(orientation), **options))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    np.testing.assert_array_equal(read_image(path, expected.shape), expected)
    if orientation == 6 and file_format == "PNG":  # the camera was held upright: the first column is the top row
        np.testing.assert_array_equal(expected, np.rot90(RGB, -1))


def test_an_orientation_that_does_not_exist_is_ignored(tmp_path):
    path = tmp_path / "turned.png"
    path.write_bytes(encode(RGB, exif=exif(77)))
    np.testing.assert_array_equal(read_image(path, SHAPE), RGB)


def test_colour_becomes_grey_where_the_network_wants_grey(tmp_path):
    path = tmp_path / "colour.png"
    path.write_bytes(PNG)
    luma = RGB @ np.array([0.299, 0.587, 0.114])  # ITU-R 601-2
    np.testing.assert_allclose(read_image(path, (5, 7, 1))[..., 0], luma, atol=1)


def test_another_size_is_resized_with_antialiasing(tmp_path):
    path = tmp_path / "checks.png"
    path.write_bytes(encode(np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255))
    small = read_image(path, (8, 8, 1))
    assert np.abs(small[1:-1, 1:-1].astype(int) - 127).max() <= 2  # picking single pixels would give 0 or 255


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_a_damaged_file_is_read_or_refused_whatever_the_damage(file_format, tmp_path):
    rng = random.Random(0)
    path = tmp_path / "damaged"
    whole = encode(RGB, file_format, exif=exif(6))
    messages = []
    for number in range(600):
        content = bytearray(whole[: rng.randrange(len(whole))] if number % 3 == 0 else whole)
        for _ in range(rng.randrange(1, 4)):
            if content:
                content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                assert read_image(path, SHAPE).shape == SHAPE
            except InputError as error:
                messages.append(str(error))
    assert 200 < len(messages) < 600
    assert all(message.startswith(f"{path} must ") for message in messages)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("b.png", "a.JPG", "sub/c.webp", "sub/deep/d.jpeg", "notes.txt", ".hidden.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG)
    (tmp_path / "images" / "folder.png").mkdir()
    (tmp_path / "images" / "loop.png").symlink_to("loop.png")
    (tmp_path / "images" / "around").symlink_to(".")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["images"], [".hidden.png", "a.JPG", "b.png", "sub/c.webp", "sub/deep/d.jpeg"]),
        (["images/sub"], ["sub/c.webp", "sub/deep/d.jpeg"]),
        (["images/*.png"], ["b.png"]),
        (["images/*"], ["a.JPG", "b.png", "notes.txt"]),
        (["images/sub/**/*.jpeg"], ["sub/deep/d.jpeg"]),
        (["images/[ab].*"], ["a.JPG", "b.png"]),
        (["images/b.png", "images/a.JPG"], ["b.png", "a.JPG"]),
        (["images/notes.txt", "images/missing.png"], ["notes.txt", "missing.png"]),
    ],
)
def test_paths_folders_and_patterns(arguments, expected, folder):
    assert find_images(arguments) == [Path("images") / name for name in expected]


def test_absolute_patterns(folder):
    assert find_images([f"{folder}/images/sub/*.webp"]) == [folder / "images" / "sub" / "c.webp"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(folder):
    (folder / "x[1].png").write_bytes(PNG)
    assert find_images(["x[1].png"]) == [Path("x[1].png")]


@pytest.mark.parametrize("argument", ["empty", "images/*.bmp", "**.png", "*" * 300])
def test_folders_and_patterns_without_images_are_refused(argument, folder):
    with pytest.raises(InputError) as caught:
        find_images(["images", argument])
    message = "must hold images (.jpg, .jpeg, .png, .webp), but none was found; check the path"
    assert str(caught.value) == f"{argument} {message}"


def test_a_name_that_is_too_long_is_left_to_be_refused_by_itself(folder):
    assert find_images(["x" * 300]) == [Path("x" * 300)]
