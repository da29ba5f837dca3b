"""One number of a step becomes NaN or infinite, everywhere it can: found in that step, never saved, and left out exactly."""

import dataclasses
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflax import train
from resflax.build import Run, build
from resflax.build.verify import verify
from resflax.config import BatchNormConfig, CheckpointConfig, EmaConfig, NonFiniteConfig, OptimConfig
from resflax.errors import DataError, Interrupted
from resflax.files import Workdir, read_lines
from resflax.training.checkpoints import Checkpoints, committed_steps, latest_checkpoint, open_checkpoint
from resflax.training.evaluation import Evaluation
from resflax.training.non_finite import failures
from resflax.training.state import snapshot
from resflax.tree import digest, named_leaves
from tests import micro
from tests.faults.non_finite import BATCH, LASTING, PASSING, SITES, with_sites
from tests.jobs import finish, start

STEPS, SAVE_EVERY = 12, 4
FOUND = {  # what the message names
    "image": "loss, gradient, batch statistics, parameters, optimizer state, averages",
    "loss": "loss",
    "gradient": "gradient, parameters, optimizer state, averages",
    "batch_stats": "batch statistics, averages",
    "update": "parameters, averages",
    "opt_state": "optimizer state",
    "learning_rate": "parameters, averages",
    "state.params": "loss, gradient, batch statistics, parameters, optimizer state, averages",
    "state.batch_stats": "batch statistics, averages",
    "state.opt_state": "parameters, optimizer state, averages",
    "state.ema": "averages",
}
VALUES = {"nan": np.nan, "inf": np.inf}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    base = micro.config(micro.write_npz(tmp_path_factory.mktemp("micro")))
    return dataclasses.replace(
        base,
        total_steps=STEPS,
        log_every_steps=1,
        eval_every_steps=0,
        data=dataclasses.replace(base.data, batch_size=BATCH),
        batch_norm=BatchNormConfig(),
        optim=OptimConfig(schedule="linear", weight_decay=1e-3),
        ema=EmaConfig(0.9),
        checkpoint=CheckpointConfig(every_steps=SAVE_EVERY, keep_last=STEPS),
    )


class Faulty:
    """One compiled program for all faults; each run still builds, restores, evaluates and saves for itself."""

    def __init__(self, config, fused):
        self.run, self.faults = with_sites(build(config, jax.devices()[:1]))
        self.chunk = self.run.compile_chunk(self.run.abstract_state(), fused)
        self.evaluate = self.run.make_evaluate()
        self.references = {}

    def reference(self, left_out):
        """The digest of the state after all batches but one, which was never there."""
        if left_out not in self.references:
            self.faults.clear()
            state = self.run.initial_state()
            for step in range(STEPS):
                if step + 1 != left_out:
                    state, reports = self.chunk(state, step, step + 1)
                    assert reports.finite.all()
            self.references[left_out] = digest(state)
        return self.references[left_out]


@pytest.fixture(scope="module")
def stepwise(config):
    return Faulty(config, False)


@pytest.fixture(scope="module")
def fused(config):
    return Faulty(config, True)


@pytest.fixture
def trainer(config, tmp_path, monkeypatch):
    """`trainer(faulty, policy, {step counted from 1: (site, value)}, stop_at=None)` -> record."""

    def go(faulty, policy, faults, stop_at=None, **changes):
        faulty.faults.clear()
        faulty.faults.update({step - 1: fault for step, fault in faults.items()})

        def run_chunk(state, start, stop):
            result = faulty.chunk(state, start, stop)
            if stop == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return result

        run_chunk.max_steps, run_chunk.host_seconds = 1 if stop_at else faulty.chunk.max_steps, 0.0
        chosen = dataclasses.replace(config, non_finite=NonFiniteConfig(policy), **changes)
        monkeypatch.setattr("resflax.build.build", lambda config, **_: dataclasses.replace(faulty.run, config=chosen))
        monkeypatch.setattr(Run, "lower_chunk", lambda self, state: lambda: run_chunk)
        monkeypatch.setattr(Run, "make_evaluate", lambda self: faulty.evaluate)
        monkeypatch.setattr("resflax.build.record.draw", lambda *_: None)
        return train.train_and_evaluate(chosen, str(tmp_path / "run"))

    return go


