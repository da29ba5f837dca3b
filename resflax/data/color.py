"""Changes of colour, on pixels before they are normalised; what goes beyond 0..1 is clipped.

Where these were first used nothing is clipped: what comes out there is a number for the network, here it is an image still.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from resflax.types import Array

GREY = (0.299, 0.587, 0.114)  # shares of red, green and blue

# Principal components of the colours of ImageNet's training images, pixels in 0..1; the vectors are columns. They are those
# of fb.resnet.torch (datasets/imagenet.lua), of a random subset.
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


def color_jitter(strength: float) -> Callable[[Array, Array], Array]:
    """Brightness, contrast and saturation are changed by factors of 1 - `strength` to 1 + `strength`, in a random order.

    As in fb.resnet.torch, by whose recipe Goyal et al. 2017 (Sec. 5.1) train, but for the clipping: the image is blended with
    black, with the mean of its grey values, and with its grey values; a factor above 1 leads away from them.

    Returns:
      `(keys [B], images float[B, H, W, 3] in 0..1) -> the same`.
    """

    def one(key: Array, image: Array) -> Array:
        for_factors, for_order = jax.random.split(key)
        factors = jax.random.uniform(for_factors, (3,), jnp.float32, 1 - strength, 1 + strength).astype(image.dtype)
        order = jnp.argsort(jax.random.uniform(for_order, (3,), jnp.float32))
        for place in range(3):
            grey = image @ jnp.asarray(GREY, image.dtype)
            others = jnp.stack([jnp.zeros_like(grey), jnp.full_like(grey, grey.mean()), grey])
            which = order[place]
            image = jnp.clip(factors[which] * image + (1 - factors[which]) * others[which][..., None], 0, 1)
        return image

    return jax.vmap(one)


def pca_lighting(deviation: float) -> Callable[[Array, Array], Array]:
    """Adds to all pixels random multiples of the principal components of colours (Krizhevsky et al. 2012, Sec. 4.1).

    A multiple is the eigenvalue times a normal number of this standard deviation, 0.1 in the paper.

    Returns:
      `(keys [B], images float[B, H, W, 3] in 0..1) -> the same`.
    """

    def one(key: Array, image: Array) -> Array:
        drawn = deviation * jax.random.normal(key, (3,), jnp.float32)
        shift = jnp.sum(jnp.asarray(EIGENVECTORS, jnp.float32) * (drawn * jnp.asarray(EIGENVALUES, jnp.float32)), axis=1)
        return jnp.clip(image + shift.astype(image.dtype), 0, 1)

    return jax.vmap(one)
