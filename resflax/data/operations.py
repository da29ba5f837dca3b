"""The operations that augmentation policies are made of, as Pillow has them.

Each maps an image, int32[H, W, C] in 0..255, and a magnitude, float32[], to an image of the same kind. Pillow's arithmetic is
followed to its roundings, but that its double precision is single here, or exact in integers.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from resflax.types import Array

Operation = Callable[[Array, Array, int], Array]  # (image, magnitude, value of what comes from outside of the image) -> image


def identity(image: Array, magnitude: Array, fill: int) -> Array:
    """Nothing."""
    return image


def shear_x(image: Array, magnitude: Array, fill: int) -> Array:
    """Row y moves left by `magnitude * y`."""
    return _warp(image, (1, magnitude, 0), (0, 1, 0), fill)


def shear_y(image: Array, magnitude: Array, fill: int) -> Array:
    """Column x moves up by `magnitude * x`."""
    return _warp(image, (1, 0, 0), (magnitude, 1, 0), fill)


def translate_x(image: Array, magnitude: Array, fill: int) -> Array:
    """Moves left by `magnitude` pixels."""
    return _warp(image, (1, 0, magnitude), (0, 1, 0), fill)


def translate_y(image: Array, magnitude: Array, fill: int) -> Array:
    """Moves up by `magnitude` pixels."""
    return _warp(image, (1, 0, 0), (0, 1, magnitude), fill)


def rotate(image: Array, magnitude: Array, fill: int) -> Array:
    """Turns counter-clockwise around the middle by `magnitude` degrees."""
    middle_y, middle_x = image.shape[0] / 2, image.shape[1] / 2
    cos, sin = jnp.cos(jnp.deg2rad(magnitude)), jnp.sin(jnp.deg2rad(magnitude))
    x = (cos, -sin, middle_x - cos * middle_x + sin * middle_y)
    y = (sin, cos, middle_y - sin * middle_x - cos * middle_y)
    return _warp(image, x, y, fill)


def _warp(image: Array, x: tuple[float | Array, ...], y: tuple[float | Array, ...], fill: int) -> Array:
    """Each pixel from the one at `x[0] * column + x[1] * row + x[2]`, and the same of y, in fixed point of 16 bits."""
    height, width, _ = image.shape
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)

    def source(along_x: float | Array, along_y: float | Array, start: float | Array) -> Array:
        first = _fixed(start + 0.5 * along_x + 0.5 * along_y)
        return (first + columns * _fixed(along_x) + rows * _fixed(along_y)) >> 16

    to_row, to_column = source(*y), source(*x)
    inside = (to_row >= 0) & (to_row < height) & (to_column >= 0) & (to_column < width)
    found = image[jnp.clip(to_row, 0, height - 1), jnp.clip(to_column, 0, width - 1)]
    return jnp.where(inside[..., None], found, fill)


def _fixed(value: float | Array) -> Array:
    return jnp.floor(jnp.asarray(value, jnp.float32) * 65536 + 0.5).astype(jnp.int32)


def brightness(image: Array, magnitude: Array, fill: int) -> Array:
    """0: black; 1: the image."""
    return _blend(0, image, magnitude)


def contrast(image: Array, magnitude: Array, fill: int) -> Array:
    """0: the mean grey value; 1: the image."""
    count = image.shape[0] * image.shape[1]
    return _blend((2 * jnp.sum(_grey(image)) + count) // (2 * count), image, magnitude)


def color(image: Array, magnitude: Array, fill: int) -> Array:
    """0: grey values; 1: the image."""
    return _blend(_grey(image), image, magnitude)


def sharpness(image: Array, magnitude: Array, fill: int) -> Array:
    """0: each pixel smoothed with its neighbours; 1: the image; the outermost pixels stay."""
    height, width, _ = image.shape
    near = [image[y : height - 2 + y, x : width - 2 + x] for y in range(3) for x in range(3)]
    smooth = (2 * (sum(near) + 4 * image[1:-1, 1:-1]) + 13) // 26
    return _blend(image.at[1:-1, 1:-1].set(smooth), image, magnitude)


def _grey(image: Array) -> Array:
    """int32[H, W, 1]"""
    if image.shape[-1] == 1:
        return image
    return (jnp.sum(image * jnp.array([19595, 38470, 7471]), axis=-1, keepdims=True) + 0x8000) >> 16


def _blend(other: int | Array, image: Array, share: Array) -> Array:
    return jnp.clip(jnp.floor(other + share * (image - other)), 0, 255).astype(jnp.int32)


def invert(image: Array, magnitude: Array, fill: int) -> Array:
    """Black becomes white."""
    return 255 - image


def solarize(image: Array, magnitude: Array, fill: int) -> Array:
    """Inverts the values from `magnitude` on."""
    return jnp.where(image < magnitude, image, 255 - image)


def posterize(image: Array, magnitude: Array, fill: int) -> Array:
    """Keeps the `magnitude` uppermost bits."""
    low = 8 - magnitude.astype(jnp.int32)
    return image >> low << low


def autocontrast(image: Array, magnitude: Array, fill: int) -> Array:
    """Stretches each channel to 0..255."""
    darkest, brightest = jnp.min(image, axis=(0, 1)), jnp.max(image, axis=(0, 1))
    stretched = (image - darkest) * 255 // jnp.maximum(brightest - darkest, 1)
    return jnp.where(brightest > darkest, stretched, image)


def equalize(image: Array, magnitude: Array, fill: int) -> Array:
    """Makes the values of each channel equally frequent, as far as may be; images of few pixels stay as they are."""
    channels = jnp.arange(image.shape[-1])
    counts = jnp.zeros((image.shape[-1], 256), jnp.int32).at[channels, image].add(1)
    brightest = counts[channels, jnp.max(image, axis=(0, 1))]
    step = (image.shape[0] * image.shape[1] - brightest) // 255  # int32[C]
    below = (jnp.cumsum(counts, axis=1) - counts)[channels, image]
    return jnp.where(step > 0, jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255), image)


# What a seed draws are places in this order: append, never reorder.
OPERATIONS: dict[str, Operation] = {
    function.__name__: function
    for function in (
        identity,
        autocontrast,
        equalize,
        rotate,
        solarize,
        color,
        posterize,
        contrast,
        brightness,
        sharpness,
        shear_x,
        shear_y,
        translate_x,
        translate_y,
        invert,
    )
}  # fmt: skip