def states(faulty, workdir):
    """The state of every committed checkpoint; all of them finite."""
    root = Workdir(workdir).checkpoints
    found = {step: open_checkpoint(root / str(step)).restore(faulty.run.abstract_state()) for step in committed_steps(root)}
    for step, state in found.items():
        for name, leaf in named_leaves(state).items():
            assert np.isfinite(leaf).all(), f"{name} of checkpoint {step}"
    return found


def check_abort(faulty, trainer, tmp_path, site, value):
    with pytest.raises(DataError) as caught:
        trainer(faulty, "abort", {7: (site, value)})
    assert caught.value.exit_code == 65
    assert str(caught.value).startswith(f"step 7 is not finite ({FOUND[site]}); lower config.optim.learning_rate")
    assert list(states(faulty, tmp_path / "run")) == [4]
    assert not (tmp_path / "run" / "result.json").exists()


def check_left_out(faulty, record, workdir, step):
    """The run ended as one that never had the batch of `step`."""
    rows = read_lines(Workdir(workdir).metrics)
    assert record["skipped_steps"] == [step]
    assert [row["step"] for row in rows if "train_loss" in row] == [one for one in range(1, STEPS + 1) if one != step]
    assert [row.get("skipped_steps", 0) for row in rows] == [int(row["step"] >= step) for row in rows]
    rate = 0.1 * (1 - (STEPS - 2) / STEPS)  # of the last of STEPS - 1 updates
    assert rows[-1]["learning_rate"] == pytest.approx(rate)
    found = states(faulty, workdir)
    assert list(found) == [4, 8, 12]
    assert int(found[STEPS].step) == STEPS - 1
    assert digest(found[STEPS]) == faulty.reference(step)


def check_skip(faulty, trainer, tmp_path, capsys, site, value):
    if site in PASSING:
        record = trainer(faulty, "skip", {7: (site, value)})
        check_left_out(faulty, record, tmp_path / "run", 7)
        assert f"step 7 is not finite ({FOUND[site]}) and left out\n" in capsys.readouterr().err
        return
    # The state itself is bad: whatever is left out, nothing helps.
    with pytest.raises(DataError, match=r"at most 3 steps in a row .* but step 8 is not finite either") as caught:
        trainer(faulty, "skip", {5: (site, value)})
    assert caught.value.exit_code == 65
    assert list(states(faulty, tmp_path / "run")) == [4]


def check_roll_back(faulty, trainer, tmp_path, capsys, site, value):
    record = trainer(faulty, "roll_back", {7: (site, value)})
    check_left_out(faulty, record, tmp_path / "run", 7)
    said = f"step 7 is not finite ({FOUND[site]}): back to step 4, and step 7 will be left out\n"
    assert capsys.readouterr().err.count(said) == 1


def check(faulty, trainer, tmp_path, capsys, site, policy, value):
    if policy == "abort":
        check_abort(faulty, trainer, tmp_path, site, value)
    elif policy == "skip":
        check_skip(faulty, trainer, tmp_path, capsys, site, value)
    else:
        check_roll_back(faulty, trainer, tmp_path, capsys, site, value)


def test_a_fault_is_found_in_its_step_and_changes_nothing(stepwise):
    faulty, before = stepwise, stepwise.run.initial_state()
    faulty.faults.clear()
    before, _ = faulty.chunk(before, 0, 6)
    faulty.chunk(snapshot(before), 0, 1)  # a jump: the batch that was made ahead, without a fault, is forgotten
    for site in SITES:
        for value in VALUES.values():
            faulty.faults[6] = (site, value)
            after, reports = faulty.chunk(snapshot(before), 6, 7)
            assert failures(6, reports) == {7: FOUND[site]}
            assert int(after.step) == 6
            same = {name: digest(leaf) == digest(named_leaves(before)[name]) for name, leaf in named_leaves(after).items()}
            assert sum(not one for one in same.values()) == (site in LASTING), site  # the one that was bad beforehand


# One of each kind; all of them below.
@pytest.mark.parametrize(
    ("site", "policy"),
    [("opt_state", "abort"), ("image", "skip"), ("state.ema", "skip"), ("update", "roll_back"), ("state.params", "roll_back")],
)
def test_a_policy_leaves_out_the_batch_or_ends_the_run(stepwise, trainer, tmp_path, capsys, site, policy):
    check(stepwise, trainer, tmp_path, capsys, site, policy, np.nan)


