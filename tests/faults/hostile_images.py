"""Files that are given out for images: broken by hand, and mutants of small good ones."""

import io
import random
import struct
import zlib

import numpy as np
from PIL import Image

from tests.data.test_decode import BAD, chunk, encode, png

SIZE = 32


def photograph(seed, size=SIZE):
    """Something smooth with edges, so that its files have all kinds of codes."""
    rng = np.random.default_rng(seed)
    across, down = np.meshgrid(np.linspace(0, 1, size), np.linspace(0, 1, size))
    pixels = np.stack([np.sin((one + 1) * (4 * across + one * down) + seed) for one in range(3)], -1)
    pixels[size // 4 : size // 2, size // 3 :] += rng.normal(size=3)
    return np.clip(128 + 80 * pixels, 0, 255).astype(np.uint8)


def good(count=20):
    """`{name: content}` of files that must be read, in all the formats."""
    formats = (("jpg", "JPEG", {"quality": 90}), ("png", "PNG", {}), ("webp", "WEBP", {"lossless": True}))
    files = {}
    for index in range(count):
        suffix, name, options = formats[index % 3]
        files[f"good {index}.{suffix}"] = encode(photograph(index), name, **options)
    return files


def zeros(width, height, depth, colour, extra=b""):
    """A PNG file of zeros, a thousandth of what it unpacks to."""
    row = 1 + (width * depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] + 7) // 8
    packer = zlib.compressobj(9)
    data = b"".join([packer.compress(bytes(row)) for _ in range(height)] + [packer.flush()])
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def with_chunks(*chunks):
    """A good PNG file with more before its pixels."""
    whole = encode(photograph(0))
    place = whole.index(b"IDAT") - 4
    return whole[:place] + b"".join(chunks) + whole[place:]


def squeezed(size):
    return zlib.compress(bytes(size), 9)


