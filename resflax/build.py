"""From a configuration to the objects of a run: the only module that sees config, models, data and optim together."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from flax import linen as nn

from resflax.config import Config, config_hash, from_dict, to_dict
from resflax.data.arrays import ImageArrays, load_split
from resflax.data.datasets import DATASETS
from resflax.data.decode import decode, read_image
from resflax.data.folders import ImageFiles
from resflax.data.geometry import center_crop
from resflax.data.pipeline import HostPipeline, Pipeline, ResidentPipeline
from resflax.data.preprocess import Preprocessing, fit_preprocessing
from resflax.data.reading import (
    ImageSource,
    array_reader,
    centered_reader,
    decode_all,
    find_unreadable,
    random_crop_reader,
)
from resflax.errors import ConfigError, DataError, StorageError
from resflax.models.zoo import create_model
from resflax.nn import BatchNorm
from resflax.optim import optimizers, schedules
from resflax.prng import stream_key
from resflax.training import chunk, sharding
from resflax.training.checkpoints import Saved, latest_checkpoint, open_checkpoint
from resflax.training.evaluation import Evaluation, evaluate, reestimate_batch_stats
from resflax.training.losses import cross_entropy
from resflax.training.metrics import zero_sums
from resflax.training.state import TrainState, init_state
from resflax.training.steps import make_eval_step, make_train_step
from resflax.types import Batch, Tree, Variables


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
    peak = settings.learning_rate
    if settings.base_batch_size is not None:
        peak *= config.data.batch_size / settings.base_batch_size
    if settings.schedule == "step":
        unit = {"fraction": steps, "steps": 1, "epochs": steps_per_epoch}[settings.milestone_unit]
        milestones = tuple(round(value * unit) for value in settings.milestones)
        schedule = schedules.step_schedule(peak, milestones, settings.step_factor)
    elif settings.schedule == "cosine":
        schedule = schedules.cosine_schedule(peak, steps, settings.final_factor)
    elif settings.schedule == "linear":
        schedule = schedules.linear_schedule(peak, steps, settings.final_factor)
    else:
        schedule = optax.constant_schedule(peak)
    warmup = settings.warmup_steps or round(settings.warmup_epochs * steps_per_epoch + settings.warmup_fraction * steps)
    if warmup and warmup >= steps:  # steps and epochs can only be compared once the data are known
        raise ConfigError(f"the warm-up must end before the run does, got {warmup} of {steps} steps; shorten it")
    return schedules.with_warmup(schedule, warmup, settings.warmup_factor, settings.warmup)


def make_optimizer(config: Config, schedule: optax.Schedule) -> optax.GradientTransformation:
    """The optimizer with its decay, clipping and schedule."""
    settings = config.optim
    if settings.name == "sgd":
        direction = optimizers.sgd(settings.momentum, settings.nesterov, settings.dampening)
    else:  # adam and adamw differ in their decay alone
        direction = optax.scale_by_adam(settings.beta1, settings.beta2, settings.epsilon)
    return optimizers.make_optimizer(
        direction,
        schedule,
        weight_decay=settings.weight_decay,
        decay=settings.decay,
        mask=settings.decay_mask,
        clip_norm=settings.clip_norm,
    )


def initial_state(
    config: Config, model: nn.Module, optimizer: optax.GradientTransformation, image_shape: tuple[int, ...]
) -> TrainState:
    """The state before the first step; a pure function of the seed, for use inside `jit`."""
    images = jnp.zeros((1, *image_shape), dataset_dtype(config))
    variables = model.init(stream_key(config.seed, "init"), images, train=False)
    if compute_dtype(config) == jnp.float64:
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
    return init_state(variables, optimizer, config.ema.decay is not None)


@dataclass(frozen=True)
class Run:
    """A configuration made real; everything is a pure function of it and the devices."""

    config: Config
    mesh: jax.sharding.Mesh
    model: nn.Module
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    total_steps: int
    train: Pipeline
    test: Pipeline  # the evaluation split, whatever its name
    class_names: tuple[str, ...]
    reading: dict[str, Any]  # see `describe_reading`
    skipped: dict[str, str]  # files that were left out, and why
    fingerprint: str  # of both splits

    @property
    def steps_per_epoch(self) -> float:
        """Not a whole number: batches go on across the end of an epoch."""
        return len(self.train) / self.config.data.batch_size

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width and channels as the network sees them."""
        return (*self.train.preprocessing.image_size, self.reading["source_shape"][-1])

    def initial_state(self) -> TrainState:
        """On the devices."""
        init = functools.partial(initial_state, self.config, self.model, self.optimizer, self.image_shape)
        return jax.jit(init, out_shardings=sharding.replicated(self.mesh))()

    def abstract_state(self) -> Tree:
        """Shapes, dtypes and shardings of the state."""
        init = functools.partial(initial_state, self.config, self.model, self.optimizer, self.image_shape)
        return _abstract(init, sharding.replicated(self.mesh))

    def resident(self, pipeline: Pipeline) -> Batch:
        """A split in device memory."""
        return sharding.put(pipeline.resident, sharding.replicated(self.mesh))

    def train_step(self) -> Any:
        """`(state, host_batch, resident) -> (state, metrics)`, not compiled."""
        return make_train_step(
            self.model,
            self.optimizer,
            functools.partial(cross_entropy, label_smoothing=self.config.loss.label_smoothing),
            self.train.materialise,
            seed=self.config.seed,
            ema_decay=self.config.ema.decay,
            accumulate=self.config.optim.accumulate,
            unroll=self._on_cpu,
            shard=functools.partial(sharding.shard_batch, mesh=self.mesh),
        )

    @property
    def _on_cpu(self) -> bool:
        return self.mesh.devices.flat[0].platform == "cpu"

    def compile_chunk(self, state: TrainState, fused: bool | None = None) -> chunk.RunChunk:
        """Compiles the training step; `fused` None: whole chunks in a dispatch everywhere but on CPU."""
        everywhere, split = sharding.replicated(self.mesh), sharding.batch_sharded(self.mesh)
        resident = self.resident(self.train)
        step, host_batch = self.train_step(), self.train.training_batches()
        if fused is None:
            fused = not self._on_cpu and isinstance(self.train, ResidentPipeline)
        if not fused:
            put = functools.partial(sharding.put_rows, sharding=split)
            jitted = jax.jit(step, donate_argnums=0, out_shardings=everywhere)
            compiled = jitted.lower(state, put(host_batch(0)), resident).compile()
            return chunk.StepwiseChunk(compiled, host_batch, resident, put)
        length = min(self.total_steps, 512)
        by_step = jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec(None, "data"))
        put = functools.partial(sharding.put_rows, sharding=by_step)
        batches = put(chunk.stack_batches(host_batch, 0, 1, length))
        jitted = jax.jit(chunk.fuse(step, length), donate_argnums=0, out_shardings=everywhere)
        compiled = jitted.lower(state, batches, jnp.int32(1), resident).compile()
        return chunk.FusedChunk(compiled, host_batch, resident, put, length)

    def make_evaluate(self) -> Any:
        """`variables -> Evaluation` over the evaluation split."""
        return make_evaluate(self.model, self.test, self.mesh, len(self.class_names))

    def reestimate(self, params: Tree) -> Tree:
        """`batch_stats` averaged over one pass of training batches, augmented as in training."""
        model = make_model(self.config, len(self.class_names), momentum=0.0)

        def stats_step(params: Tree, batch: Batch, resident: Batch) -> Tree:
            images = sharding.shard_batch(self.train.materialise(batch, resident), self.mesh)["image"]
            empty = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)["batch_stats"]
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), empty)
            rngs = {"dropout": stream_key(self.config.seed, "dropout")}
            variables = {"params": params, "batch_stats": zeros}
            return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)[1]["batch_stats"]

        count = max(1, int(self.steps_per_epoch))
        put = functools.partial(sharding.put_rows, sharding=sharding.batch_sharded(self.mesh))
        batches = map(self.train.training_batches(), range(count))
        step = jax.jit(stats_step, out_shardings=sharding.replicated(self.mesh))
        return reestimate_batch_stats(step, params, batches, self.resident(self.train), put)

    def metadata(self) -> dict[str, Any]:
        """What must travel with the weights for anybody to use them."""
        return {
            "config": to_dict(self.config),
            "config_hash": config_hash(self.config),
            "class_names": list(self.class_names),
            **self.reading,
            "preprocessing": self.train.preprocessing.to_dict(),
            "dataset_fingerprint": self.fingerprint,
            "layout": self.config.model.kwargs.get("repeat", "loop"),
        }


