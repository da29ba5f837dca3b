"""The fifteen common corruptions of Hendrycks and Dietterich 2019, Sec. 3, computed on the device.

These follow the paper's list, not its files: CIFAR-10-C and ImageNet-C were made with other code and photographs of frost, so a
number from here is comparable with others from here alone. What differs: the strengths, and that lengths are shares of the
image's shorter side, so that one severity means the same at any size; frost and snow are random textures; fog is a sum of
octaves, not diamond-square; glass draws each pixel from its neighbourhood, where the paper exchanges pixels one after another;
JPEG is its quantisation without the lossless part. Noise belongs to (seed, example, corruption) and is the same for all
severities, in any batch, on any number of devices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from resflax.prng import stream_key
from resflax.types import Array

SEVERITIES = (1, 2, 3, 4, 5)
# (key, image float[H, W, C] in 0..1, the severity's parameters float[P]) -> float[H, W, C]
Corruption = Callable[[Array, Array, Array], Array]


def corrupt(name: str, seed: int | Array, ids: Array, images: Array, severity: int | Array) -> Array:
    """Corrupts a batch.

    Args:
      name: of `CORRUPTIONS`.
      seed: what is random is a function of it, the name and the example's id.
      ids: int32[B].
      images: uint8[B, H, W, C], or float[B, H, W, C] in 0..1; C is 1 or 3.
      severity: 1 to 5; may be traced, so that all five share a program.

    Returns:
      The same shape, dtype and range.
    """
    function, table = CORRUPTIONS[name]
    base = jax.random.fold_in(stream_key(seed, "corruption"), list(CORRUPTIONS).index(name))
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(base, ids)
    parameters = jnp.asarray(table, jnp.float32).reshape(len(SEVERITIES), -1)[severity - 1]
    integer = jnp.issubdtype(images.dtype, jnp.integer)
    scaled = images.astype(jnp.float32) / 255 if integer else images.astype(jnp.float32)
    made = jnp.clip(jax.vmap(function, in_axes=(0, 0, None))(keys, scaled, parameters), 0, 1)
    return jnp.round(made * 255).astype(images.dtype) if integer else made.astype(images.dtype)


def gaussian_noise(key: Array, image: Array, parameters: Array) -> Array:
    """Adds normal noise."""
    return image + parameters[0] * jax.random.normal(key, image.shape, jnp.float32)


def shot_noise(key: Array, image: Array, parameters: Array) -> Array:
    """Counts photons: Poisson with this mean at white, divided by it."""
    key = jax.random.wrap_key_data(jax.random.key_data(key))  # these numbers JAX draws with keys of its own alone
    return jax.random.poisson(key, image * parameters[0], dtype=jnp.int32).astype(jnp.float32) / parameters[0]


def impulse_noise(key: Array, image: Array, parameters: Array) -> Array:
    """Replaces this share of the values by 0 or 1."""
    draw = jax.random.uniform(key, image.shape, jnp.float32)
    return jnp.where(draw < parameters[0] / 2, 0.0, jnp.where(draw > 1 - parameters[0] / 2, 1.0, image))


def defocus_blur(key: Array, image: Array, parameters: Array) -> Array:
    """Averages over a disk of this radius, its rim by the share of each pixel that is inside, about."""
    radius = parameters[0] * min(image.shape[:2])
    reach = _reach(0.06, image)
    offsets = jnp.arange(-reach, reach + 1)
    distance = jnp.sqrt(offsets[:, None] ** 2 + offsets[None] ** 2)
    return _convolve(image, jnp.clip(radius + 0.5 - distance, 0, 1))


def glass_blur(key: Array, image: Array, parameters: Array) -> Array:
    """Smooths, takes each pixel from a random place nearby, twice, and smooths again."""
    height, width = image.shape[:2]
    size = min(height, width)
    image = _smooth(image, parameters[0] * size)
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    for part in jax.random.split(key, 2):
        move = parameters[1] * size * (2 * jax.random.uniform(part, (2, height, width), jnp.float32) - 1)
        near = [
            jnp.clip(jnp.round(at + by).astype(jnp.int32), 0, end - 1)
            for at, by, end in zip((rows, columns), move, (height, width), strict=True)
        ]
        image = image[near[0], near[1]]
    return _smooth(image, parameters[0] * size)


def motion_blur(key: Array, image: Array, parameters: Array) -> Array:
    """Averages along a line of this length, in a direction of up to 45 degrees from the horizontal."""
    angle = jax.random.uniform(key, (), jnp.float32, -jnp.pi / 4, jnp.pi / 4)
    return _along(image, parameters[0] * min(image.shape[:2]), angle)


def zoom_blur(key: Array, image: Array, parameters: Array) -> Array:
    """Averages over magnifications from 1 to this one, around the middle."""
    height, width = image.shape[:2]
    middle = jnp.array([(height - 1) / 2, (width - 1) / 2])
    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), axis=-1) - middle
    steps = 11

    def view(step: Array) -> Array:
        return _sample(image, grid / (1 + (parameters[0] - 1) * step / (steps - 1)) + middle)

    return _mean(view, steps)


def snow(key: Array, image: Array, parameters: Array) -> Array:
    """Whitens, and adds streaks of bright flakes that fall at an angle, twice."""
    amount, bright, length = parameters
    size = min(image.shape[:2])
    for_flakes, for_angle = jax.random.split(key)
    flakes = _smooth(jax.random.normal(for_flakes, (*image.shape[:2], 1), jnp.float32), 0.016 * size)
    flakes = flakes / jnp.std(flakes)
    streaks = _along(
        jnp.clip(flakes - (2.2 - amount), 0, 1),
        length * size,
        jax.random.uniform(for_angle, (), jnp.float32, 0.25, 0.75) * jnp.pi,
    )
    grey = jnp.mean(image, axis=-1, keepdims=True)
    white = (1 - bright) * image + bright * jnp.maximum(image, 1.5 * grey + 0.5)
    return white + streaks + streaks[::-1, ::-1]


def frost(key: Array, image: Array, parameters: Array) -> Array:
    """Lays crystals over the image: the ridges of a random texture, which are bright where octaves cross their mean."""
    clear, laid = parameters
    ridges = 1 - jnp.abs(2 * _plasma(key, image.shape[:2], 1.6) - 1)
    return clear * image + laid * jnp.square(ridges)[..., None]


def fog(key: Array, image: Array, parameters: Array) -> Array:
    """Adds a random texture of many scales and takes the brightness back: `(x + a t) max(x) / (max(x) + a)`."""
    amount, decay = parameters
    brightest = jnp.max(image)
    return (image + amount * _plasma(key, image.shape[:2], decay)[..., None]) * brightest / (brightest + amount)


def brightness(key: Array, image: Array, parameters: Array) -> Array:
    """Adds to the value of HSV, the largest channel; hue and saturation stay."""
    value = jnp.max(image, axis=-1, keepdims=True)
    raised = jnp.minimum(value + parameters[0], 1)
    return jnp.where(value > 0, image / jnp.where(value > 0, value, 1) * raised, raised)


def contrast(key: Array, image: Array, parameters: Array) -> Array:
    """Scales the distance from each channel's mean."""
    mean = jnp.mean(image, axis=(0, 1))
    return mean + parameters[0] * (image - mean)


