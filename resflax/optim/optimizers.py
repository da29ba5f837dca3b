"""Optimizers as chains of optax transformations."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax.numpy as jnp
import optax

from resflax.optim.masks import DecayMask, decay_mask
from resflax.optim.schedules import Schedule


def sgd(momentum: float, nesterov: bool = False, dampening: float = 0.0) -> optax.GradientTransformation:
    """`velocity = momentum * velocity + (1 - dampening) * gradient`, before the learning rate.

    That is PyTorch's recurrence, but from a velocity of zero; PyTorch leaves the first gradient undampened. The rate
    multiplies the velocity, not the gradient that enters it: a change of rate acts at once. The update is the velocity, or
    with `nesterov` `gradient + momentum * velocity`.
    """
    scale = [optax.scale(1 - dampening)] if dampening else []
    return optax.chain(*scale, optax.trace(decay=momentum, nesterov=nesterov))


def adam(
    beta1: float, beta2: float, epsilon: float, epsilon_at: Literal["corrected", "uncorrected"] = "corrected"
) -> optax.GradientTransformation:
    """Adam's direction (Kingma and Ba 2015, Algorithm 1).

    `epsilon` is added to the root of the `corrected` second moment, as the algorithm is printed and optax and PyTorch have
    it, or of the `uncorrected` one, as in the paper's more efficient form (end of Sec. 2) and Keras.
    """
    if epsilon_at == "corrected":
        return optax.scale_by_adam(beta1, beta2, epsilon)

    def equivalent(step: Any) -> Any:
        return epsilon / jnp.sqrt(1 - beta2 ** (step + 1))

    return optax.inject_hyperparams(optax.scale_by_adam, static_args=("b1", "b2"))(b1=beta1, b2=beta2, eps=equivalent)


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
