"""A configuration made real."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from resflax.build.inputs import (
    Split,
    describe_reading,
    evaluation_pipeline,
    make_preprocessing,
    open_split,
    training_phases,
    training_pipeline,
    without_unreadable,
)
from resflax.build.parts import (
    abstract,
    initial_state,
    keeps_average,
    make_average,
    make_loss,
    make_model,
    make_optimizer,
    make_schedule,
    program_options,
    total_steps,
)
from resflax.build.pretrained import Pretrained, read_again, read_pretrained
from resflax.build.teacher import Teacher, read_teacher
from resflax.compiler import compile_with
from resflax.config import Config, config_hash, to_dict
from resflax.config.validate import parse_sizes
from resflax.data.arrays import ImageArrays
from resflax.data.mixing import make_mixing
from resflax.data.pipeline import Pipeline, ResidentPipeline
from resflax.data.preprocess import Preprocessing
from resflax.data.views import Views, average_over_views
from resflax.errors import ConfigError, nearest
from resflax.models.profile import profile
from resflax.nn import native
from resflax.nn.repeat import unstack_blocks
from resflax.optim.rates import Rates
from resflax.prng import stream_key
from resflax.training import chunk, sharding, utilization
from resflax.training.distillation import Distillation
from resflax.training.evaluation import Evaluation, evaluate, reestimate_batch_stats
from resflax.training.metrics import zero_sums
from resflax.training.moments import reached
from resflax.training.state import TrainState, init_state
from resflax.training.steps import branch, make_eval_step, make_train_step, select
from resflax.tree import named_leaves
from resflax.types import Batch, Tree, Variables

Through = Callable[[Iterable[Any]], Iterable[Any]]  # gives batches on as they are, and may raise between two of them


@dataclass(frozen=True)
class Run:
    """A configuration made real; everything is a pure function of it and the devices."""

    config: Config
    mesh: jax.sharding.Mesh
    model: nn.Module
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    total_steps: int
    train: Pipeline  # as evaluation sees images
    phases: tuple[tuple[int, Pipeline], ...]  # the stop of each, and the batches that are trained on
    test: Pipeline  # the evaluation split, whatever its name
    class_names: tuple[str, ...]
    reading: dict[str, Any]  # see `describe_reading`
    skipped: dict[str, str]  # files that were left out, and why
    fingerprint: str  # of both splits
    pretrained: Pretrained | None  # what `initial_state` starts from; None: from the seed alone
    init: dict[str, Any] | None  # see `Pretrained.provenance`; of a run that is resumed, as it was when it started

    teacher: Teacher | None = None  # of `config.distill`

    @property
    def steps_per_epoch(self) -> float:
        """Not a whole number: batches go on across the end of an epoch."""
        return len(self.train) / self.config.data.batch_size

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width and channels as the network sees them."""
        return (*self.train.preprocessing.image_size, self.reading["source_shape"][-1])

    @functools.cached_property
    def peak_rate(self) -> float | None:
        """Images a second that the devices' arithmetic peak allows, see `resflax.training.utilization`; None: not known.

        With `config.data.sizes` there is no such number.
        """
        if self.config.data.sizes:
            return None
        peak = utilization.peak_operations(self.mesh.devices.flat[0].device_kind, self.config.precision.compute)
        if peak is None:
            return None
        model = self.config.model
        if "repeat" in model.kwargs:  # what is repeated in a loop is traced once
            model = dataclasses.replace(model, kwargs={**model.kwargs, "repeat": "loop"})
        unrolled = make_model(dataclasses.replace(self.config, model=model), len(self.class_names))
        height, width, channels = self.image_shape
        multiply_adds = sum(layer.multiply_adds for layer in profile(unrolled, (height, width, channels)))
        return self.mesh.size * peak / utilization.training_operations(multiply_adds)

    @functools.cached_property
    def _init(self) -> Any:
        """`(seed, images) -> TrainState`, traced once however often it is asked for shapes or values."""
        init = functools.partial(initial_state, self.config, self.model, self.optimizer, self.train.preprocessing)
        # It runs once, for milliseconds, but optimizing its random numbers would take XLA:CPU as long as the training step.
        options = {"xla_backend_optimization_level": 1} if self._on_cpu else self._options
        return jax.jit(init, out_shardings=sharding.replicated(self.mesh), compiler_options=options)

    @property
    def _options(self) -> dict[str, Any]:
        """Of all programs; those of `config.precision.compiler_options` are of the training step alone."""
        return program_options(self.config.precision, self.mesh)

    @functools.cached_property
    def compiled_init(self) -> jax.stages.Compiled:
        """What `initial_state` runs. To compile it takes no other process, and may be done in another thread."""
        return self._init.lower(*self._init_arguments).compile()

    def initial_state(self) -> TrainState:
        """On the devices."""
        state = self.compiled_init(*self._init_arguments)
        if self.init is None:
            return state
        pretrained = self.pretrained or read_again(self.init)  # a run that was resumed and has no checkpoint left
        drawn = {"params": state.params, "batch_stats": state.batch_stats}
        variables = pretrained.fill(drawn, self.init["fresh"], self.config.model.kwargs.get("repeat", "loop"))
        everywhere = sharding.replicated(self.mesh)
        init = functools.partial(init_state, optimizer=self.optimizer, ema=keeps_average(self.config))
        return jax.jit(init, out_shardings=everywhere)(sharding.put(variables, everywhere))

    def abstract_state(self) -> Tree:
        """Shapes, dtypes and shardings of the state."""
        return abstract(self._init, sharding.replicated(self.mesh), *self._init_arguments)

    @property
    def _init_arguments(self) -> tuple[np.uint32, np.ndarray]:
        """The seed, and uint8[N, H, W, C]: what the initialisation looks at, the first training images or a black one."""
        return np.uint32(self.config.seed), self._init_images

    @property
    def _init_images(self) -> np.ndarray:
        count = getattr(self.model, "init_images", 0)
        if not count:
            return np.zeros((1, *self.image_shape), np.uint8)
        if not isinstance(self.train, ResidentPipeline):
            raise ConfigError(
                f"config.model.name={self.config.model.name} is initialised from images and needs a data set of one image "
                f"shape that is resident, got {self.config.data.name}; set config.data.input=resident or use another model"
            )
        return self.train.arrays.images[:count]

    def resident(self, pipeline: Pipeline) -> Batch:
        """A split in device memory, beside that of training the teacher's variables, where there is one."""
        held: dict[str, Any] = dict(pipeline.resident)
        if self.teacher is not None and pipeline is self.train:
            held["teacher"] = self.teacher.variables
        return sharding.put(held, sharding.replicated(self.mesh))

    def train_step(self, pipeline: Pipeline | None = None) -> Any:
        """`(state, host_batch, resident) -> (state, metrics)`, not compiled; of batches of `train` or another pipeline."""
        return make_train_step(
            self.model,
            self.optimizer,
            make_loss(self.config),
            (pipeline or self.train).materialise,
            mix=make_mixing(self.config.data.mix, self.config.data.mix_probability, len(self.class_names)),
            distill=self._distillation,
            keep=make_average(self.config, self.total_steps, self.steps_per_epoch),
            sharpness=self.config.optim.sharpness,
            hold=Rates.parse(self.config.optim.rates).hold,
            accumulate=self.config.optim.accumulate,
            unroll=self._on_cpu,
            choose=branch if self._on_cpu else select,
            shard=functools.partial(sharding.shard_batch, mesh=self.mesh),
        )

    @property
    def _distillation(self) -> Distillation | None:
        settings = self.config.distill
        return None if self.teacher is None else Distillation(self.teacher.logits, settings.temperature, settings.weight)

    @property
    def _on_cpu(self) -> bool:
        return self.mesh.devices.flat[0].platform == "cpu"

    def compile_chunk(self, state: Tree, fused: bool | None = None) -> chunk.RunChunk:
        """Compiles the training step, see `lower_chunk`."""
        return self.lower_chunk(state, fused)()

    def lower_chunk(self, state: Tree, fused: bool | None = None) -> Callable[[], chunk.RunChunk]:
        """Traces and lowers the training step, once a phase; what is returned compiles it, also in another thread.

        Args:
          state: a state, or the shapes of one.
          fused: whether a chunk is one dispatch; None: everywhere but on CPU.
        """
        resident = self.resident(self.train)
        lowered = [(stop, self._lower_phase(pipeline, stop, state, resident, fused)) for stop, pipeline in self.phases]
        if len(lowered) == 1:
            return lowered[0][1]
        return lambda: chunk.PhasedChunk([(stop, compile_chunk()) for stop, compile_chunk in lowered])

    def _lower_phase(
        self, pipeline: Pipeline, stop: int, state: Tree, resident: Batch, fused: bool | None
    ) -> Callable[[], chunk.RunChunk]:
        everywhere, split = sharding.replicated(self.mesh), sharding.batch_sharded(self.mesh)
        step, host_batch = self.train_step(pipeline), pipeline.training_batches()
        options = self.config.precision.compiler_options
        compile_ = functools.partial(compile_with, options=options, others=self._options)
        if fused is None:
            fused = not self._on_cpu and isinstance(pipeline, ResidentPipeline)
        if not fused:
            put = functools.partial(sharding.put_rows, sharding=split)
            jitted = jax.jit(step, donate_argnums=0, out_shardings=everywhere)
            lowered = jitted.lower(state, put(host_batch(0)), resident)
            if pipeline is not self.phases[0][1]:
                host_batch = pipeline.training_batches()  # what the other has made ahead is not needed for long
            return lambda: chunk.StepwiseChunk(compile_(lowered), host_batch, resident, put, stop)
        length = min(self.total_steps, 512)
        by_step = jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec(None, "data"))
        put = functools.partial(sharding.put_rows, sharding=by_step)
        batches = put(chunk.stack_batches(host_batch, 0, 1, length))
        jitted = jax.jit(chunk.fuse(step, length), donate_argnums=0, out_shardings=everywhere)
        lowered = jitted.lower(state, batches, jnp.int32(1), resident)
        return lambda: chunk.FusedChunk(compile_(lowered), host_batch, resident, put, length)

    def make_evaluate(self) -> Any:
        """`(variables, through) -> Evaluation` over the evaluation split."""
        classes, views = len(self.class_names), self.config.data.eval_views
        return make_evaluate(self.model, self.test, self.mesh, classes, views, self._options)

    def reestimate(self, params: Tree, through: Through = iter) -> Tree:
        """`batch_stats` averaged over one pass of training batches, augmented as at the end of the training."""
        pipeline = self.phases[-1][1]
        model = make_model(self.config, len(self.class_names), momentum=0.0)

        def stats_step(params: Tree, batch: Batch, resident: Batch) -> Tree:
            images = sharding.shard_batch(pipeline.materialise(batch, resident), self.mesh)["image"]
            empty = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)["batch_stats"]
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), empty)
            rngs = {"dropout": stream_key(resident["seed"], "dropout")}
            variables = {"params": params, "batch_stats": zeros}
            return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)[1]["batch_stats"]

        count = max(1, int(self.steps_per_epoch))
        put = functools.partial(sharding.put_rows, sharding=sharding.batch_sharded(self.mesh))
        batches = map(pipeline.training_batches(), range(count))
        step = jax.jit(stats_step, out_shardings=sharding.replicated(self.mesh), compiler_options=self._options)
        return reestimate_batch_stats(step, params, through(batches), self.resident(self.train), put)

    def finish(self, state: TrainState, through: Through = iter) -> TrainState:
        """What is evaluated at the end: where it is configured, with the statistics that `reestimate` finds."""
        if not (self.config.batch_norm.reestimate and state.batch_stats):
            return state
        stats = self.reestimate(state.variables()["params"], through)
        if state.ema is None:
            return state.replace(batch_stats=stats)
        return state.replace(ema=state.ema.replace(batch_stats=stats))

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
            **({} if self.init is None else {"init": self.init}),
            **({} if self.teacher is None else {"distill": self.teacher.provenance}),
        }


