"""The fields of a run, with their types, ranges and defaults.

Durations carry their unit in the name. Nothing here is derived: the scaled learning rate, the number of steps, the
schedule's milestones are computed from the final values, after the overrides (`resflax.build`).

Records, workdirs and checkpoints hold configurations of earlier versions. So a field that is added later is marked `ADDED`, its
default means what was done before there was the field, and no default is ever changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Literal

from resflax.ranges import Count, CountOrZero, NonNegative, Positive, Range, UnitInterval

# Metadata of a field that the first records do not have: with its default it leaves `config_hash` as it was.
ADDED = MappingProxyType({"added": True})


@dataclass(frozen=True)
class DataConfig:
    """What is trained on, and how an image becomes a tensor."""

    name: str = "digits"  # `digits`, a prepared tfds data set, or the path of an .npz
    data_dir: str | None = None  # where tfds data sets lie; None: TFDS_DATA_DIR, else ~/tensorflow_datasets
    train_split: str = "train"
    eval_split: str = "test"
    batch_size: Count = 128  # global: over all devices and hosts
    eval_batch_size: Count = 256
    # resident: the uint8 data set lives in accelerator memory; host: images are made by `workers` when they are needed;
    # auto: resident for data sets of one image shape, host for files
    input: Literal["auto", "resident", "host"] = "auto"
    workers: CountOrZero | None = None  # threads of the host path; None: one a core; 0: none beside the main one
    image_size: Count | None = None  # None: as the data set has it
    # SIZE@FRACTION: that training images have from that fraction of the run on, the first from 0; empty: image_size throughout
    sizes: tuple[str, ...] = field(default=(), metadata=ADDED)
    normalize: Literal["per_channel", "per_pixel_mean", "unit"] = "per_channel"
    # applied in order: `random_resized_crop` or `scale_jitter_crop:256:480` (files); `rand_augment:2:9`, `trivial_augment`,
    # `auto_augment`, `color_jitter:0.4`, `pca_lighting:0.1`; `pad_crop:4`, `reflect_crop:2`, `flip`, `alternating_flip`,
    # `cutout:16`, `random_erasing:0.25`
    augment: tuple[str, ...] = ()
    repeats: Count = field(default=1, metadata=ADDED)  # how often a training image is in a batch, each time augmented anew
    # `mixup:ALPHA`, `cutmix:ALPHA`: one of them is drawn for each step, see `resflax.data.mixing`
    mix: tuple[str, ...] = field(default=(), metadata=ADDED)
    # that a step is mixed at all
    mix_probability: Annotated[float, Range(0, 1, open_low=True)] = field(default=1.0, metadata=ADDED)
    # evaluation: logits averaged over the image and its mirror image, and both shifted by a pixel, or over ten crops of a file;
    # see `resflax.data.views`
    eval_views: Literal["single", "mirror", "mirror_shift", "ten_crop"] = field(default="single", metadata=ADDED)
    crop_ratio: Annotated[float, Range(0, 1, open_low=True)] = 1.0  # files: share of the shorter side that is evaluated
    unreadable: Literal["error", "skip"] = "error"  # files that are no images; skip: found and listed before training
    max_unreadable_fraction: UnitInterval = 0.001  # with skip: more than this is an error


@dataclass(frozen=True)
class ModelConfig:
    """A name of `resflax.models.zoo` and the arguments of its builder; the number of classes comes from the data."""

    name: str = "cifar_resnet20"
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class InitConfig:
    """What the first weights are: drawn from the seed, or those of a trained network."""

    # a workdir, a weight file or hf:ORGANISATION/NAME; the classifier is made anew unless its classes are those of the data
    weights: str | None = field(default=None, metadata=ADDED)
    # with `weights`: mean and deviation that pixels are normalised by; saved: theirs; data: as data.normalize says
    normalize: Literal["saved", "data"] = field(default="saved", metadata=ADDED)


@dataclass(frozen=True)
class BatchNormConfig:
    """The statistics of batch normalisation, part of the experiment and not of the hardware."""

    group_size: Count | None = None  # images a statistics group; None: the global batch
    momentum: UnitInterval = 0.9  # running = momentum * running + (1 - momentum) * batch
    epsilon: Positive = 1e-5
    running_variance: Literal["biased", "unbiased"] = "biased"
    # closed_form: the same derivative by an arithmetic that reads less, see `resflax.nn.normalise`
    gradient: Literal["autodiff", "closed_form"] = field(default="autodiff", metadata=ADDED)
    reestimate: bool = False  # the final evaluation uses statistics averaged over the training set


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer, its decay and its schedule."""

    name: Literal["sgd", "adam", "adamw", "lars", "lamb", "muon"] = "sgd"
    learning_rate: Positive = 0.1
    base_batch_size: Count | None = None  # given: the rate is learning_rate * batch_size / base_batch_size
    momentum: UnitInterval = 0.9
    nesterov: bool = False
    dampening: Annotated[float, Range(0, 1)] = 0.0  # velocity = momentum * velocity + (1 - dampening) * gradient
    beta1: UnitInterval = 0.9
    beta2: UnitInterval = 0.999
    epsilon: Positive = 1e-8
    epsilon_at: Literal["corrected", "uncorrected"] = "corrected"  # second moment of Adam; Keras: uncorrected
    # of lars: share of a layer's norm that a step of rate 1 changes
    trust_coefficient: Positive = field(default=0.001, metadata=ADDED)
    # of muon: rate of what is left to SGD; None: learning_rate
    sgd_learning_rate: Positive | None = field(default=None, metadata=ADDED)
    # of muon: hidden kernels keep the norm sqrt(outputs), as in airbench94_muon
    fixed_norm: bool = field(default=False, metadata=ADDED)
    weight_decay: NonNegative = 0.0
    decay: Literal["coupled", "decoupled"] = "coupled"  # coupled: added to the gradient, as an L2 penalty would
    decay_mask: Literal["all", "kernels"] = "all"
    schedule: Literal["constant", "step", "cosine", "linear", "polynomial", "piecewise"] = "constant"
    milestones: tuple[NonNegative, ...] = (0.5, 0.75)  # of `step` and `piecewise`
    milestone_unit: Literal["fraction", "steps", "epochs"] = "fraction"
    step_factor: Annotated[float, Range(0, 1, open_low=True, open_high=True)] = 0.1  # rate multiplier at a milestone
    # of `piecewise`: rate multiplier at each milestone, with lines between them
    milestone_factors: tuple[NonNegative, ...] = field(default=(), metadata=ADDED)
    # of `cosine`, `linear` and `polynomial`: last rate / peak rate
    final_factor: Annotated[float, Range(0, 1)] = 0.0
    # exponent of `polynomial`, the share of the run that is left to that power; 1 is `linear`
    power: Positive = field(default=2.0, metadata=ADDED)
    warmup_steps: CountOrZero = 0
    warmup_epochs: NonNegative = 0.0
    warmup_fraction: UnitInterval = 0.0  # of the run; at most one of the three is set
    warmup: Literal["linear", "constant"] = "linear"
    warmup_factor: Annotated[float, Range(0, 1)] = 0.0  # rate at the first step / peak rate
    clip_norm: Positive | None = None  # global norm of the gradient
    # largest norm of a unit's gradient / norm of its weights, all but the classifier (Brock et al. 2021)
    clip_adaptive: Positive | None = field(default=None, metadata=ADDED)
    # NAME=FACTOR: what multiplies the rate of the parameters of that name or pattern; 0: frozen; the last that fits counts
    rates: tuple[str, ...] = field(default=(), metadata=ADDED)
    accumulate: Count = 1  # the batch is taken in this many equal parts, one after another
    # rho of sharpness-aware minimisation (Foret et al. 2021), at the price of a second gradient
    sharpness: Positive | None = field(default=None, metadata=ADDED)
    # updates after which slow weights follow (Zhang et al. 2019: k); they are what is evaluated
    lookahead_steps: Count | None = field(default=None, metadata=ADDED)
    # how far they go towards the fast ones (the paper: alpha)
    lookahead_rate: Annotated[float, Range(0, 1, open_low=True)] = field(default=0.5, metadata=ADDED)