def scans(count):
    """A progressive JPEG whose last scan, of a few bytes, comes again and again."""
    whole = encode(photograph(0, 256), "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * count + whole[-2:]


def resized_header(width, height, mode="RGB", **options):
    """A JPEG that says it is larger than it is; what is missing is grey."""
    whole = bytearray(encode(Image.fromarray(photograph(0)).convert(mode), "JPEG", **options))
    frame = max(whole.find(b"\xff\xc0"), whole.find(b"\xff\xc2"))
    whole[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(whole)


def webp_canvas(width, height):
    """A WebP file of one colour, whose few bytes ask for as many pixels as they like."""
    content = bytearray(encode(np.full((2, 2, 3), 9, np.uint8), "WEBP", lossless=True))
    place = content.index(b"VP8L") + 9
    (bits,) = struct.unpack_from("<I", content, place)
    struct.pack_into("<I", content, place, bits >> 28 << 28 | (height - 1) << 14 | (width - 1))
    return bytes(content)


def made_by_hand():
    """`{name: content}`: 60 files and more that must be refused or read, whatever is in them."""
    jpeg, plain = encode(photograph(0), "JPEG"), encode(photograph(0))
    webp = encode(photograph(0), "WEBP")
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", 65535) + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" * 10
    animation = io.BytesIO()
    frames = [Image.fromarray(photograph(index)) for index in range(4)]
    frames[0].save(animation, "WEBP", save_all=True, append_images=frames[1:])
    moving = io.BytesIO()
    frames[0].save(moving, "PNG", save_all=True, append_images=frames[1:])
    return {
        **{name.replace("\n", " "): content for name, (content, _) in BAD.items()},
        # metadata that unpack
        "text of 64 MB.png": with_chunks(chunk(b"zTXt", b"a\0\0" + squeezed(2**26))),
        "many texts.png": with_chunks(*[chunk(b"zTXt", b"a\0\0" + squeezed(2**20 - 1))] * 200),
        "profile of 64 MB.png": with_chunks(chunk(b"iCCP", b"a\0\0" + squeezed(2**26))),
        "international text.png": with_chunks(chunk(b"iTXt", b"a\0\1\0\0\0" + squeezed(2**26))),
        "a chunk of 2 GB.png": with_chunks(struct.pack(">I", 2**31 - 1) + b"prIv" + bytes(100)),
        "many chunks.png": with_chunks(*[chunk(b"prIv", b"")] * 50_000),
        "no palette.png": png(7, 5, 8, 3, bytes(40)),
        "two headers.png": plain[:33] + plain[8:33] + plain[33:],
        "backward chunk.png": with_chunks(struct.pack(">I", 2**32 - 1) + b"tEXt"),
        # canvases
        "a bomb of 1 GB.png": png(12000, 12000, 8, 6, b""),
        "one row.png": png(2**26, 1, 8, 0, bytes(100)),
        "one column.png": png(1, 2**26, 8, 0, bytes(100)),
        "a long row.png": zeros(65535, 1, 8, 2),
        "largest.webp": webp_canvas(16383, 16383),
        "large.webp": webp_canvas(8192, 8192),
        "largest.jpg": resized_header(65500, 65500),
        "large.jpg": resized_header(8192, 8192),
        "large progressive.jpg": resized_header(8192, 8192, progressive=True),
        "no height.jpg": resized_header(32, 0),
        "a thousand scans.jpg": scans(1000),
        "a hundred thousand scans.jpg": scans(100_000),
        # structure
        "odd orientation.jpg": encode(photograph(0), "JPEG", exif=exif),
        "profile of nothing.jpg": jpeg[:2] + b"\xff\xe2\0\x12ICC_PROFILE\0\xff\x00ab" + jpeg[2:],
        "many segments.jpg": jpeg[:2] + b"\xff\xe1\0\x02" * 50_000 + jpeg[2:],
        "segment of length 0.jpg": jpeg[:2] + b"\xff\xe1\0\0" + jpeg[2:],
        "segment beyond the end.jpg": jpeg[:2] + b"\xff\xe1\xff\xff" + jpeg[2:],
        "fill bytes.jpg": jpeg[:2] + b"\xff" * 100_000 + jpeg[2:],
        "no end.jpg": jpeg[:-2] + b"\xff\xd0" * 100_000,
        "two images.jpg": jpeg + jpeg,
        "half of two.jpg": jpeg[: len(jpeg) // 2] + jpeg,
        "jpeg in png.png": plain[:8] + jpeg,
        "png in jpeg.jpg": jpeg[:20] + plain,
        "webp without frames.webp": webp[:12],
        "wrong length.webp": webp[:4] + b"\xff\xff\xff\xff" + webp[8:],
        "no length.webp": webp[:4] + bytes(4) + webp[8:],
        "animation.webp": animation.getvalue(),
        "animation cut.webp": animation.getvalue()[:-40],
        "animation.png": moving.getvalue(),
        "zeros.jpg": bytes(10_000),
        "ones.png": b"\xff" * 10_000,
        "vector.png": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "script.jpg": b"%!PS-Adobe-3.0\n(canary) (w) file closefile\nshowpage\n",
    }


def just_allowed():
    """`{name: () -> content}` of files that are as large as they may be; what they take is what decoding takes at most."""
    return {
        "rgb.png": lambda: zeros(8192, 8192, 8, 2),
        "transparent.png": lambda: zeros(8192, 8192, 8, 6),
        "grey, transparent.png": lambda: zeros(8192, 8192, 8, 4),
        "palette.png": lambda: zeros(8192, 8192, 8, 3, chunk(b"PLTE", bytes(768)) + chunk(b"tRNS", bytes(256))),
        "16 bits.png": lambda: zeros(8192, 8192, 16, 0),
        "upside down.png": lambda: zeros(
            8192, 8192, 8, 2, chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03\0\0" + bytes(4))
        ),
        "webp.webp": lambda: webp_canvas(5000, 5000),
        "padded.webp": lambda: padded(webp_canvas(5000, 5000), 120 * 2**20),
        "padded.png": lambda: zeros(8192, 8192, 8, 2, chunk(b"prIv", bytes(120 * 2**20))),
        "sequential.jpg": lambda: resized_header(8192, 8192),
        "progressive.jpg": lambda: resized_header(6400, 6400, progressive=True),
        "four colours.jpg": lambda: resized_header(6100, 6100, mode="CMYK", progressive=True),
    }


def padded(webp, size):
    """A WebP file with so many bytes in a chunk that means nothing."""
    body = webp[8:] + b"junk" + struct.pack("<I", size) + bytes(size)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def mutants(count, seed=0):
    """`{name: content}`: small good files cut, with bits flipped, with pieces of another, with another's header."""
    rng = random.Random(seed)
    options = {"JPEG": ({}, {"progressive": True}), "PNG": ({}, {"bits": 4}), "WEBP": ({"lossless": True}, {"quality": 50})}
    whole = [
        encode(Image.fromarray(photograph(seed)).quantize(16) if "bits" in option else photograph(seed), name, **option)
        for name, choices in options.items()
        for option in choices
    ]
    files = {}
    for number in range(count):
        content, other = bytearray(rng.choice(whole)), rng.choice(whole)
        kind = rng.choice(("cut", "flip", "splice", "header", "repeat"))
        place = rng.randrange(len(content))
        if kind == "cut":
            del content[place:]
        elif kind == "flip":
            for _ in range(rng.choice((1, 1, 3, 20))):
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        elif kind == "splice":
            start = rng.randrange(len(other))
            content[place : place + rng.randrange(1, 200)] = other[start : start + rng.randrange(200)]
        elif kind == "header":
            length = rng.randrange(8, 64)
            content[:length] = other[:length]
        else:
            content[place:place] = content[place : place + rng.randrange(1, 400)] * rng.randrange(1, 50)
        files[f"mutant {number} {kind}"] = bytes(content)
    return files