def make_evaluate(
    model: nn.Module,
    pipeline: Pipeline,
    mesh: jax.sharding.Mesh,
    num_classes: int,
    views: Views = "single",
    options: Mapping[str, Any] | None = None,
) -> Any:
    """`(variables, through) -> Evaluation` over the whole of `pipeline`; see `resflax.data.views` and `program_options`."""
    everywhere = sharding.replicated(mesh)
    resident = sharding.put(pipeline.resident, everywhere)
    shard = functools.partial(sharding.shard_batch, mesh=mesh)
    score = functools.partial(average_over_views, views=views)
    eval_step = make_eval_step(model, pipeline.materialise, shard, score)
    step = jax.jit(eval_step, out_shardings=everywhere, compiler_options=dict(options or {}))
    zero = sharding.put(zero_sums(num_classes), everywhere)
    put = functools.partial(sharding.put_rows, sharding=sharding.batch_sharded(mesh))

    def run(variables: Variables, through: Through = iter) -> Evaluation:
        return evaluate(
            step,
            variables,
            through(pipeline.evaluation_batches()),
            resident,
            zero=zero,
            num_examples=len(pipeline),
            put=put,
        )

    return run


def build(config: Config, devices: Sequence[jax.Device] | None = None, resumed: Mapping[str, Any] | None = None) -> Run:
    """Reads the data and makes the objects.

    Args:
      config: of the run.
      devices: None: all there are.
      resumed: the metadata of the checkpoint that the run goes on from; the weights it once started from are not read again,
        a teacher is, and must be the same.

    Raises:
      ConfigError: something does not fit the data, the devices, or the weights of `config.init` and `config.distill`.
      DataError: the teacher is not the one the run has had so far.
    """
    settings = config.data
    mesh = sharding.make_mesh(devices)
    native.prepare()  # while the data is read
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
    pretrained = None
    if config.init.weights is not None and resumed is None:
        pretrained = read_pretrained(config.init.weights, config.precision.compute == "float64")
        pretrained.check_network(config)
    preprocessing = start_preprocessing(config, train, pretrained, resumed)
    teacher = None
    if config.distill.weights is not None:
        teacher = read_teacher(config, train.class_names, preprocessing, None if resumed is None else resumed["distill"])
    fingerprint = f"{train.fingerprint()}-{test.fingerprint()}"
    reached("read")
    if isinstance(train, ImageArrays) and isinstance(test, ImageArrays) and train.images.shape[1:] != test.images.shape[1:]:
        raise ConfigError(
            f"splits {settings.train_split} and {settings.eval_split} must have the same image shape, got "
            f"{train.images.shape[1:]} and {test.images.shape[1:]}"
        )
    steps_per_epoch = len(train) / settings.batch_size
    steps = total_steps(config, len(train))
    schedule = make_schedule(config, steps, steps_per_epoch)
    batches = training_pipeline(config, train, preprocessing)
    run = Run(
        config=config,
        mesh=mesh,
        model=make_model(config, len(train.class_names)),
        optimizer=make_optimizer(config, schedule),
        schedule=schedule,
        total_steps=steps,
        train=batches,
        phases=training_phases(config, train, batches, steps),
        test=evaluation_pipeline(config, test, preprocessing, mesh),
        class_names=train.class_names,
        reading=describe_reading(config, train),
        skipped=skipped,
        fingerprint=fingerprint,
        pretrained=pretrained,
        init=None if resumed is None else resumed.get("init"),
        teacher=teacher,
    )
    try:
        state = run.abstract_state()
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(
            f"config.model.name={config.model.name} must accept images of shape {run.image_shape}, but {error}; set "
            "config.data.image_size"
        ) from error
    check_sizes(run, state.params)
    check_rates(config, state.params)
    if pretrained is not None:
        fresh = pretrained.fresh({"params": state.params, "batch_stats": state.batch_stats}, train.class_names)
        run = dataclasses.replace(run, init=pretrained.provenance(fresh))
    reached("built")
    return run