@dataclass(frozen=True)
class LossConfig:
    """What is minimised in training; evaluations report the softmax cross-entropy without smoothing."""

    # softmax: cross-entropy; sigmoid: binary cross-entropy, the mean over the classes
    name: Literal["softmax", "sigmoid"] = field(default="softmax", metadata=ADDED)
    label_smoothing: UnitInterval = 0.0
    # of sigmoid: classes whose target is above this are there, the others are not; None: targets as they are
    target_threshold: UnitInterval | None = field(default=None, metadata=ADDED)


@dataclass(frozen=True)
class EmaConfig:
    """An exponential moving average of parameters and batch statistics; when it is on, it is what is evaluated."""

    decay: UnitInterval | None = None


@dataclass(frozen=True)
class SwaConfig:
    """Stochastic weight averaging (Izmailov et al. 2018): the mean of networks along the run; when on, it is evaluated."""

    # fraction of the run after which the first network enters the mean
    start: UnitInterval | None = field(default=None, metadata=ADDED)
    every_epochs: Positive = field(default=1.0, metadata=ADDED)  # between two networks of the mean
    every_steps: Count | None = field(default=None, metadata=ADDED)  # the same in steps, if it is set
    # rate from `start` on; None: that of the schedule
    learning_rate: Positive | None = field(default=None, metadata=ADDED)
    # rate at the end of each cycle, in which it falls from `learning_rate`; None: it is constant
    final_learning_rate: Positive | None = field(default=None, metadata=ADDED)


