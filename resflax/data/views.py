"""Views of an image at test time, whose logits are averaged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp

from resflax.types import Array

Views = Literal["single", "mirror", "mirror_shift", "ten_crop"]
CROPS = {"ten_crop": 5}  # of an image, that are read for these views; where a name is missing, one


def average_over_views(logits: Callable[[Array], Array], images: Array, views: Views) -> Array:
    """The mean of `logits` over views of `images`.

    Args:
      logits: float[B, H, W, C] -> float[B, K].
      images: float[B, H, W, C]; for `ten_crop` float[B, 5, H, W, C], see `resflax.data.geometry.five_crops`.
      views: `mirror`: the image and its mirror image. `mirror_shift`: half of that, and half the same of the image shifted by
        one pixel up and left and down and right, its edge pixels' neighbours reflected (Jordan 2024, arXiv:2404.00498, Sec.
        3.5). `ten_crop`: five crops and their mirror images (Krizhevsky et al. 2012, Sec. 4.1, which averages probabilities).

    Returns:
      float[B, K].
    """
    if views == "single":
        return logits(images)
    if views == "ten_crop":
        crops = average_over_views(logits, images.reshape(-1, *images.shape[2:]), "mirror")
        return crops.reshape(*images.shape[:2], -1).mean(axis=1)
    mirrored = (logits(images) + logits(images[:, :, ::-1])) / 2
    if views == "mirror":
        return mirrored
    height, width = images.shape[1:3]
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
    shifted = [padded[:, start : start + height, start : start + width] for start in (0, 2)]
    return mirrored / 2 + sum(average_over_views(logits, one, "mirror") for one in shifted) / 4
