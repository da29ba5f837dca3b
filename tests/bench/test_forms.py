"""Our step in other forms: every one is there for the XLA in use, and does what its name says."""

import jax
import jax.numpy as jnp
import pytest

from resflax.bench import forms
from resflax.bench.forms import FORMS, check_form, describe, in_form, is_form
from resflax.bench.outcome import outcome
from resflax.bench.peers import PEERS
from resflax.bench.timing import measure
from resflax.bench.workload import Contender, Program, Workload
from resflax.benchmark import benchmark
from resflax.build.measure import build_run, check_options
from resflax.build.run import Run
from resflax.compiler import compile_with
from resflax.errors import ConfigError
from resflax.training.chunk import FusedChunk, StepwiseChunk
from tests.conftest import ROOT

TINY = Workload("cifar_resnet8", 4)
WITH_OPTIONS = [name for name, form in FORMS.items() if "compiler_options" in form.changes]


@pytest.fixture(scope="module")
def lowered():
    return jax.jit(lambda x: x + 1).lower(jnp.zeros(3))


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_options_and_their_values_are_known_to_this_xla(name, lowered):
    assert float(compile_with(lowered, FORMS[name].changes["compiler_options"])(jnp.zeros(3))[0]) == 1
    (option,) = FORMS[name].changes["compiler_options"]
    with pytest.raises(ConfigError, match="must be known to XLA"):
        compile_with(lowered, [f"{option}+NONSENSE"])


def test_a_list_takes_the_place_of_the_default(lowered, tmp_path):
    """XLA writes the options that are not its default's: the whole list, without what was not named."""
    compile_with(lowered, [f"xla_dump_to={tmp_path}", "xla_gpu_enable_command_buffer=FUSION+WHILE"])
    (written,) = tmp_path.glob("*debug_options*")
    found = [line.split(": ")[1] for line in written.read_text().splitlines() if "xla_gpu_enable_command_buffer:" in line]
    assert found == ["FUSION", "WHILE"]


def test_forms_add_up():
    both = in_form(TINY, "conv_fusion+closed_form+double_buffering+stepwise")
    assert both.gradient == "closed_form"
    assert both.fused is False
    assert both.compiler_options == (
        "xla_gpu_experimental_enable_conv_fusion=true", "xla_gpu_enable_while_loop_double_buffering=true",
    )  # fmt: skip
    free = in_form(both, "option:xla_gpu_enable_command_buffer=FUSION+CUDNN")
    assert free.compiler_options == (*both.compiler_options, "xla_gpu_enable_command_buffer=FUSION+CUDNN")
    assert in_form(TINY, "space_to_depth").kwargs == {"stem_form": "space_to_depth"}
    assert in_form(TINY, "scan").repeat == "scan"
    text = describe("closed_form+space_to_depth")
    assert "gradient=closed_form" in text
    assert "space_to_depth" in text
    assert FORMS["closed_form"].predicted in text


def test_peers_are_not_forms():
    for name in PEERS["train"]:
        assert is_form(name) == (name in FORMS or name in ("FORM+FORM", "option:NAME=VALUE"))


@pytest.mark.parametrize(
    ("text", "model", "says"),
    [
        ("closed_form+conv_fusio", "resnet50", "got 'conv_fusio'; did you mean conv_fusion?"),
        ("option:xla_gpu_autotune_level", "resnet50", "must read option:NAME=VALUE, got 'option:xla_gpu_autotune_level'"),
        ("space_to_depth", "cifar_resnet20", "needs a model with stem_form, which cifar_resnet20 has not; leave it out"),
        ("closed_form+scan", "tutorial_cnn", "blocks of tutorial_cnn are not equal and cannot run as scan"),
    ],
)
def test_what_a_model_cannot_have_is_refused(text, model, says):
    with pytest.raises(ConfigError) as caught:
        check_form(text, model)
    assert says in str(caught.value)


def test_a_run_is_built_in_its_form(tmp_path):
    run = build_run(in_form(Workload("resnet18", 2), "space_to_depth+closed_form+conv_fusion"), tmp_path, 2)
    assert run.config.model.kwargs == {"stem_form": "space_to_depth"}
    assert run.config.batch_norm.gradient == "closed_form"
    assert run.config.precision.compiler_options == ("xla_gpu_experimental_enable_conv_fusion=true",)
    assert run.model.norm.keywords["gradient"] == "closed_form"


def test_options_of_another_platform_are_not_timed():
    check_options(("xla_gpu_autotune_level=0", "xla_embed_ir_in_executable=true"), "gpu")
    with pytest.raises(ConfigError, match="must have an effect on the cpu, got xla_gpu_autotune_level=0; leave it out"):
        check_options(("xla_gpu_autotune_level=0",), "cpu")


@pytest.fixture
def compiled(monkeypatch):
    """What was compiled: the kind of chunk and the configuration of its run."""
    found = []
    real = Run.compile_chunk

    def compile_chunk(run, *arguments):
        chunk = real(run, *arguments)
        found.append((type(chunk), run.config))
        return chunk

    monkeypatch.setattr(Run, "compile_chunk", compile_chunk)
    return found


def test_a_form_that_cannot_run_is_reported_and_the_others_are_timed(compiled):
    against = ["closed_form", "conv_fusion", "option:no_such_thing=1"]
    (measurement,) = benchmark("train", TINY, against, steps=1, repeats=1)["measurements"]
    rows = measurement["contenders"]
    assert list(rows) == ["resflax", *against]
    assert [config.batch_norm.gradient for _, config in compiled] == ["autodiff", "closed_form"]
    assert rows["closed_form"]["last_value"] == pytest.approx(rows["resflax"]["last_value"], rel=1e-4)
    assert rows["closed_form"]["ratio"] > 0
    assert rows["conv_fusion"].keys() == {"not_available", "differs"}
    assert "must have an effect on the cpu" in rows["conv_fusion"]["not_available"]
    assert "No such compile option: 'no_such_thing'" in rows["option:no_such_thing=1"]["not_available"]


@pytest.mark.long
def test_fused_and_stepwise_are_dispatched_so(compiled):
    (measurement,) = benchmark("train", TINY, ["fused", "stepwise"], steps=2, repeats=1)["measurements"]
    assert [kind for kind, _ in compiled] == [StepwiseChunk, FusedChunk, StepwiseChunk]
    ours, *others = (row["last_value"] for row in measurement["contenders"].values())
    assert others == pytest.approx([ours, ours], rel=1e-3)


def broken():
    raise RuntimeError("INTERNAL: the compiler\n gave up")


def test_only_an_optional_contender_may_fail():
    works = Contender("resflax", lambda: Program(float))
    contenders = [works, Contender("form", broken, "in form", optional=True)]
    timings = measure(contenders, 1, 1)
    assert list(timings) == ["resflax"]
    rows = outcome(contenders, timings, 1)
    assert rows["form"] == {"not_available": "RuntimeError: INTERNAL: the compiler gave up", "differs": "in form"}
    with pytest.raises(RuntimeError, match="gave up"):
        measure([works, Contender("peer", broken)], 1, 1)


def test_every_form_is_in_the_document():
    text = (ROOT / "docs/performance.md").read_text()
    assert [name for name in forms.FORMS if f"`{name}`" not in text] == []
