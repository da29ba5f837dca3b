"""Views of an image at test time, whose logits are averaged (Jordan 2024, arXiv:2404.00498, Sec. 3.5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp

from resflax.types import Array

Views = Literal["single", "mirror", "mirror_shift"]


def average_over_views(logits: Callable[[Array], Array], images: Array, views: Views) -> Array:
    """The mean of `logits` over views of `images`.

    Args:
      logits: float[B, H, W, C] -> float[B, K].
      images: float[B, H, W, C].
      views: `mirror`: the image and its mirror image. `mirror_shift`: half of that, and half the same of the image shifted by
        one pixel up and left and down and right, its edge pixels' neighbours reflected.

    Returns:
      float[B, K].
    """
    if views == "single":
        return logits(images)
    mirrored = (logits(images) + logits(images[:, :, ::-1])) / 2
    if views == "mirror":
        return mirrored
    height, width = images.shape[1:3]
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
    shifted = [padded[:, start : start + height, start : start + width] for start in (0, 2)]
    return mirrored / 2 + sum(average_over_views(logits, one, "mirror") for one in shifted) / 4
