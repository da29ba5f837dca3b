"""The start of a run: the state is made by a program compiled in a hurry, traced once, beside the training step."""

import dataclasses
import subprocess
import sys
from concurrent import futures

import jax
import numpy as np
import pytest

from resflax.build import build
from resflax.config import ModelConfig
from resflax.tree import digest
from tests import micro


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return micro.config(micro.write_npz(tmp_path_factory.mktemp("micro")))


@pytest.mark.parametrize(
    "model",
    [
        ModelConfig("cifar_resnet8", {"width": 4}),
        ModelConfig("tutorial_cnn"),
        pytest.param(ModelConfig("cifar_resnet20"), marks=pytest.mark.long),
        pytest.param(ModelConfig("resnet18"), marks=pytest.mark.long),
    ],
    ids=lambda model: model.name,
)
def test_the_state_is_the_one_that_an_optimized_program_makes(model, config):
    config = dataclasses.replace(config, model=model, batch_norm=dataclasses.replace(config.batch_norm, reestimate=False))
    size = 32 if model.name == "resnet18" else 16
    run = build(dataclasses.replace(config, data=dataclasses.replace(config.data, image_size=size)), jax.devices()[:1])
    optimized = jax.jit(run._init.__wrapped__)
    assert digest(run.initial_state()) == digest(optimized(np.uint32(config.seed), run._init_images))


def test_the_state_is_traced_once_for_shapes_and_values(config):
    traced = []

    def note(event, seconds, fun_name="", **_):
        if event == "/jax/core/compile/jaxpr_trace_duration" and fun_name == "initial_state":
            traced.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        run = build(config, jax.devices()[:1])
        shapes = [run.abstract_state(), run.initial_state(), run.abstract_state()]
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert len(traced) == 1
    assert len({str(jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), tree)) for tree in shapes}) == 1


def test_the_step_compiled_in_a_thread_from_shapes_is_the_one_compiled_from_the_state(config):
    run = build(config, jax.devices()[:1])
    with futures.ThreadPoolExecutor(1) as compiler:
        beside = compiler.submit(run.lower_chunk(run.abstract_state()))
        state = run.initial_state()
        found, reports = beside.result()(state, 0, 3)
    expected, expected_reports = run.compile_chunk(run.initial_state())(run.initial_state(), 0, 3)
    assert digest(found) == digest(expected)
    assert reports.loss.tolist() == expected_reports.loss.tolist()


def test_writing_events_imports_no_client_of_a_cloud(one_device_environment, tmp_path):
    for name in ("torch", "boto3"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported')")  # tensorboardX catches ImportError alone
    (tmp_path / "google" / "cloud").mkdir(parents=True)
    (tmp_path / "google" / "cloud" / "storage.py").write_text("raise RuntimeError('imported')")
    program = (
        "from resflax.training.logs import _import_tensorboardx; _import_tensorboardx()\n"
        "import sys; assert 'tensorboardX' in sys.modules; assert not {'torch', 'boto3'} & sys.modules.keys()"
    )
    environment = {**one_device_environment, "PYTHONPATH": f"{tmp_path}:{one_device_environment['PYTHONPATH']}"}
    child = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
