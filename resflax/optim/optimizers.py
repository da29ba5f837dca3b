"""Optimizers as chains of optax transformations."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax.numpy as jnp
import optax

from resflax.optim.layerwise import clip_adaptively, orthogonalized
from resflax.optim.masks import DecayMask, decay_mask
from resflax.optim.rates import Rates, scale_by_rates
from resflax.optim.schedules import Schedule

ALIKE = Rates()  # all layers have the rate of the schedule


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


def muon(momentum: float, nesterov: bool = True) -> optax.GradientTransformation:
    """The velocity of `sgd`, made orthogonal where it is that of a hidden kernel (Jordan et al. 2024).

    The rest, which stay with SGD, are the first convolution, the classifier, biases and parameters of normalisations, as in
    airbench94_muon, which freezes its first convolution; the Muon repository gives them to AdamW. Their rate is usually another
    one, see `scale_rest`. The speedrun's rescaling of each kernel to a fixed norm is no part of this.
    """
    return optax.chain(sgd(momentum, nesterov), orthogonalized())


def make_optimizer(
    direction: optax.GradientTransformation,
    schedule: Schedule,
    *,
    weight_decay: float = 0.0,
    decay: Literal["coupled", "decoupled"] = "coupled",
    mask: DecayMask = "all",
    clip_norm: float | None = None,
    clip_adaptive: float | None = None,
    rescale: optax.GradientTransformation | None = None,
    finish: optax.GradientTransformation | None = None,
    rates: Rates = ALIKE,
) -> optax.GradientTransformation:
    """Clip the gradient, decay, take the direction, rescale it, scale by the rate, finish, scale by the rates of single layers.

    `coupled` decay enters the gradient before the direction is taken, as the gradient of `weight_decay / 2 * |w|^2`
    would. `decoupled` decay is `rate * weight_decay * w`, past the direction (Loshchilov and Hutter 2019) and before `rescale`.

    LARS (You et al. 2017, Algorithm 1) is `trust_ratio(...)` finished by `sgd(...)`: its velocity gathers what the rate has
    scaled already, so that a change of the rate acts slowly.

    LAMB (You et al. 2020, Algorithm 2) is `adam(...)` with decoupled decay, rescaled by `trust_ratio(1.0)`. As with LARS only
    kernels have a ratio and decay. timm's `lamb`, by which ResNet strikes back was trained, has the same rule where there is
    decay; without any it leaves out all ratios, this does not. Its defaults are an epsilon of 1e-6 and a gradient clipped to
    a global norm of 1, which are settings of their own here. The paper, and optax, give biases and normalisations a ratio too.
    """
    decayed = optax.add_decayed_weights(weight_decay, mask=functools.partial(decay_mask, which=mask))
    parts = (
        clip_adaptively(clip_adaptive) if clip_adaptive else None,
        optax.clip_by_global_norm(clip_norm) if clip_norm else None,
        decayed if weight_decay and decay == "coupled" else None,
        direction,
        decayed if weight_decay and decay == "decoupled" else None,
        rescale,
        optax.scale_by_learning_rate(schedule),
        finish,
        scale_by_rates(rates) if rates.rules else None,
    )
    return optax.chain(*(part for part in parts if part is not None))