@pytest.mark.faults
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("policy", ["abort", "skip", "roll_back"])
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("form", ["stepwise", "fused"])
def test_every_policy_at_every_site_in_either_form_of_a_chunk(request, trainer, tmp_path, capsys, form, site, policy, value):
    check(request.getfixturevalue(form), trainer, tmp_path, capsys, site, policy, VALUES[value])


@pytest.mark.parametrize(
    ("policy", "stop_at"),
    [
        ("skip", 9),
        pytest.param("skip", 6, marks=pytest.mark.faults),
        pytest.param("skip", 7, marks=pytest.mark.faults),
        pytest.param("roll_back", 9, marks=pytest.mark.faults),
    ],
)
def test_a_run_that_is_stopped_ends_as_the_unbroken_one(stepwise, trainer, tmp_path, policy, stop_at):
    with pytest.raises(Interrupted):
        trainer(stepwise, policy, {7: ("loss", np.nan)}, stop_at)
    record = trainer(stepwise, policy, {7: ("loss", np.nan)})
    assert record["skipped_steps"] == [7]
    assert digest(states(stepwise, tmp_path / "run")[STEPS]) == stepwise.reference(7)


def test_a_checkpoint_knows_the_steps_ahead_that_are_left_out(stepwise, trainer, tmp_path):
    """Stopped between the checkpoint it went back to and the step, the run leaves it out also where it no longer fails."""
    stops = iter([False, True])  # step 6 is reached a second time after the roll-back

    class Stop(int):
        def __eq__(self, other):
            return int(self) == other and next(stops)

        __hash__ = int.__hash__

    with pytest.raises(Interrupted, match="saved as checkpoint 6"):
        trainer(stepwise, "roll_back", {7: ("state.params", np.nan)}, Stop(6))
    saved = latest_checkpoint(Workdir(tmp_path / "run").checkpoints)
    assert (saved.step, saved.progress["skipped_steps"]) == (6, [7])
    record = trainer(stepwise, "roll_back", {})
    assert record["skipped_steps"] == [7]
    assert digest(states(stepwise, tmp_path / "run")[STEPS]) == stepwise.reference(7)


def test_a_record_with_a_step_left_out_is_confirmed(stepwise, trainer, config, monkeypatch):
    record = trainer(stepwise, "roll_back", {3: ("loss", np.nan)})
    stepwise.faults.clear()
    monkeypatch.setattr("resflax.build.verify.build", lambda *_: stepwise.run)
    monkeypatch.setattr(Run, "compile_chunk", lambda self, state, fused: stepwise.chunk)
    found = verify(record, config)
    assert (found["confirmed"], found["exact"], found["steps"]) == (True, True, STEPS - 1)
    assert not verify({**record, "skipped_steps": []}, config)["exact"]


@pytest.mark.faults
def test_steps_that_are_not_in_a_row_may_be_many(stepwise, trainer):
    faults = {step: ("loss", np.nan) for step in (1, 2, 3, 5, 6, 7, 9, 11, 12)}
    assert trainer(stepwise, "skip", faults)["skipped_steps"] == [*faults]


@pytest.mark.faults
def test_too_many_in_a_row_end_the_run(stepwise, trainer, tmp_path):
    with pytest.raises(DataError, match=r"at most 3 steps in a row .* but step 9 is not finite either .loss"):
        trainer(stepwise, "skip", {step: ("loss", np.nan) for step in (2, 6, 7, 8, 9)})
    assert list(states(stepwise, tmp_path / "run")) == [4, 8]


@pytest.mark.faults
def test_a_run_goes_back_to_one_checkpoint_so_many_times(stepwise, trainer, tmp_path, capsys):
    with pytest.raises(DataError, match=r"may go back to step 4 at most 3 times .* but step 8 is not finite either"):
        trainer(stepwise, "roll_back", {step: ("update", np.inf) for step in (2, 3, 5, 6, 7, 8)})
    assert capsys.readouterr().err.count("back to step 0") == 2
    assert list(states(stepwise, tmp_path / "run")) == [4]