@dataclass(frozen=True)
class DistillConfig:
    """Knowledge distillation (Hinton et al. 2015): the network also learns from what a trained one says of the same images."""

    # of the teacher: a workdir, a weight file or hf:ORGANISATION/NAME, with the classes of the data; None: there is no teacher
    weights: str | None = field(default=None, metadata=ADDED)
    temperature: Positive = field(default=1.0, metadata=ADDED)  # both networks' logits are divided by it
    # of the teacher's part of the loss; 1: the labels have no part
    weight: Annotated[float, Range(0, 1, open_low=True)] = field(default=0.5, metadata=ADDED)


@dataclass(frozen=True)
class PrecisionConfig:
    """The dtype of activations; parameters, statistics and logits stay float32 (float64 with `float64`)."""

    compute: Literal["float32", "bfloat16", "float64"] = "float32"
    # NAME=VALUE, XLA's options for the training step; the items of a list are joined by +
    compiler_options: tuple[str, ...] = field(default=(), metadata=ADDED)
    # on GPUs: kernels that give the same bits in every run, and no choice between kernels by timing them
    deterministic: bool = field(default=False, metadata=ADDED)


@dataclass(frozen=True)
class NonFiniteConfig:
    """What is done about a step whose loss, gradient or new state is not finite; the step itself changes nothing."""

    # abort: end the run; skip: leave the batch out; roll_back: go back to the newest checkpoint, then leave it out
    policy: Literal["abort", "skip", "roll_back"] = field(default="abort", metadata=ADDED)
    # more steps than this in a row (`skip`), or returns to the same checkpoint (`roll_back`), end the run
    max_consecutive: Count = field(default=3, metadata=ADDED)


@dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are taken and which are kept; the last step is always saved."""

    every_steps: CountOrZero = 0  # 0: only at the end
    keep_last: Count = 2
    keep_best: CountOrZero = 0  # by accuracy on the evaluation split
    max_failed_saves: Count = field(default=3, metadata=ADDED)  # so many in a row end the run


@dataclass(frozen=True)
class Config:
    """A run. `seed` is its only source of randomness."""

    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    total_steps: Count | None = None  # exactly one of total_steps and total_epochs is set
    total_epochs: Positive | None = None
    eval_every_steps: CountOrZero = 0  # 0: only at the end
    log_every_steps: CountOrZero = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    init: InitConfig = field(default_factory=InitConfig, metadata=ADDED)
    batch_norm: BatchNormConfig = field(default_factory=BatchNormConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    distill: DistillConfig = field(default_factory=DistillConfig, metadata=ADDED)
    swa: SwaConfig = field(default_factory=SwaConfig, metadata=ADDED)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    non_finite: NonFiniteConfig = field(default_factory=NonFiniteConfig, metadata=ADDED)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