def round_up(batch_size: int, devices: int) -> int:
    """The next multiple of `devices`: an evaluation's result does not depend on its batch size."""
    return -(-batch_size // devices) * devices


def make_evaluate(model: nn.Module, pipeline: Pipeline, mesh: jax.sharding.Mesh, num_classes: int) -> Any:
    """`variables -> Evaluation` over the whole of `pipeline`."""
    everywhere = sharding.replicated(mesh)
    resident = sharding.put(pipeline.resident, everywhere)
    shard = functools.partial(sharding.shard_batch, mesh=mesh)
    step = jax.jit(make_eval_step(model, pipeline.materialise, shard), out_shardings=everywhere)
    zero = sharding.put(zero_sums(num_classes), everywhere)
    put = functools.partial(sharding.put_rows, sharding=sharding.batch_sharded(mesh))

    def run(variables: Variables) -> Evaluation:
        return evaluate(
            step,
            variables,
            pipeline.evaluation_batches(),
            resident,
            zero=zero,
            num_examples=len(pipeline),
            put=put,
        )

    return run


def build(config: Config, devices: Sequence[jax.Device] | None = None) -> Run:
    """Reads the data and makes the objects; raises `ConfigError` for what does not fit the data or the devices."""
    settings = config.data
    mesh = sharding.make_mesh(devices)
    sharding.check_mesh(
        "config.data.batch_size / config.optim.accumulate",
        settings.batch_size // config.optim.accumulate,
        config.batch_norm.group_size,
        mesh,
    )
    train, test = (open_split(config, split) for split in (settings.train_split, settings.eval_split))
    if train.class_names != test.class_names:
        raise ConfigError(
            f"splits {settings.train_split} and {settings.eval_split} must have the same classes, got "
            f"{len(train.class_names)} and {len(test.class_names)}"
        )
    skipped: dict[str, str] = {}
    if settings.unreadable == "skip":
        train, test = (without_unreadable(config, split, skipped) for split in (train, test))
    preprocessing = make_preprocessing(config, train)
    if isinstance(train, ImageArrays) and isinstance(test, ImageArrays) and train.images.shape[1:] != test.images.shape[1:]:
        raise ConfigError(
            f"splits {settings.train_split} and {settings.eval_split} must have the same image shape, got "
            f"{train.images.shape[1:]} and {test.images.shape[1:]}"
        )
    steps_per_epoch = len(train) / settings.batch_size
    steps = total_steps(config, len(train))
    schedule = make_schedule(config, steps, steps_per_epoch)
    run = Run(
        config=config,
        mesh=mesh,
        model=make_model(config, len(train.class_names)),
        optimizer=make_optimizer(config, schedule),
        schedule=schedule,
        total_steps=steps,
        train=training_pipeline(config, train, preprocessing),
        test=evaluation_pipeline(config, test, preprocessing, mesh),
        class_names=train.class_names,
        reading=describe_reading(train),
        skipped=skipped,
        fingerprint=f"{train.fingerprint()}-{test.fingerprint()}",
    )
    try:
        run.abstract_state()
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(
            f"config.model.name={config.model.name} must accept images of shape {run.image_shape}, but {error}; set "
            "config.data.image_size"
        ) from error
    return run


Split = ImageArrays | ImageSource


def open_split(config: Config, split: str) -> Split:
    """The images of a split; files become arrays where `config.data.input` asks for resident data."""
    settings = config.data
    images: Split = load_split(settings.name, split, settings.data_dir)
    if isinstance(images, ImageArrays):
        if "random_resized_crop" in settings.augment:
            raise ConfigError(
                f"config.data.augment: random_resized_crop is for image files, but {settings.name} has images of one shape; "
                "use pad_crop"
            )
        return images
    if settings.image_size is None:
        raise ConfigError(
            f"config.data.image_size must be set for {settings.name}, whose images have any size; for example 224"
        )
    if settings.input != "resident":
        return images
    if "random_resized_crop" in settings.augment:
        raise ConfigError(
            "config.data.augment: random_resized_crop needs the files, got config.data.input=resident; set it to host"
        )
    return decode_all(images, settings.image_size, settings.crop_ratio, workers=workers(config))


def workers(config: Config) -> int:
    """Threads of the host path."""
    return (os.cpu_count() or 1) if config.data.workers is None else config.data.workers


def without_unreadable(config: Config, images: Split, skipped: dict[str, str]) -> Split:
    """`images` but for the files that cannot be decoded, which are added to `skipped` with the reason.

    Raises `DataError` when they are more than `config.data.max_unreadable_fraction` of the split.
    """
    if not isinstance(images, ImageFiles):
        return images
    found = find_unreadable(images, workers(config))
    if len(found) > config.data.max_unreadable_fraction * len(images):
        first = next(iter(found.values()))
        raise DataError(
            f"{len(found)} of {len(images)} files in {images.root} cannot be read, more than "
            f"config.data.max_unreadable_fraction={config.data.max_unreadable_fraction:g} allows; the first: {first}"
        )
    skipped.update({images.name(index): reason for index, reason in found.items()})
    return images.select(np.setdiff1d(np.arange(len(images)), list(found)))


# Pixels of this many images, spread evenly over the split, stand for a set of files that is not read whole.
_SAMPLE = 1000


def make_preprocessing(config: Config, train: Split) -> Preprocessing:
    """The preprocessing that belongs to the training split."""
    settings = config.data
    known = DATASETS.get(re.split("[/:]", settings.name)[0])
    statistics = (known.mean, known.std) if known is not None else None
    if isinstance(train, ImageArrays):
        size = settings.image_size or min(train.images.shape[1:3])
        sample, resize = train, settings.image_size
    else:
        assert settings.image_size is not None
        size = settings.image_size
        keep = np.unique(np.linspace(0, len(train) - 1, _SAMPLE).astype(int))
        needed = keep if statistics is None or settings.normalize != "per_channel" else keep[:1]
        sample, resize = decode_all(train, size, settings.crop_ratio, needed, workers(config)), None
    for text in settings.augment:
        name, _, pixels = text.partition(":")
        if name == "pad_crop" and int(pixels) >= size:
            raise ConfigError(f"config.data.augment: {text} must pad by less than the {size} pixels of an image; pad less")
    return fit_preprocessing(settings.normalize, sample, resize, statistics)


def training_pipeline(config: Config, images: Split, preprocessing: Preprocessing) -> Pipeline:
    """Batches for training, in the form that `config.data.input` asks for."""
    settings = config.data
    on_device = tuple(text for text in settings.augment if text != "random_resized_crop")
    shared = (preprocessing, settings.batch_size, config.seed, on_device, dataset_dtype(config))
    rows = sharding.local_rows(settings.batch_size)
    if isinstance(images, ImageArrays) and settings.input != "host":
        return ResidentPipeline(*shared, rows=rows, arrays=images)
    if isinstance(images, ImageArrays):
        read = array_reader(images)
    elif "random_resized_crop" in settings.augment:
        read = random_crop_reader(images, preprocessing.image_size[0], config.seed)
    else:
        read = centered_reader(images, preprocessing.image_size[0], settings.crop_ratio)
    return HostPipeline(*shared, rows=rows, read=read, labels=images.labels, workers=workers(config))


def evaluation_pipeline(config: Config, images: Split, preprocessing: Preprocessing, mesh: jax.sharding.Mesh) -> Pipeline:
    """Batches for evaluation, in the form that `config.data.input` asks for."""
    batch_size = round_up(config.data.eval_batch_size, mesh.size)
    rows, dtype = sharding.local_rows(batch_size), dataset_dtype(config)
    if isinstance(images, ImageArrays) and config.data.input != "host":
        return ResidentPipeline(preprocessing, batch_size, dtype=dtype, rows=rows, arrays=images)
    read = (
        array_reader(images)
        if isinstance(images, ImageArrays)
        else centered_reader(images, preprocessing.image_size[0], config.data.crop_ratio)
    )
    return HostPipeline(
        preprocessing, batch_size, dtype=dtype, rows=rows, read=read, labels=images.labels, workers=workers(config)
    )


def describe_reading(images: Split) -> dict[str, Any]:
    """How a file becomes the array that preprocessing starts from; `predict` does the same."""
    if isinstance(images, ImageArrays):
        return {"source_shape": list(images.images.shape[1:]), "crop": "none"}
    return {"source_shape": [None, None, images.channels], "crop": "center"}


def _abstract(init: Any, where: jax.sharding.Sharding) -> Tree:
    shapes = jax.eval_shape(init)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), shapes)


