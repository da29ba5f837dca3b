"""How much each pixel of an image adds to a class's logit."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from resflax.types import Array, Variables

TOLERANCE = 0.01
MIN_STEPS, MAX_STEPS = 16, 1024  # fewer may add up by chance


class IntegratedGradients(NamedTuple):
    """Attributions of a batch, and how far they are from adding up."""

    values: Array  # float32[B, H, W, C], in logits
    difference: Array  # float32[B]: the class's logit of the image less that of the baseline
    gap: Array  # float32[B]: |sum of the values - difference| / |difference|
    steps: int  # of the integral


def integrated_gradients(
    model: nn.Module, variables: Variables, images: Array, classes: Array, baseline: Array | float = 0.0
) -> IntegratedGradients:
    """The attributions of Sundararajan et al. 2017, Axiomatic Attribution for Deep Networks, Sec. 3.

    `(x - baseline)` times the mean gradient of the class's logit along the straight line from `baseline` to `x`. By the
    completeness axiom (Proposition 1) they add up to the difference of the logits at its ends. The integral is a trapezoid
    sum whose steps are halved until the largest `gap` of the batch is at most 1 %, or there are 1,024 of them.

    Args:
      model: any network of `resflax.create_model`.
      variables: its own.
      images: float[B, H, W, C], normalised.
      classes: int[B], the class of each image that is asked about.
      baseline: what stands for "nothing", broadcast to `images`, normalised as they are: 0 is the mean of the data set.
    """
    baseline = jnp.broadcast_to(jnp.asarray(baseline, images.dtype), images.shape)

    def gradient(position: float) -> tuple[Array, Array]:
        return _gradient(model, variables, baseline + position * (images - baseline), classes)

    (at_baseline, first), (at_image, last) = gradient(0.0), gradient(1.0)
    difference = at_image - at_baseline
    total, steps = (first + last) / 2, 1
    while True:
        values = total / steps * (images - baseline)
        missing = jnp.abs(values.sum(axis=(1, 2, 3)) - difference)
        gap = jnp.where(missing == 0, 0, missing / jnp.abs(difference))
        if steps >= MAX_STEPS or (steps >= MIN_STEPS and bool(jnp.all(gap <= TOLERANCE))):
            return IntegratedGradients(values.astype(jnp.float32), difference, gap, steps)
        total += sum(gradient((index + 0.5) / steps)[1] for index in range(steps))
        steps *= 2


@functools.partial(jax.jit, static_argnames="model")
def _gradient(model: nn.Module, variables: Variables, images: Array, classes: Array) -> tuple[Array, Array]:
    """The logits of the classes, float32[B], and their gradients with respect to the images."""

    def score(images: Array) -> tuple[Array, Array]:
        logits: Array = model.apply(variables, images, train=False)  # type: ignore[assignment]
        chosen = jnp.take_along_axis(logits, classes[:, None], axis=1)[:, 0]
        return chosen.sum(), chosen

    gradient, chosen = jax.grad(score, has_aux=True)(images)
    return chosen, gradient
