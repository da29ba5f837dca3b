"""Each operation against Pillow, on photographs and on noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_image

from resflax.data.operations import OPERATIONS


def images():
    """int32[H, W, C]: photographs, noise, what has few values or one, and grey ones."""
    rng = np.random.default_rng(0)
    photograph = load_sample_image("flower.jpg")
    kinds = [
        photograph[100:164, 200:264],
        photograph[150:420:9, 100:460:12],
        load_sample_image("china.jpg")[40:104, 50:140],
        rng.integers(0, 256, (32, 32, 3)),
        rng.integers(90, 130, (32, 32, 3)),
        np.full((16, 16, 3), 77),
        rng.integers(0, 256, (8, 8, 3)),
    ]
    kinds += [kind[..., 1:2] for kind in kinds]
    return [np.asarray(kind, np.int32) for kind in kinds]


IMAGES = images()
FILL = 128


def affine(*matrix):
    return lambda picture: picture.transform(
        picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=(FILL,) * len(picture.getbands())
    )


# name -> how often a pixel may differ and by how much, and magnitude -> what Pillow does. It computes in double precision, so a
# rounding can go the other way: a warped pixel may come from the next one, other values be off by one.
PILLOW = {
    "identity": (0, 0, (0,), lambda m: lambda picture: picture),
    "invert": (0, 0, (0,), lambda m: ImageOps.invert),
    "solarize": (0, 0, (0, 26, 128, 255, 256), lambda m: lambda picture: ImageOps.solarize(picture, int(m))),
    "posterize": (0, 0, (1, 2, 4, 7, 8), lambda m: lambda picture: ImageOps.posterize(picture, int(m))),
    "equalize": (0, 0, (0,), lambda m: ImageOps.equalize),
    "autocontrast": (0.02, 1, (0,), lambda m: ImageOps.autocontrast),
    "brightness": (0.02, 1, (0.1, 0.46, 1.0, 1.3, 1.9), lambda m: lambda p: ImageEnhance.Brightness(p).enhance(m)),
    "contrast": (0.02, 1, (0.1, 0.46, 1.0, 1.3, 1.9), lambda m: lambda p: ImageEnhance.Contrast(p).enhance(m)),
    "color": (0.02, 1, (0.1, 0.46, 1.0, 1.3, 1.9), lambda m: lambda p: ImageEnhance.Color(p).enhance(m)),
    "sharpness": (0.02, 1, (0.1, 0.46, 1.0, 1.3, 1.9), lambda m: lambda p: ImageEnhance.Sharpness(p).enhance(m)),
    "shear_x": (0.002, 255, (-0.99, -0.3, 0.0, 0.12, 0.3), lambda m: affine(1, m, 0, 0, 1, 0)),
    "shear_y": (0.002, 255, (-0.99, -0.3, 0.0, 0.12, 0.3), lambda m: affine(1, 0, 0, m, 1, 0)),
    "translate_x": (0, 0, (-32, -5, 0, 3, 10), lambda m: affine(1, 0, m, 0, 1, 0)),
    "translate_y": (0, 0, (-32, -5, 0, 3, 10), lambda m: affine(1, 0, 0, 0, 1, m)),
    "rotate": (
        0.002,
        255,
        (-135, -30, -7, 0, 1, 15, 45, 117),
        lambda m: lambda picture: picture.rotate(m, fillcolor=(FILL,) * len(picture.getbands())),
    ),
}


def test_all_operations_are_compared():
    assert PILLOW.keys() == OPERATIONS.keys()


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_that_of_pillow(name):
    share, largest, magnitudes, make = PILLOW[name]
    operation = jax.jit(OPERATIONS[name], static_argnums=2)
    for index, image in enumerate(IMAGES):
        grey = image.shape[-1] == 1
        picture = Image.fromarray((image[..., 0] if grey else image).astype(np.uint8))
        for magnitude in magnitudes:
            found = np.asarray(operation(jnp.asarray(image), jnp.float32(magnitude), FILL))
            expected = np.asarray(make(magnitude)(picture), np.int32).reshape(image.shape)
            assert found.dtype == np.int32
            off = np.abs(found - expected)
            assert off.max() <= largest, (index, magnitude)
            assert (off > 0).mean() <= share, (index, magnitude, (off > 0).mean())