def test_a_state_that_is_not_finite_is_never_saved(tmp_path):
    with Checkpoints(Workdir(tmp_path).checkpoints, 2) as checkpoints:
        checkpoints.save(1, {"w": jnp.ones(3), "count": jnp.int32(1)}, {}, {})
        with pytest.raises(DataError, match="must be finite to be saved, but at step 2 w is not") as caught:
            checkpoints.save(2, {"w": jnp.array([1, jnp.inf, 2]), "count": jnp.int32(2)}, {}, {})
    assert caught.value.exit_code == 65
    assert committed_steps(Workdir(tmp_path).checkpoints) == [1]


def test_nor_are_statistics_that_became_so_at_the_end(stepwise, trainer, tmp_path, monkeypatch):
    """Even where the evaluation does not mind."""
    scores = Evaluation(1.0, 0.5, 0.5, images_scored=21, confusion=np.zeros((5, 5), int), expected_calibration_error=0.0)
    monkeypatch.setattr(stepwise, "evaluate", lambda variables, through: scores)
    monkeypatch.setattr(Run, "reestimate", lambda self, params, through: {"stem_norm": {"mean": jnp.full(4, jnp.nan)}})
    with pytest.raises(DataError, match="at step 12 ema/batch_stats/stem_norm/mean is not"):
        trainer(stepwise, "roll_back", {}, batch_norm=BatchNormConfig(reestimate=True))
    assert committed_steps(Workdir(tmp_path / "run").checkpoints) == [4, 8]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ("abort", "step 3 is not finite ("),
        ("skip", "at most 2 steps in a row (config.non_finite.max_consecutive) may be left out, but step 5 is not finite"),
        ("roll_back", "a run may go back to step 0 at most 2 times (config.non_finite.max_consecutive), but step 5 is not"),
    ],
)
def test_the_command_ends_with_65(command, policy, says):
    done = command(
        "train",
        "--config.model.name=cifar_resnet8",
        "--config.model.kwargs.width=4",
        "--config.optim.learning_rate=1e30",
        "--config.optim.warmup_epochs=0",
        "--config.non_finite.max_consecutive=2",
        f"--config.non_finite.policy={policy}",
        "--workdir=run",
    )
    assert done.returncode == 65, done.stderr
    assert says in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_predict_says_which_images_give_no_numbers(tmp_path, monkeypatch, capsys):
    from PIL import Image

    from resflax.build import restore
    from resflax.predict import main

    class Model:
        """Its logits are the first three pixels, the third of them minus infinity where it is 0."""

        def apply(self, variables, images, train):
            logits = images[:, 0, :3, 0]
            return jnp.where(logits == variables["bad"], -jnp.inf, logits)

    for name, third in (("good", 9), ("bad", 0)):
        pixels = np.zeros((1, 3, 3), np.uint8)
        pixels[0, :, 0] = [5, 7, third]
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    plain = {"mean": [0.0] * 3, "std": [1.0] * 3, "image_size": [1, 3]}
    probabilities = restore.make_probabilities(Model(), {"bad": jnp.float32(0)}, plain)
    network = restore.Network(lambda path: np.asarray(Image.open(path)), probabilities, ["a", "b", "c"], None)
    monkeypatch.setattr("resflax.build.open_run", lambda *_: network)
    assert main([f"--workdir={tmp_path}", "--json", str(tmp_path / "bad.png"), str(tmp_path / "good.png")]) == 3
    bad, good = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert bad.keys() == {"path", "error"}
    assert "must give finite numbers" in bad["error"]
    assert good["predictions"][0]["class"] == "c"
    assert sum(one["probability"] for one in good["predictions"]) == pytest.approx(1)


@pytest.mark.faults
@pytest.mark.parametrize("policy", ["skip", "roll_back"])
def test_processes_of_a_job_decide_alike(tmp_path, policy):
    """With a rate of 1e300 no update is finite."""
    outputs = finish(
        start(tmp_path / "run", 2, 2, 20, "--config.optim.learning_rate=1e300", f"--config.non_finite.policy={policy}"), 65
    )
    said = [errors.splitlines()[-1] for _, errors in outputs]
    assert "step 4 is not finite either (parameters)" in said[0]
    assert said[0] == said[1]