def find_checkpoint(path: str, step: int | None = None, say: Any = None) -> Saved:
    """The checkpoint of a workdir: the newest that verifies, or `step`; `StorageError` when there is none."""
    root = epath.Path(path) / "checkpoints"
    if step is not None:
        return open_checkpoint(root / str(step))
    saved = latest_checkpoint(root, say)
    if saved is None:
        raise StorageError(f"{path} must be the workdir of a run with a checkpoint, but there is none in {root}")
    return saved


def restore_variables(saved: Saved) -> tuple[Config, nn.Module, Variables]:
    """The network of a checkpoint and the variables it is evaluated with, on the first device."""
    config = from_dict(saved.metadata["config"])
    if config.precision.compute == "float64":
        jax.config.update("jax_enable_x64", True)  # without it JAX has no such arrays
    preprocessing = Preprocessing.from_dict(saved.metadata["preprocessing"])
    model = make_model(config, len(saved.metadata["class_names"]))
    # The state does not depend on what the schedule says, only on there being one.
    optimizer = make_optimizer(config, optax.constant_schedule(0.0))
    shape = (*preprocessing.image_size, saved.metadata["source_shape"][-1])
    init = functools.partial(initial_state, config, model, optimizer, shape)
    where = sharding.replicated(sharding.make_mesh(jax.devices()[:1]))
    state: TrainState = saved.restore(_abstract(init, where))
    return config, model, state.variables()