def elastic_transform(key: Array, image: Array, parameters: Array) -> Array:
    """Moves pixels by a smooth random field of this largest length."""
    height, width = image.shape[:2]
    largest, smoothness = parameters * min(height, width)
    field = _smooth(jax.random.uniform(key, (height, width, 2), jnp.float32, -1, 1), smoothness, share=0.25)
    field = largest * field / jnp.max(jnp.abs(field))
    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), axis=-1)
    return _sample(image, grid + field)


def pixelate(key: Array, image: Array, parameters: Array) -> Array:
    """Resizes to this share of the size by areas, and back by the nearest pixel."""
    rows, columns = (_boxes(end, parameters[0]) for end in image.shape[:2])
    return jnp.einsum("ik,kwc,jw->ijc", rows, image, columns, precision="highest")


def jpeg_compression(key: Array, image: Array, parameters: Array) -> Array:
    """Quantises the cosine transform of 8x8 blocks with the tables of ITU T.81, Annex K, at this quality; 4:2:0."""
    quality = parameters[0]
    scale = jnp.where(quality < 50, jnp.floor(5000 / quality), 200 - 2 * quality)
    tables = [jnp.clip(jnp.floor((table * scale + 50) / 100), 1, 255) for table in (_LUMINANCE, _CHROMINANCE)]
    pixels = jnp.round(image * 255)
    if image.shape[-1] == 1:
        return _quantise(pixels[..., 0], tables[0])[..., None] / 255
    height, width = image.shape[:2]
    even = jnp.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
    colours = jnp.einsum("hwc,dc->dhw", even, _TO_YCBCR, precision="highest") + jnp.array([0, 128, 128])[:, None, None]
    planes = [_quantise(jnp.round(colours[0]), tables[0])]
    for colour in colours[1:]:
        small = colour.reshape(colour.shape[0] // 2, 2, -1, 2).mean(axis=(1, 3))
        planes.append(jax.image.resize(_quantise(jnp.round(small), tables[1]), colour.shape, "linear"))
    centred = jnp.stack(planes) - jnp.array([0, 128, 128])[:, None, None]
    return jnp.einsum("dhw,cd->hwc", centred, np.linalg.inv(_TO_YCBCR), precision="highest")[:height, :width] / 255


# Each with its parameters from severity 1 to 5. Lengths are shares of the shorter side.
CORRUPTIONS: dict[str, tuple[Corruption, tuple[Any, ...]]] = {
    "gaussian_noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.12, 0.18)),
    "shot_noise": (shot_noise, (250, 120, 60, 30, 15)),
    "impulse_noise": (impulse_noise, (0.01, 0.03, 0.06, 0.1, 0.17)),
    "defocus_blur": (defocus_blur, (0.018, 0.025, 0.033, 0.042, 0.055)),
    "glass_blur": (glass_blur, ((0.012, 0.017), (0.012, 0.022), (0.012, 0.03), (0.012, 0.042), (0.012, 0.065))),
    "motion_blur": (motion_blur, (0.06, 0.1, 0.14, 0.19, 0.25)),
    "zoom_blur": (zoom_blur, (1.06, 1.1, 1.15, 1.2, 1.26)),
    "snow": (snow, ((0.0, 0.05, 0.05), (0.2, 0.1, 0.07), (0.4, 0.15, 0.08), (0.6, 0.2, 0.1), (0.8, 0.25, 0.12))),
    "frost": (frost, ((0.95, 0.2), (0.85, 0.35), (0.75, 0.45), (0.68, 0.55), (0.6, 0.65))),
    "fog": (fog, ((0.3, 2.5), (0.6, 2.3), (1.0, 2.1), (1.5, 1.9), (2.2, 1.75))),
    "brightness": (brightness, (0.06, 0.12, 0.18, 0.26, 0.36)),
    "contrast": (contrast, (0.7, 0.5, 0.38, 0.25, 0.13)),
    "elastic_transform": (elastic_transform, ((0.03, 0.06), (0.045, 0.06), (0.06, 0.06), (0.075, 0.05), (0.09, 0.05))),
    "pixelate": (pixelate, (0.9, 0.75, 0.6, 0.45, 0.33)),
    "jpeg_compression": (jpeg_compression, (75, 50, 30, 18, 10)),
}  # fmt: skip


def _reach(share: float, image: Array) -> int:
    """Pixels that a filter of this share of the image reaches to each side."""
    return max(1, int(np.ceil(share * min(image.shape[:2]))))


def _convolve(image: Array, kernel: Array) -> Array:
    """Each channel with float[K, K] or, one after the other, float[K, 1] and its transpose; the border is reflected."""
    pad = [(size // 2, size // 2) for size in kernel.shape]
    padded = jnp.pad(image, (*pad, (0, 0)), "symmetric")
    return jax.lax.conv_general_dilated(
        jnp.moveaxis(padded, -1, 0)[..., None],
        (kernel / jnp.sum(kernel))[:, :, None, None],
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )[..., 0].transpose(1, 2, 0)


def _smooth(image: Array, sigma: float | Array, share: float = 0.08) -> Array:
    """With a Gaussian, cut off at a share of the image."""
    reach = _reach(share, image)
    weights = jnp.exp(-0.5 * jnp.square(jnp.arange(-reach, reach + 1) / sigma))
    return _convolve(_convolve(image, weights[:, None]), weights[None])


def _sample(image: Array, at: Array) -> Array:
    """The image at float[H, W, 2], rows and columns, bilinearly; past the edge it is mirrored."""
    places = [at[..., 0], at[..., 1]]
    return jax.vmap(lambda channel: map_coordinates(channel, places, order=1, mode="reflect"), -1, -1)(image)


def _along(image: Array, length: Array, angle: Array, steps: int = 15) -> Array:
    """The mean over a line through each pixel."""
    height, width = image.shape[:2]
    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), axis=-1)
    direction = jnp.stack([jnp.sin(angle), jnp.cos(angle)])
    return _mean(lambda step: _sample(image, grid + direction * length * (step / (steps - 1) - 0.5)), steps)


def _mean(view: Callable[[Array], Array], steps: int) -> Array:
    """Of `view(0)`, ..., `view(steps - 1)`, one after another."""
    return jax.lax.fori_loop(1, steps, lambda step, total: total + view(step), view(jnp.int32(0))) / steps


def _plasma(key: Array, shape: tuple[int, ...], decay: float | Array) -> Array:
    """float[H, W] from 0 to 1: octaves of uniform noise, each of twice the frequency and 1 / `decay` of the height before."""
    total = jnp.zeros(shape)
    for octave in range(int(np.ceil(np.log2(max(shape))))):
        cells = 2 ** (octave + 1)
        noise = jax.random.uniform(jax.random.fold_in(key, octave), (cells, cells), jnp.float32)
        total += jax.image.resize(noise, shape, "linear", antialias=False) / jnp.asarray(decay) ** octave
    return (total - jnp.min(total)) / jnp.maximum(jnp.max(total) - jnp.min(total), 1e-6)


def _boxes(size: int, share: Array) -> Array:
    """float[size, size]: what each pixel is made of when `round(size * share)` boxes stand for all."""
    count = jnp.maximum(jnp.round(size * share), 1)
    side, pixels = size / count, jnp.arange(size)
    box = jnp.floor((pixels + 0.5) / side)
    low, high = box * side, (box + 1) * side
    overlap = jnp.minimum(high[:, None], pixels + 1) - jnp.maximum(low[:, None], pixels)
    return jnp.clip(overlap, 0, 1) / side


def _quantise(plane: Array, table: Array) -> Array:
    """float[H, W] in 0..255 through the cosine transform of 8x8 blocks, rounded to multiples of `table`, and back."""
    height, width = plane.shape
    padded = jnp.pad(plane, ((0, -height % 8), (0, -width % 8)), "edge") - 128
    blocks = padded.reshape(padded.shape[0] // 8, 8, -1, 8)
    found = jnp.einsum("ui,aibj,vj->aubv", _COSINES, blocks, _COSINES, precision="highest")
    kept = jnp.round(found / table[None, :, None]) * table[None, :, None]
    back = jnp.einsum("ui,aubv,vj->aibj", _COSINES, kept, _COSINES, precision="highest")
    return jnp.clip(jnp.round(back.reshape(padded.shape) + 128), 0, 255)[:height, :width]


_TO_YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
_COSINES = (
    np.cos(np.pi / 16 * np.outer(np.arange(8), 2 * np.arange(8) + 1)) * np.where(np.arange(8) == 0, 8, 4)[:, None] ** -0.5
)
_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMINANCE = np.full((8, 8), 99)
_CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
