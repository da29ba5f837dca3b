"""Exact resume of what is kept beside parameters and velocity: slow weights, the mean of networks, a teacher; bit for bit."""

import dataclasses

import jax
import numpy as np
import pytest

from resflax import train
from resflax.build import Run, build, make_model
from resflax.build import record as recording
from resflax.config import DistillConfig, EmaConfig, SwaConfig, validate
from resflax.data.preprocess import Preprocessing
from resflax.errors import Interrupted
from resflax.weights.safetensors import write_weights
from tests import micro
from tests.training.test_resume import PARTS, StopAt, outcome

SWA = {"ema": EmaConfig(), "swa": SwaConfig(start=0.5, every_steps=2, learning_rate=0.05, final_learning_rate=0.01)}


@pytest.fixture
def base(tmp_path):
    config = micro.config(micro.write_npz(tmp_path), total_steps=12, log_every_steps=3, eval_every_steps=4)
    return dataclasses.replace(
        config,
        optim=dataclasses.replace(config.optim, warmup_steps=2),
        checkpoint=dataclasses.replace(config.checkpoint, every_steps=4),
    )


@pytest.fixture
def teacher(base, tmp_path):
    """A weight file with a network of the student's kind."""
    model = make_model(base, 5)
    variables = jax.jit(lambda key, images: model.init(key, images, train=False))(jax.random.key(3), np.zeros((1, 8, 8, 3)))
    metadata = {
        "model": base.model.name,
        "num_classes": 5,
        "kwargs": base.model.kwargs,
        "class_names": [f"column{index}" for index in range(5)],
        "preprocessing": Preprocessing((8, 8), np.full(3, 0.4), np.full(3, 0.3)).to_dict(),
        "source": "drawn",
    }
    write_weights(tmp_path / "teacher.safetensors", variables, metadata)
    return {"distill": DistillConfig(str(tmp_path / "teacher.safetensors"), 3.0, 0.8)}


def with_optim(config, **changes):
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, **changes))


@pytest.mark.faults
@pytest.mark.parametrize("parts", ["all", "lookahead", "swa", "sharpness", "distill"])
def test_stopping_at_a_step_changes_nothing(parts, base, teacher, tmp_path, monkeypatch):
    config = {
        "all": lambda: dataclasses.replace(with_optim(base, sharpness=0.05, lookahead_steps=5), **SWA, **teacher),
        "lookahead": lambda: dataclasses.replace(with_optim(base, lookahead_steps=5), ema=EmaConfig()),
        "swa": lambda: dataclasses.replace(base, **SWA),
        "sharpness": lambda: with_optim(base, sharpness=0.05),
        "distill": lambda: dataclasses.replace(base, **teacher),
    }[parts]()
    run = build(validate(config), jax.devices()[:1])
    chunk, evaluate = run.compile_chunk(run.abstract_state()), run.make_evaluate()
    monkeypatch.setattr("resflax.build.build", lambda config, **resumed: build(config, jax.devices()[:1], **resumed))
    monkeypatch.setattr(Run, "make_evaluate", lambda self: evaluate)
    monkeypatch.setattr(recording, "draw", lambda *_: None)

    def go(workdir, stop_at=None):
        wrapped = chunk if stop_at is None else StopAt(chunk, stop_at)
        monkeypatch.setattr(Run, "lower_chunk", lambda self, state: lambda: wrapped)
        return train.train_and_evaluate(config, str(workdir))

    unbroken = outcome(run, tmp_path / "unbroken", go(tmp_path / "unbroken"))
    weights = {"all": "swa", "swa": "swa", "lookahead": "slow"}.get(parts, "ema")
    assert unbroken["record"]["evaluation"]["weights"] == weights
    for stop in (1, 5, 6, 7, 11):  # before and after the slow weights move, and the mean begins
        workdir = tmp_path / f"stop{stop}"
        with pytest.raises(Interrupted):
            go(workdir, stop)
        found = outcome(run, workdir, go(workdir))
        for part in (*PARTS, "rows", "record"):
            assert found[part] == unbroken[part], f"{part} after a stop at step {stop}"


@pytest.mark.faults
def test_any_number_of_devices_gives_the_same(base, teacher):
    """In double precision, on one device and on eight, the batch split between them."""
    from resflax.config import BatchNormConfig, PrecisionConfig

    config = dataclasses.replace(
        with_optim(base, sharpness=0.05, lookahead_steps=3, accumulate=1),
        **SWA,
        **teacher,
        precision=PrecisionConfig("float64"),
        batch_norm=BatchNormConfig(group_size=8, reestimate=True),
    )
    with jax.enable_x64(True):
        found = []
        for devices in (1, 8):
            run = build(config, jax.devices()[:devices])
            state = run.initial_state()
            state, reports = run.compile_chunk(state)(state, 0, 10)
            found.append((np.asarray(reports.loss), jax.device_get(state.variables()["params"])))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=0, atol=1e-9)
    for one, eight in zip(*(jax.tree.leaves(params) for _, params in found), strict=True):
        np.testing.assert_allclose(eight, one, rtol=0, atol=1e-8)