def start_preprocessing(
    config: Config, train: Split, pretrained: Pretrained | None, resumed: Mapping[str, Any] | None
) -> Preprocessing:
    """The preprocessing of a run: that of the data, or of the weights it starts from."""
    if config.init.weights is None:
        return make_preprocessing(config, train)
    if resumed is not None:
        return Preprocessing.from_dict(resumed["preprocessing"])
    assert pretrained is not None
    own = make_preprocessing(config, train, normalised=config.init.normalize == "data")
    pretrained.check_channels(own, config.data.name)
    return own if config.init.normalize == "data" else pretrained.adapt(own)


def check_sizes(run: Run, params: Tree) -> None:
    """Raises `ConfigError` where the network cannot be trained at all of `config.data.sizes`."""
    there = {name: leaf.shape for name, leaf in named_leaves(params).items()}
    for size, _ in parse_sizes(run.config.data.sizes):
        images = jax.ShapeDtypeStruct((1, size, size, run.image_shape[-1]), jnp.float32)
        try:
            found = jax.eval_shape(functools.partial(run.model.init, train=False), jax.random.key(0), images)["params"]
            wrong = [name for name, leaf in named_leaves(found).items() if leaf.shape != there.get(name)]
        except (TypeError, ValueError, ZeroDivisionError) as error:
            wrong = [str(error)]
        if wrong:
            raise ConfigError(
                f"config.data.sizes needs a network whose parameters are the same for images of {size} pixels, but "
                f"{run.config.model.name}'s are not: {wrong[0]}; leave the size out or use another network"
            )


def check_rates(config: Config, params: Tree) -> None:
    """Raises `ConfigError` where `config.optim.rates` names nothing, leaves nothing to train, or divides a loop."""
    rates = Rates.parse(config.optim.rates)
    if not rates.rules:
        return
    names = list(named_leaves(jax.eval_shape(unstack_blocks, params)))
    unused = rates.unused(names)
    if unused:
        modules = {name.rpartition("/")[0] for name in names}
        raise ConfigError(
            f"config.optim.rates must name parameters of {config.model.name}, but nothing is called {unused[0]!r}; did you "
            f"mean {' or '.join(nearest(unused[0], modules, 2))}?"
        )
    factors = named_leaves(rates.factors(params))
    if not any(factor.any() for factor in factors.values()):
        raise ConfigError(
            f"config.optim.rates must leave something to train, but {','.join(config.optim.rates)} freezes all; add head=1"
        )
    for name, factor in factors.items():
        if factor.any() and not factor.all() and "norm" in name.split("/")[-2]:
            raise ConfigError(
                f"config.optim.rates freezes {name} in some of the blocks of a loop, whose normalisations must be alike; set "
                "config.model.kwargs.repeat=loop"
            )
