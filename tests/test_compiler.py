"""Options of XLA reach the compiler, belong to the configuration, and are refused in a sentence."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflax.build import build
from resflax.compiler import compile_with, deterministic_options, fusion_options
from resflax.config import (
    BatchNormConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    PrecisionConfig,
    apply_overrides,
    config_hash,
    validate,
)
from resflax.errors import ConfigError

BASE = Config(total_steps=2, data=DataConfig(batch_size=8), model=ModelConfig("cifar_resnet8", {"width": 8}))


@pytest.fixture(scope="module")
def lowered():
    return jax.jit(lambda x: jnp.sin(x) @ x).lower(jnp.ones((4, 4)))


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("xla_gpu_autotune_level=2", "xla_gpu_enable_command_buffer=FUSION+CUBLAS"),
        ("xla_gpu_enable_command_buffer=",),
        ("xla_backend_optimization_level=1", "xla_embed_ir_in_executable=True", "xla_gpu_autotune_gemm_rtol=0.25"),
    ],
)
def test_options_are_taken(lowered, options):
    assert compile_with(lowered, options)(jnp.ones((4, 4))).shape == (4, 4)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("no_such_option=1", "No such compile option: 'no_such_option'; correct or leave out what it names"),
        ("xla_gpu_autotune_level=high", "While setting option xla_gpu_autotune_level, 'high' is not a valid int32 value"),
        ("optimization_level=high", "; correct or leave out what it names"),
    ],
)
def test_an_unknown_option_or_value_is_one_sentence(lowered, option, says):
    with pytest.raises(ConfigError) as caught:
        compile_with(lowered, [option])
    assert f"config.precision.compiler_options must be known to XLA (jax {jax.__version__}), got {option}" in str(caught.value)
    assert says in str(caught.value)


def test_what_else_goes_wrong_is_not_blamed_on_the_options():
    class Lowered:
        def compile(self, compiler_options):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    with pytest.raises(jax.errors.JaxRuntimeError, match="out of memory"):
        compile_with(Lowered(), ["xla_gpu_autotune_level=0"])


@pytest.mark.parametrize("fused", [False, True])
def test_the_training_step_is_compiled_with_them(fused):
    run = build(dataclasses.replace(BASE, precision=PrecisionConfig(compiler_options=("no_such_option=1",))), jax.devices()[:1])
    with pytest.raises(ConfigError, match="No such compile option: 'no_such_option'"):
        run.compile_chunk(run.initial_state(), fused)


def test_they_belong_to_the_configuration():
    text = "precision.compiler_options=xla_gpu_autotune_level=0,xla_gpu_enable_command_buffer=FUSION+CUDNN"
    config = validate(apply_overrides(BASE, [text]))
    assert config.precision.compiler_options == ("xla_gpu_autotune_level=0", "xla_gpu_enable_command_buffer=FUSION+CUDNN")
    closed = dataclasses.replace(BASE, batch_norm=BatchNormConfig(gradient="closed_form"))
    assert len({config_hash(one) for one in (BASE, config, closed)}) == 3


def test_the_command_refuses_an_unknown_option_in_a_sentence(command):
    option = "--config.precision.compiler_options=xla_no_such_option=1"
    child = command("train", option, "--config.total_steps=1", "--config.model.kwargs.width=8", "--workdir=run")
    assert child.returncode == 2, child.stderr
    assert "Traceback" not in child.stderr
    assert "No such compile option: 'xla_no_such_option'" in child.stderr.splitlines()[-1]


def test_what_the_autotuner_found_is_kept_with_the_programs():
    """JAX's default; a version without it would tune every convolution anew at each start on a GPU."""
    assert "xla_gpu_per_fusion_autotune_cache_dir" in jax.config.values["jax_persistent_cache_enable_xla_caches"]


class Device:
    """A device of another platform."""

    def __init__(self, platform):
        self.platform = platform


def test_deterministic_kernels_are_asked_for_on_gpus_alone(lowered):
    assert deterministic_options(Device("gpu")) == {"xla_gpu_deterministic_ops": True}
    assert deterministic_options(Device("cpu")) == deterministic_options(Device("tpu")) == {}
    compile_with(lowered, (), {"xla_gpu_deterministic_ops": True})  # XLA has the option, on CPU without effect


def test_the_programs_of_a_run_are_compiled_so(monkeypatch):
    """Training step, initial state, re-estimation and evaluation, as they would be on a GPU."""
    seen = []
    monkeypatch.setattr("resflax.build.parts.deterministic_options", lambda device: {"xla_gpu_deterministic_ops": True})
    monkeypatch.setattr("resflax.build.parts.fusion_options", lambda device, compute: {"computes": compute})
    monkeypatch.setattr("resflax.build.run.compile_with", lambda lowered, options, others: seen.append((options, others)))
    jit = jax.jit
    monkeypatch.setattr("resflax.build.run.jax.jit", lambda f, **k: seen.append(k.get("compiler_options")) or jit(f, **k))
    for deterministic in (True, False):
        seen.clear()
        precision = PrecisionConfig(deterministic=deterministic, compiler_options=("xla_gpu_autotune_level=0",))
        run = build(dataclasses.replace(BASE, precision=precision), jax.devices()[:1])
        run.compile_chunk(run.abstract_state())
        run.make_evaluate()
        wanted = {"computes": "float32", **({"xla_gpu_deterministic_ops": True} if deterministic else {})}
        assert seen[-2:] == [(("xla_gpu_autotune_level=0",), wanted), wanted]


def test_the_option_is_set_in_one_place():
    precision = PrecisionConfig(deterministic=True, compiler_options=("xla_gpu_deterministic_ops=false",))
    with pytest.raises(ConfigError, match="must not set xla_gpu_deterministic_ops beside"):
        validate(dataclasses.replace(BASE, precision=precision))
    added = dataclasses.replace(BASE, precision=PrecisionConfig(deterministic=True))
    assert config_hash(added) != config_hash(BASE)


NETWORKS = [
    ("cifar_resnet8", {"width": 8}, None, 24),
    ("cifar_seresnet8", {"width": 8}, 8, 16),
    pytest.param("cifar_resnext11_2x4d", {}, None, 9, marks=pytest.mark.long),
]


@pytest.mark.parametrize(("name", "kwargs", "group_size", "batch_size"), NETWORKS)
def test_what_is_handed_to_ynnpack_is_computed_right(name, kwargs, group_size, batch_size):
    """Gradients (as SGD's first momentum), statistics and the loss of a step, against float64, which YNNPACK has not."""
    config = dataclasses.replace(
        BASE,
        data=DataConfig(batch_size=batch_size),
        model=ModelConfig(name, kwargs),
        batch_norm=BatchNormConfig(group_size=group_size),
        optim=OptimConfig(learning_rate=0.1, momentum=0.9),
    )
    device = jax.devices()[0]
    assert fusion_options(device, "float32")
    assert not fusion_options(device, "bfloat16")
    found = []
    for compute in ("float32", "float64"):
        with jax.enable_x64(compute == "float64"):
            run = build(validate(dataclasses.replace(config, precision=PrecisionConfig(compute))), [device])
            state, metrics = run.compile_chunk(run.initial_state())(run.initial_state(), 0, 1)
            found.append(jax.tree.map(np.asarray, (state.opt_state, state.batch_stats, metrics)))
    for ours, exact in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-3, atol=1e-5 + 1e-4 * np.abs(exact).max())
