"""From a configuration to the network, the optimizer, the schedule and the state."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from resflax.compiler import deterministic_options, fusion_options
from resflax.config import Config, PrecisionConfig
from resflax.data.preprocess import Preprocessing
from resflax.errors import ConfigError
from resflax.models.zoo import create_model
from resflax.nn import BatchNorm
from resflax.optim import layerwise, optimizers, schedules
from resflax.optim.lookahead import lookahead
from resflax.optim.rates import Rates
from resflax.prng import stream_key
from resflax.training import averaging
from resflax.training.losses import binary_cross_entropy, cross_entropy
from resflax.training.state import TrainState, init_state
from resflax.training.steps import Loss
from resflax.types import Array, ArrayLike, Tree


def compute_dtype(config: Config) -> Any:
    """The dtype of activations."""
    return jnp.dtype(config.precision.compute)


def dataset_dtype(config: Config) -> Any:
    """The dtype in which images are normalised and augmented; the network casts them to its own."""
    return jnp.promote_types(compute_dtype(config), jnp.float32)


def make_model(config: Config, num_classes: int, momentum: float | None = None) -> nn.Module:
    """The network; `momentum` replaces the configured one of its running statistics."""
    settings = config.batch_norm
    norm = functools.partial(
        BatchNorm,
        group_size=settings.group_size,
        momentum=settings.momentum if momentum is None else momentum,
        epsilon=settings.epsilon,
        running_variance=settings.running_variance,
        gradient=settings.gradient,
        frozen=Rates.parse(config.optim.rates).freezes if config.optim.rates else None,
        param_dtype=dataset_dtype(config),
    )
    return create_model(config.model.name, num_classes, norm=norm, dtype=compute_dtype(config), **config.model.kwargs)


def total_steps(config: Config, num_examples: int) -> int:
    """The length of the run: the last step is the one that completes `total_epochs`."""
    if config.total_steps is not None:
        return config.total_steps
    assert config.total_epochs is not None
    return max(1, math.ceil(config.total_epochs * num_examples / config.data.batch_size))


def make_schedule(config: Config, steps: int, steps_per_epoch: float) -> optax.Schedule:
    """The learning rate as a function of the step; everything relative becomes steps here, after the overrides."""
    settings = config.optim
    scale = 1.0 if settings.base_batch_size is None else config.data.batch_size / settings.base_batch_size
    peak = scale * settings.learning_rate
    unit = {"fraction": steps, "steps": 1, "epochs": steps_per_epoch}[settings.milestone_unit]
    milestones = tuple(round(value * unit) for value in settings.milestones)
    if settings.schedule == "step":
        schedule = schedules.step_schedule(peak, milestones, settings.step_factor)
    elif settings.schedule == "polynomial":
        schedule = schedules.polynomial_schedule(peak, steps, settings.power, settings.final_factor)
    elif settings.schedule == "piecewise":
        schedule = schedules.piecewise_schedule(peak, milestones, settings.milestone_factors)
    elif settings.schedule == "cosine":
        schedule = schedules.cosine_schedule(peak, steps, settings.final_factor)
    elif settings.schedule == "linear":
        schedule = schedules.linear_schedule(peak, steps, settings.final_factor)
    else:
        schedule = optax.constant_schedule(peak)
    warmup = settings.warmup_steps or round(settings.warmup_epochs * steps_per_epoch + settings.warmup_fraction * steps)
    if warmup and warmup >= steps:  # steps and epochs can only be compared once the data are known
        raise ConfigError(f"the warm-up must end before the run does, got {warmup} of {steps} steps; shorten it")
    schedule = schedules.with_warmup(schedule, warmup, settings.warmup_factor, settings.warmup)
    if config.swa.start is None or config.swa.learning_rate is None:
        return schedule
    start, every = swa_steps(config, steps, steps_per_epoch)
    return schedules.with_cycles(
        schedule,
        start,
        every,
        scale * config.swa.learning_rate,
        scale * (config.swa.final_learning_rate or config.swa.learning_rate),
    )


def swa_steps(config: Config, steps: int, steps_per_epoch: float) -> tuple[int, int]:
    """After how many steps the first network enters the mean, and how many lie between two."""
    assert config.swa.start is not None
    return round(config.swa.start * steps), config.swa.every_steps or max(1, round(config.swa.every_epochs * steps_per_epoch))


def make_average(config: Config, steps: int, steps_per_epoch: float) -> averaging.Keep | None:
    """The average that the state keeps; None: none."""
    if config.swa.start is not None:
        return averaging.uniform(*swa_steps(config, steps, steps_per_epoch))
    return None if config.ema.decay is None else averaging.exponential(config.ema.decay)


def keeps_average(config: Config) -> bool:
    """Whether the state has a place for one."""
    return config.ema.decay is not None or config.swa.start is not None


def make_optimizer(config: Config, schedule: optax.Schedule) -> optax.GradientTransformation:
    """The optimizer with its decay, clipping and schedule."""
    settings = config.optim
    rescale = finish = None
    if settings.name == "sgd":
        direction = optimizers.sgd(settings.momentum, settings.nesterov, settings.dampening)
    elif settings.name == "lars":
        direction = layerwise.trust_ratio(settings.trust_coefficient)
        finish = optimizers.sgd(settings.momentum, settings.nesterov)
    elif settings.name == "muon":
        direction = optimizers.muon(settings.momentum, settings.nesterov)
        finish = layerwise.scale_rest((settings.sgd_learning_rate or settings.learning_rate) / settings.learning_rate)
        finish = optax.chain(finish, layerwise.keep_norms()) if settings.fixed_norm else finish
    else:  # adam and adamw differ in their decay alone
        direction = optimizers.adam(settings.beta1, settings.beta2, settings.epsilon, settings.epsilon_at)
        rescale = layerwise.trust_ratio(1.0) if settings.name == "lamb" else None
    optimizer = optimizers.make_optimizer(
        direction,
        schedule,
        weight_decay=settings.weight_decay,
        decay=settings.decay,
        mask=settings.decay_mask,
        clip_norm=settings.clip_norm,
        clip_adaptive=settings.clip_adaptive,
        rescale=rescale,
        finish=finish,
        rates=Rates.parse(settings.rates),
    )
    if settings.lookahead_steps is None:
        return optimizer
    return lookahead(optimizer, settings.lookahead_steps, settings.lookahead_rate)


def program_options(precision: PrecisionConfig, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """`compiler_options` of all programs of a network."""
    device = mesh.devices.flat[0]
    return {**fusion_options(device, precision.compute), **(deterministic_options(device) if precision.deterministic else {})}


def make_loss(config: Config) -> Loss:
    """The loss of a training step."""
    settings = config.loss
    if settings.name == "sigmoid":
        return functools.partial(
            binary_cross_entropy, label_smoothing=settings.label_smoothing, target_threshold=settings.target_threshold
        )
    return functools.partial(cross_entropy, label_smoothing=settings.label_smoothing)


def initial_state(
    config: Config,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    preprocessing: Preprocessing,
    seed: int | Array,
    images: ArrayLike,
) -> TrainState:
    """The state before the first step; a pure function of the seed and uint8[N, H, W, C], for use inside `jit`.

    Most networks look at no more of the images than their shape; see `resflax.nn.whitening` for one that does.
    """
    normalised = preprocessing(jnp.asarray(images), dataset_dtype(config))
    variables = model.init(stream_key(seed, "init"), normalised, train=False)
    if compute_dtype(config) == jnp.float64:
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
    return init_state(variables, optimizer, keeps_average(config))


def abstract(init: Any, where: jax.sharding.Sharding, *arguments: Any) -> Tree:
    """Shapes and dtypes of `init(*arguments)`, to be placed `where`."""
    shapes = jax.eval_shape(init, *arguments)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), shapes)
