"""Two real processes over loopback are one job: same batches, same losses, one set of files."""

import json

import numpy as np
import pytest

from tests.jobs import finish, losses, start


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone") / "run"
    finish(start(workdir, 1, 4, 20))
    return workdir


@pytest.mark.parametrize("input_", ["resident", pytest.param("host", marks=pytest.mark.long)])
def test_losses_equal_those_of_one_process(alone, tmp_path, input_):
    outputs = finish(start(tmp_path / "run", 2, 2, 20, f"--config.data.input={input_}"))
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(alone), rtol=0, atol=1e-9)
    ours, theirs = (json.loads((folder / "result.json").read_text()) for folder in (tmp_path / "run", alone))
    assert (ours["process_count"], ours["device_count"]) == (2, 4)
    assert ours["test_accuracy"] == theirs["test_accuracy"]
    assert ours["images_scored"] == 360
    assert "{" not in outputs[1][0]  # process 1 has nothing to say, but for what Gloo prints by itself
    assert outputs[1][1] == ""
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["20"]


def test_incomplete_arguments_are_refused(command):
    done = command("train", "--num_processes=2")
    assert done.returncode == 2
    assert "must be given together" in done.stderr
    assert done.stderr.count("\n") == 1
