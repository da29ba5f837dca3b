"""A run on `gs://`, against an emulator of Google Cloud Storage on this machine: trained, stopped, resumed, evaluated."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.long
SETTINGS = (
    "--config.model.name=cifar_resnet8",
    "--config.model.kwargs.width=8",
    "--config.total_steps=60",
    "--config.log_every_steps=5",
    "--config.eval_every_steps=20",
    "--config.checkpoint.every_steps=10",
)


@pytest.fixture
def store(one_device_environment):
    """The environment in which `gs://bucket` is an emulator in memory."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.gcs_emulator", str(port)]
    emulator = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{address}/storage/v1/b/bucket", timeout=5)
            break
        except OSError:
            time.sleep(0.2)
    yield {
        **one_device_environment,
        "STORAGE_EMULATOR_HOST": address,  # of gcsfs
        "TENSORSTORE_GCS_HTTP_URL": address,  # of Orbax' arrays
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # would ask the real store
    }
    emulator.kill()
    emulator.wait()


def start(environment, name, *arguments):
    command = [sys.executable, "-m", f"resflax.{name}", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def finish(process, code=0):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors
    return output, errors


def last_object(output):
    return json.loads([line for line in output.splitlines() if line.startswith("{")][-1])


def test_a_run_on_an_object_store_is_stopped_resumed_and_evaluated(store, tmp_path):
    local = last_object(finish(start(store, "train", *SETTINGS, f"--workdir={tmp_path}/run"))[0])
    training = start(store, "train", *SETTINGS, "--workdir=gs://bucket/run")
    seen = []
    for line in training.stderr:
        seen.append(line)
        if line.startswith("step 25/"):
            training.send_signal(signal.SIGTERM)
            break
    _, errors = finish(training, 143)
    assert "stopped by signal 15 at step" in errors, "".join(seen) + errors
    output, errors = finish(start(store, "train", *SETTINGS, "--workdir=gs://bucket/run"))
    assert "going on from step" in errors
    remote = last_object(output)
    assert {**remote, "train_seconds": 0} == {**local, "train_seconds": 0}
    scores = last_object(finish(start(store, "evaluate", "--workdir=gs://bucket/run"))[0])
    assert (scores["step"], scores["images_scored"], scores["accuracy"]) == (60, 360, local["test_accuracy"])
    rows = finish(start(store, "predict", "--workdir=gs://bucket/run", "--json", str(ROOT / "docs/images/digits")))[0]
    assert len(rows.splitlines()) == len(os.listdir(ROOT / "docs/images/digits"))


def test_a_bucket_that_is_not_there_is_one_sentence(store):
    _, errors = finish(start(store, "train", *SETTINGS, "--workdir=gs://elsewhere/run"), 74)
    assert "cannot write gs://elsewhere/run" in errors
    assert "Traceback" not in errors
