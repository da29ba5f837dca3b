"""Refuses a configuration that cannot be run: one rule a function, one sentence an error."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from resflax.config.fields import check, field_types, unknown_option
from resflax.config.schema import Config, DistillConfig, OptimConfig, SwaConfig
from resflax.errors import ConfigError, nearest
from resflax.models.zoo import check_model, model_options


class Augmentation(NamedTuple):
    """How an item of `config.data.augment` is written."""

    usage: str
    needs: str = ""  # what its arguments are; empty: it takes none
    example: str = ""
    accepts: Callable[..., bool] = lambda: True  # of the arguments as they are written; it may raise ValueError or TypeError
    of_pixels: bool = False  # see `resflax.data.augment`
    of_colors: bool = False  # of images with three channels alone


def _pixels(*sides: str) -> bool:
    return all(side.isdecimal() and int(side) > 0 for side in sides)


AUGMENTATIONS = {
    "random_resized_crop": Augmentation("random_resized_crop"),
    "scale_jitter_crop": Augmentation(
        "scale_jitter_crop:FROM:TO",
        "the smallest and the largest shorter side in pixels",
        "scale_jitter_crop:256:480",
        lambda smallest, largest: _pixels(smallest, largest) and int(smallest) <= int(largest),
    ),
    "rand_augment": Augmentation(
        "rand_augment:LAYERS:LEVEL",
        "a number of operations from 1 and a level from 0 to 30",
        "rand_augment:2:9",
        lambda layers, level: _pixels(layers) and level.isdecimal() and int(level) <= 30,
        True,
    ),
    "trivial_augment": Augmentation("trivial_augment", of_pixels=True),
    "auto_augment": Augmentation("auto_augment", of_pixels=True),
    "color_jitter": Augmentation(
        "color_jitter:STRENGTH", "a strength up to 1", "color_jitter:0.4", lambda strength: 0 < float(strength) <= 1, True, True
    ),
    "pca_lighting": Augmentation(
        "pca_lighting:DEVIATION", "a standard deviation", "pca_lighting:0.1", lambda std: 0 < float(std) < math.inf, True, True
    ),
    "pad_crop": Augmentation("pad_crop:PIXELS", "a number of pixels", "pad_crop:4", lambda side: _pixels(side)),
    "reflect_crop": Augmentation("reflect_crop:PIXELS", "a number of pixels", "reflect_crop:4", lambda side: _pixels(side)),
    "flip": Augmentation("flip"),
    "alternating_flip": Augmentation("alternating_flip"),
    "cutout": Augmentation("cutout:PIXELS", "a number of pixels", "cutout:16", lambda side: _pixels(side)),
    "random_erasing": Augmentation(
        "random_erasing:PROBABILITY", "a probability", "random_erasing:0.25", lambda probability: 0 < float(probability) <= 1
    ),
}
MIXING = {"mixup": "mixup:ALPHA", "cutmix": "cutmix:ALPHA"}
ON_HOST = ("random_resized_crop", "scale_jitter_crop")  # made while a file is read


def validate(config: Config) -> Config:
    """Returns `config`, or raises `ConfigError` naming the key, what must hold, and the remedy.

    Needs no device: what depends on the device count is checked when the mesh is made (`resflax.training.sharding`).
    """
    _check_fields(config, "")
    for rule in _RULES:
        rule(config)
    return config


def _check_fields(section: Any, prefix: str) -> None:
    for name, hint in field_types(section.__class__).items():
        value = getattr(section, name)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            if not isinstance(value, hint):
                raise ConfigError(f"config.{prefix}{name} must be a resflax.config.{hint.__name__}, got {value!r}; make one")
            _check_fields(value, f"{prefix}{name}.")
        else:
            check(prefix + name, hint, value)


def _one_duration(config: Config) -> None:
    if (config.total_steps is None) == (config.total_epochs is None):
        raise ConfigError(
            "exactly one of config.total_steps and config.total_epochs must be set, got "
            f"{config.total_steps} and {config.total_epochs}; set one with --config.total_steps=N"
        )


def _model(config: Config) -> None:
    check_model(config.model.name)
    options = model_options(config.model.name)
    for name, value in config.model.kwargs.items():
        if name not in options:
            raise unknown_option(config.model.name, name, options)
        check(f"model.kwargs.{name}", options[name], value)


def _microbatches(config: Config) -> None:
    if config.data.batch_size % config.optim.accumulate:
        raise ConfigError(
            f"config.data.batch_size must be a multiple of config.optim.accumulate, got {config.data.batch_size} and "
            f"{config.optim.accumulate}; change one of them"
        )


def _group(config: Config) -> None:
    group, part = config.batch_norm.group_size, config.data.batch_size // config.optim.accumulate
    if group is not None and part % group:
        raise ConfigError(
            f"the images normalised at once (config.data.batch_size / config.optim.accumulate = {part}) must be a "
            f"multiple of config.batch_norm.group_size, got {group}; use a divisor of {part}"
        )


def _warmup(config: Config) -> None:
    lengths = {unit: getattr(config.optim, f"warmup_{unit}") for unit in ("steps", "epochs", "fraction")}
    given = [unit for unit, length in lengths.items() if length]
    if len(given) > 1:
        raise ConfigError(
            f"only one of config.optim.warmup_{given[0]} and config.optim.warmup_{given[1]} may be set, got "
            f"{lengths[given[0]]} and {lengths[given[1]]}; set the other to 0"
        )
    for unit in ("steps", "epochs"):
        total = getattr(config, f"total_{unit}")
        if total is not None and lengths[unit] >= total:
            raise ConfigError(
                f"config.optim.warmup_{unit} must be less than config.total_{unit}, got {lengths[unit]} and {total}; "
                "shorten the warm-up"
            )


def _milestones(config: Config) -> None:
    optim = config.optim
    if optim.milestone_factors and optim.schedule != "piecewise":
        raise ConfigError(
            f"config.optim.milestone_factors belongs to piecewise, got config.optim.schedule={optim.schedule}; leave it empty"
        )
    if optim.power != OptimConfig.power and optim.schedule != "polynomial":
        raise ConfigError(
            f"config.optim.power belongs to polynomial, got config.optim.schedule={optim.schedule}; leave it at "
            f"{OptimConfig.power}"
        )
    if optim.schedule not in ("step", "piecewise"):
        return
    if not optim.milestones or list(optim.milestones) != sorted(set(optim.milestones)):
        raise ConfigError(
            f"config.optim.milestones must be increasing and not empty, got {optim.milestones}; for example 0.5,0.75"
        )
    end = {"fraction": 1.0, "steps": config.total_steps, "epochs": config.total_epochs}[optim.milestone_unit]
    if end is not None and (optim.milestones[-1] > end or (optim.schedule == "step" and optim.milestones[-1] == end)):
        raise ConfigError(
            f"config.optim.milestones must lie before the end of the run, {end:.15g} with config.optim.milestone_unit="
            f"{optim.milestone_unit}, got {optim.milestones}; lower them or change the unit"
        )
    if optim.milestone_unit == "steps" and any(value != int(value) for value in optim.milestones):
        raise ConfigError(f"config.optim.milestones in steps must be whole numbers, got {optim.milestones}; round them")
    if optim.schedule == "piecewise" and len(optim.milestone_factors) != len(optim.milestones):
        raise ConfigError(
            f"config.optim.milestone_factors must give one for each of config.optim.milestones={optim.milestones}, got "
            f"{optim.milestone_factors}; for example 1,0.1"
        )


def _optimizer(config: Config) -> None:
    optim = config.optim
    if optim.nesterov and (optim.name not in ("sgd", "lars", "muon") or not optim.momentum or optim.dampening):
        raise ConfigError(
            "config.optim.nesterov needs config.optim.name=sgd, lars or muon, a momentum above 0 and dampening 0, got "
            f"{optim.name}, {optim.momentum} and {optim.dampening}; set config.optim.nesterov=false"
        )
    if optim.dampening and optim.name != "sgd":
        raise ConfigError(f"config.optim.dampening belongs to sgd, got config.optim.name={optim.name}; set it to 0")
    if optim.trust_coefficient != OptimConfig.trust_coefficient and optim.name != "lars":
        raise ConfigError(
            f"config.optim.trust_coefficient belongs to lars, got config.optim.name={optim.name}; leave it at "
            f"{OptimConfig.trust_coefficient}"
        )
    if optim.fixed_norm and optim.name != "muon":
        raise ConfigError(f"config.optim.fixed_norm belongs to muon, got config.optim.name={optim.name}; set it to false")
    if optim.sgd_learning_rate is not None and optim.name != "muon":
        raise ConfigError(
            f"config.optim.sgd_learning_rate belongs to muon, got config.optim.name={optim.name}; set it to none, and the "
            "rate with config.optim.learning_rate"
        )


# The optimizers that look at a setting; with any other it would be left out without a word.
_OPTIMIZERS_OF = {
    "momentum": ("sgd", "lars", "muon"),
    "beta1": ("adam", "adamw", "lamb"),
    "beta2": ("adam", "adamw", "lamb"),
    "epsilon": ("adam", "adamw", "lamb"),
    "epsilon_at": ("adam", "adamw", "lamb"),
}


def _unused(config: Config) -> None:
    optim, defaults = config.optim, OptimConfig()
    for name, of in _OPTIMIZERS_OF.items():
        value, default = getattr(optim, name), getattr(defaults, name)
        if value != default and optim.name not in of:
            raise ConfigError(
                f"config.optim.{name} belongs to {', '.join(of[:-1])} and {of[-1]}, got {value} with "
                f"config.optim.name={optim.name}; leave it at {default}"
            )


def _decay(config: Config) -> None:
    optim = config.optim
    if not optim.weight_decay:
        return
    if optim.name in ("adamw", "muon") and optim.decay != "decoupled":
        raise ConfigError(
            f"config.optim.name={optim.name} means decoupled decay, got config.optim.decay=coupled; set "
            f"config.optim.decay=decoupled{', or use adam' if optim.name == 'adamw' else ''}"
        )
    decay = {"lars": "coupled", "lamb": "decoupled"}.get(optim.name)
    if decay is not None and (optim.decay, optim.decay_mask) != (decay, "kernels"):
        raise ConfigError(
            f"config.optim.name={optim.name} means {decay} decay of kernels alone, got "
            f"config.optim.decay={optim.decay} and config.optim.decay_mask={optim.decay_mask}; set them to {decay} and kernels"
        )


def _clipping(config: Config) -> None:
    optim = config.optim
    if optim.clip_norm is not None and optim.clip_adaptive is not None:
        raise ConfigError(
            "only one of config.optim.clip_norm and config.optim.clip_adaptive may be set, got "
            f"{optim.clip_norm} and {optim.clip_adaptive}; set the other to none"
        )


def _rates(config: Config) -> None:
    rates = config.optim.rates
    for text in rates:
        name, _, factor = text.rpartition("=")
        try:
            number = float(factor)
        except ValueError:
            number = math.nan
        if not name or not 0 <= number < math.inf:
            raise ConfigError(
                f"config.optim.rates must hold NAME=FACTOR with a factor of at least 0, got {text!r}; for example head=10"
            )
    names = [text.rpartition("=")[0] for text in rates]
    if len(set(names)) != len(names):
        raise ConfigError(f"config.optim.rates must give each name once, got {', '.join(rates)}; keep one of each")
    if rates and config.optim.fixed_norm:
        raise ConfigError(
            "config.optim.fixed_norm sets the norm of all hidden kernels, whatever config.optim.rates says; set one of them"
        )
    if config.batch_norm.reestimate and any(not float(text.rpartition("=")[2]) for text in rates):
        raise ConfigError(
            f"config.batch_norm.reestimate replaces all statistics, also those of what config.optim.rates={','.join(rates)} "
            "freezes; set it to false"
        )


def _init(config: Config) -> None:
    if config.init.normalize != "saved" and config.init.weights is None:
        raise ConfigError(
            f"config.init.normalize belongs to config.init.weights, which is not set, got {config.init.normalize}; leave it out"
        )


def _distill(config: Config) -> None:
    if config.distill.weights is None and config.distill != DistillConfig():
        raise ConfigError(
            "config.distill has an effect with config.distill.weights alone, which is not set; name a workdir or a weight file"
        )


def _average(config: Config) -> None:
    swa = config.swa
    if swa.start is None:
        if swa != SwaConfig():
            raise ConfigError(
                "config.swa has an effect with config.swa.start alone, which is not set; set it, for example to 0.75"
            )
        return
    if config.ema.decay is not None:
        raise ConfigError(
            f"only one of config.ema.decay and config.swa.start may be set, got {config.ema.decay} and {swa.start}; set the "
            "other to none"
        )
    if not config.batch_norm.reestimate:
        raise ConfigError(
            "config.swa.start needs config.batch_norm.reestimate=true: averaged weights have other statistics than those that "
            "were averaged"
        )
    if swa.final_learning_rate is not None and (swa.learning_rate is None or swa.final_learning_rate > swa.learning_rate):
        raise ConfigError(
            "config.swa.final_learning_rate must be at most config.swa.learning_rate, from which a cycle falls to it, got "
            f"{swa.final_learning_rate} and {swa.learning_rate}; set both"
        )


def _lookahead(config: Config) -> None:
    optim = config.optim
    if optim.lookahead_steps is None and optim.lookahead_rate != OptimConfig.lookahead_rate:
        raise ConfigError(
            "config.optim.lookahead_rate belongs to config.optim.lookahead_steps, which is not set, got "
            f"{optim.lookahead_rate}; leave it at {OptimConfig.lookahead_rate}"
        )


def _best(config: Config) -> None:
    if config.checkpoint.keep_best and not (config.eval_every_steps and config.checkpoint.every_steps):
        raise ConfigError(
            "config.checkpoint.keep_best needs config.eval_every_steps and config.checkpoint.every_steps above 0, got "
            f"{config.eval_every_steps} and {config.checkpoint.every_steps}; set both, or keep_best to 0"
        )
    if config.checkpoint.keep_best and config.checkpoint.every_steps % config.eval_every_steps:
        raise ConfigError(
            "with config.checkpoint.keep_best, config.checkpoint.every_steps must be a multiple of "
            f"config.eval_every_steps, got {config.checkpoint.every_steps} and {config.eval_every_steps}; else a saved "
            "step has no accuracy to be compared by"
        )


def _compiler_options(config: Config) -> None:
    names = []
    for text in config.precision.compiler_options:
        name, equals, _ = text.partition("=")
        if not (name and equals):
            raise ConfigError(
                f"config.precision.compiler_options must hold NAME=VALUE, the items of a list joined by +, got {text!r}; for "
                "example xla_gpu_autotune_level=0"
            )
        names.append(name)
    if config.precision.deterministic and "xla_gpu_deterministic_ops" in names:
        raise ConfigError(
            "config.precision.compiler_options must not set xla_gpu_deterministic_ops beside config.precision.deterministic; "
            "leave it out"
        )
    if len(set(names)) != len(names):
        raise ConfigError(
            f"config.precision.compiler_options must set each option once, got {', '.join(names)}; join a list's items by +"
        )


MAX_SIZES = 8  # each is a compilation of the training step


def parse_sizes(sizes: tuple[str, ...]) -> tuple[tuple[int, float], ...]:
    """`("160@0", "192@0.75")` as pixels and fractions; raises ValueError where that cannot be read."""
    return tuple((int(size), float(fraction)) for size, fraction in (text.split("@") for text in sizes))


def _sizes(config: Config) -> None:
    given = config.data.sizes
    if not given:
        return
    try:
        pixels, starts = zip(*parse_sizes(given), strict=True)
    except ValueError:
        pixels, starts = (), ()
    if not pixels or min(pixels) < 1 or starts[0] or list(starts) != sorted(set(starts)) or not starts[-1] < 1:
        raise ConfigError(
            "config.data.sizes must hold SIZE@FRACTION with fractions that rise from 0 and stay below 1, got "
            f"{','.join(given)}; for example 160@0,192@0.75"
        )
    if len(set(pixels)) != len(pixels) or len(pixels) > MAX_SIZES:
        raise ConfigError(
            f"config.data.sizes must hold at most {MAX_SIZES} sizes, each once, got {','.join(given)}; leave some out"
        )
    if config.data.normalize == "per_pixel_mean":
        raise ConfigError(
            "config.data.sizes needs a mean that has no size, got config.data.normalize=per_pixel_mean; use per_channel"
        )


def _sizes_seen(config: Config) -> list[int]:
    """Of training images; empty where the data say it."""
    if config.data.sizes:
        return [size for size, _ in parse_sizes(config.data.sizes)]
    return [] if config.data.image_size is None else [config.data.image_size]


def _augmentations(config: Config) -> None:
    sizes = _sizes_seen(config)
    key = "config.data.sizes" if config.data.sizes else "config.data.image_size"
    for text in config.data.augment:
        name, *arguments = text.split(":")
        if name in MIXING:
            raise ConfigError(
                f"config.data.augment holds what happens to one image, got {text!r}, which mixes two; write "
                f"config.data.mix={MIXING[name]}"
            )
        if name not in AUGMENTATIONS:
            near = AUGMENTATIONS[nearest(name, AUGMENTATIONS)[0]].usage
            usages = ", ".join(known.usage for known in AUGMENTATIONS.values())
            raise ConfigError(f"config.data.augment must hold only {usages}, got {text!r}; did you mean {near}?")
        known = AUGMENTATIONS[name]
        if arguments and not known.needs:
            raise ConfigError(f"config.data.augment: {name} takes no argument, got {text!r}; write {name}")
        try:
            accepted = known.accepts(*arguments)
        except (TypeError, ValueError):  # another number of arguments, or what is no number
            accepted = False
        if not accepted:
            raise ConfigError(f"config.data.augment: {name} needs {known.needs}, got {text!r}; write {known.example}")
        if name in ("pad_crop", "reflect_crop") and sizes and int(arguments[0]) >= min(sizes):
            raise ConfigError(f"config.data.augment: {text} must pad by less than {key}, got {min(sizes)}; pad less")
        if name == "scale_jitter_crop" and sizes and int(arguments[0]) < max(sizes):
            raise ConfigError(
                f"config.data.augment: {text} must start at {key} or above, got {max(sizes)}; raise its first number"
            )
    names = [text.partition(":")[0] for text in config.data.augment]
    crops = [name for name in names if name in ON_HOST]
    if len(crops) > 1:
        raise ConfigError(f"config.data.augment must cut one part out of a file, got {' and '.join(crops)}; keep one of them")
    on_device = [name for name in names if name not in ON_HOST]
    for before, after in itertools.pairwise(on_device):
        if AUGMENTATIONS[after].of_pixels and not AUGMENTATIONS[before].of_pixels:
            raise ConfigError(
                f"config.data.augment: {after} changes pixels and must come before {before}, which is given normalised images; "
                "change their order"
            )
    if len(set(names)) != len(names):
        raise ConfigError(
            f"config.data.augment must name each augmentation once, got {','.join(config.data.augment)}; keep one of each"
        )


def _mixing(config: Config) -> None:
    for text in config.data.mix:
        name, _, argument = text.partition(":")
        try:
            alpha = float(argument)
        except ValueError:
            alpha = math.nan
        if name not in MIXING or not 0 < alpha < math.inf:
            example = f"{name if name in MIXING else nearest(name, MIXING)[0]}:1.0"
            raise ConfigError(
                f"config.data.mix must hold only {' and '.join(MIXING.values())} with an alpha above 0, got {text!r}; for "
                f"example {example}"
            )
    names = [text.partition(":")[0] for text in config.data.mix]
    if len(set(names)) != len(names):
        raise ConfigError(f"config.data.mix must name each rule once, got {','.join(config.data.mix)}; keep one of each")
    if config.data.mix_probability != 1 and not names:
        raise ConfigError(
            f"config.data.mix_probability belongs to config.data.mix, which is empty, got {config.data.mix_probability}; leave "
            "it at 1"
        )
    part = config.data.batch_size // config.optim.accumulate
    if names and part % 2:
        raise ConfigError(
            "config.data.mix mixes images in pairs, so config.data.batch_size / config.optim.accumulate must be even, got "
            f"{part}; change one of them"
        )


def _loss(config: Config) -> None:
    if config.loss.target_threshold is not None and config.loss.name != "sigmoid":
        raise ConfigError(
            f"config.loss.target_threshold belongs to sigmoid, got config.loss.name={config.loss.name}; set it to none"
        )


_RULES: tuple[Callable[[Config], None], ...] = (
    _one_duration,
    _model,
    _microbatches,
    _group,
    _warmup,
    _milestones,
    _optimizer,
    _unused,
    _decay,
    _clipping,
    _rates,
    _init,
    _distill,
    _average,
    _lookahead,
    _best,
    _compiler_options,
    _sizes,
    _augmentations,
    _mixing,
    _loss,
)
