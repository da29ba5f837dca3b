"""Mixing the images of a batch in pairs, and their labels with them, inside the training step.

A rule draws one share float32[H, W] a step: how much of each pixel stays the image's own; the rest comes from its partner. The
image's own label has the mean of that share, so that CutMix's label weighs the area really pasted.

Partners are neighbours, rows 2i and 2i + 1 of the global batch, whose order is random already. So a pair lies on one device and
in one part of a batch that is taken in parts, and the result depends on neither.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from resflax.types import Array, Batch

Rule = Callable[[Array, int, int], Array]  # (key, height, width) -> float32[height, width] in 0..1
Mixing = Callable[[Array, Batch], Batch]  # (key of the step, batch) -> batch


def mixup(alpha: float) -> Rule:
    """The same share of every pixel, drawn from Beta(alpha, alpha) (Zhang et al. 2018, arXiv:1710.09412, Eq. 1)."""
    return lambda key, height, width: jnp.full((height, width), _beta(key, alpha))


def cutmix(alpha: float) -> Rule:
    """Nothing of a box, everything of what is around it (Yun et al. 2019, arXiv:1905.04899, Eq. 1 and 2, and its code).

    The box has the image's aspect ratio, the share 1 - Beta(alpha, alpha) of its area, and its centre at any pixel; what
    lies outside of the image is cut off.
    """

    def share(key: Array, height: int, width: int) -> Array:
        for_area, *for_centres = jax.random.split(key, 3)
        side = jnp.sqrt(1 - _beta(for_area, alpha))

        def inside(key: Array, size: int) -> Array:
            centre, half = jax.random.randint(key, (), 0, size, jnp.int32), (size * side).astype(jnp.int32) // 2
            return (jnp.arange(size) >= centre - half) & (jnp.arange(size) < centre + half)

        rows, columns = map(inside, for_centres, (height, width))
        return 1 - (rows[:, None] & columns).astype(jnp.float32)

    return share


def _beta(key: Array, alpha: float) -> Array:
    return jax.random.beta(key, alpha, alpha, (), jnp.float32)


RULES: dict[str, Callable[[float], Rule]] = {"mixup": mixup, "cutmix": cutmix}


def make_mixing(texts: tuple[str, ...], probability: float, num_classes: int) -> Mixing:
    """Mixes each step by one of `("mixup:0.2", "cutmix:1.0")`, all equally probable; no text: batches stay as they are.

    Args:
      texts: names of `RULES`, each with its alpha.
      probability: that a step is mixed.
      num_classes: K.

    Returns:
      `(key, batch) -> batch` of an even number of rows, with mixed images and a new `target`: float32[B, K]. A row under the
      mask, or whose partner is, stays as it is.
    """
    rules = [RULES[name](float(alpha)) for name, _, alpha in (text.partition(":") for text in texts)]
    if not rules:
        return lambda key, batch: batch

    def mix(key: Array, batch: Batch) -> Batch:
        images, mask = batch["image"], batch["mask"]
        height, width = images.shape[1:3]
        for_coin, for_rule, for_share = jax.random.split(key, 3)
        which = jax.random.randint(for_rule, (), 0, len(rules), jnp.int32)
        share = jax.lax.switch(which, [lambda rule=rule: rule(for_share, height, width) for rule in rules])
        share = jnp.where(jax.random.uniform(for_coin, (), jnp.float32) < probability, share, 1)
        own = jnp.where((mask & _partners(mask))[:, None, None], share, 1)  # float32[B, H, W]
        target = jax.nn.one_hot(batch["label"], num_classes, dtype=jnp.float32)
        mixed = _blend(own[..., None].astype(images.dtype), images)
        return {**batch, "image": mixed, "target": _blend(jnp.mean(own, axis=(1, 2))[:, None], target)}

    return mix


def _blend(own: Array, values: Array) -> Array:
    return jnp.where(own < 1, own * values + (1 - own) * _partners(values), values)  # what is under the mask may be NaN


def _partners(rows: Array) -> Array:
    """Each row's neighbour."""
    return rows.reshape(-1, 2, *rows.shape[1:])[:, ::-1].reshape(rows.shape)