def load(path: str, step: int | None = None) -> tuple[nn.Module, Variables, dict[str, Any]]:
    """Loads a trained network from a workdir.

    Args:
      path: the workdir.
      step: a checkpoint's step; None: the newest one whose bytes are intact.

    Returns:
      `(model, variables, metadata)`: `model.apply(variables, images, train=False)` -> float32 logits [B, classes];
      metadata holds `class_names`, `preprocessing`, `config`, `step`, ...

    Raises:
      StorageError: there is no checkpoint, or it is damaged.
    """
    saved = find_checkpoint(path, step)
    _, model, variables = restore_variables(saved)
    return model, variables, {**saved.metadata, "step": saved.step}


def make_reader(config: Config, metadata: dict[str, Any]) -> Callable[[Path], np.ndarray]:
    """`path -> uint8[H, W, C]`, as the images of the evaluation split were read."""
    height, width, channels = metadata["source_shape"]
    if metadata["crop"] == "none":
        return lambda path: read_image(path, (height, width, channels))
    size = metadata["preprocessing"]["image_size"][0]
    return lambda path: np.asarray(center_crop(decode(path, channels), size, config.data.crop_ratio)).reshape(
        size, size, channels
    )


def make_probabilities(config: Config, model: nn.Module, variables: Variables, preprocessing: dict[str, Any]) -> Any:
    """`uint8[B, H, W, C] -> softmax probabilities float32[B, classes]`, with the preprocessing of training."""
    prepare = Preprocessing.from_dict(preprocessing)

    @jax.jit
    def probabilities(variables: Variables, images: jax.Array) -> jax.Array:
        logits: Any = model.apply(variables, prepare(images, dataset_dtype(config)), train=False)
        return jax.nn.softmax(logits)

    return lambda images: np.asarray(probabilities(variables, images))
