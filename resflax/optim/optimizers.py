"""Optimizers as chains of optax transformations."""

from __future__ import annotations

import functools
from typing import Literal

import optax

from resflax.optim.masks import DecayMask, decay_mask
from resflax.optim.schedules import Schedule


def sgd(momentum: float, nesterov: bool = False, dampening: float = 0.0) -> optax.GradientTransformation:
    """`velocity = momentum * velocity + (1 - dampening) * gradient`, before the learning rate, as in PyTorch.

    The rate multiplies the velocity, not the gradient that enters it: a change of rate acts at once. The update is the
    velocity, or with `nesterov` `gradient + momentum * velocity`.
    """
    scale = [optax.scale(1 - dampening)] if dampening else []
    return optax.chain(*scale, optax.trace(decay=momentum, nesterov=nesterov))


def make_optimizer(
    direction: optax.GradientTransformation,
    schedule: Schedule,
    *,
    weight_decay: float = 0.0,
    decay: Literal["coupled", "decoupled"] = "coupled",
    mask: DecayMask = "all",
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Clip the gradient, decay, take the direction, scale by the rate.

    `coupled` decay enters the gradient before the direction is taken, as the gradient of `weight_decay / 2 * |w|^2`
    would. `decoupled` decay is `rate * weight_decay * w`, past the direction (Loshchilov and Hutter 2019).
    """
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    decayed = optax.add_decayed_weights(weight_decay, mask=functools.partial(decay_mask, which=mask))
    before = [decayed] if weight_decay and decay == "coupled" else []
    after = [decayed] if weight_decay and decay == "decoupled" else []
    return optax.chain(*clip, *before, direction, *after, optax.scale_by_learning_rate(schedule))
