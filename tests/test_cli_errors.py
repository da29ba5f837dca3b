"""What a user can do wrong on the command line ends in one sentence and the exit code of DESIGN, section 4."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT

TINY = (
    "--config.model.name=cifar_resnet8",
    "--config.model.kwargs.width=4",
    "--config.total_steps=4",
    "--config.eval_every_steps=0",
)


@pytest.fixture
def light_command(command, one_device_environment, tmp_path_factory):
    """Like `command`, in a process where importing anything slow is an error: a refusal must come at once."""
    stubs = tmp_path_factory.mktemp("stubs")
    for name in ("jax", "flax", "numpy", "tensorflow_datasets", "PIL"):
        (stubs / f"{name}.py").write_text(f"raise AssertionError('{name} was imported')\n")
    one_device_environment["PYTHONPATH"] = os.pathsep.join([str(stubs), str(ROOT)])  # `command` holds the same dictionary
    return command


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished workdir, and the line of JSON its training printed."""
    folder = tmp_path_factory.mktemp("trained")
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    child = subprocess.run(
        [sys.executable, "-m", "resflax.train", f"--workdir={folder}/run", *TINY],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert child.returncode == 0, child.stderr
    return folder / "run", child.stdout


def sentence(child, code):
    """The one line on stderr of a command that was refused."""
    assert child.returncode == code, child.stderr
    assert child.stderr.count("\n") == 1, child.stderr
    assert child.stderr.startswith("resflax: ")
    assert "Traceback" not in child.stderr
    return child.stderr.removeprefix("resflax: ").rstrip("\n")


def write_images(folder, count):
    folder.mkdir()
    for index in range(count):
        Image.fromarray(np.full((8, 8), 40 * index, np.uint8)).save(folder / f"{index}.png")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("train --config.optim.learning_rte=1", "not a configuration key; did you mean config.optim.learning_rate"),
        ("train --config.lr=1", "config.lr is not a configuration key; did you mean config.optim.learning_rate?"),
        ("train --config.seed", "--config.seed must be followed by a value; write --config.seed=VALUE"),
        ("train --config.seed one", "config.seed must be an integer at least 0 and at most 4294967295, got 'one'"),
        ("train --config.optim.nesterov=1", "config.optim.nesterov must be true or false, got '1'"),
        ("train --config.optim.learning_rate=nan", "config.optim.learning_rate must be a number greater than 0, got 'nan'"),
        ("train --config.model.name=resnt50", "there is no model 'resnt50'; did you mean"),
        ("train --config.model.kwargs.widht=4", "did you mean config.model.kwargs.width"),
        ("train --config.total_steps=none", "exactly one of config.total_steps and config.total_epochs must be set"),
        (
            "train --config.data.batch_size=128 --config.batch_norm.group_size=48",
            "must be a multiple of config.batch_norm.group_size, got 48",
        ),
        (
            "train --config.data.batch_size=128 --config.optim.accumulate=3",
            "config.data.batch_size must be a multiple of config.optim.accumulate",
        ),
        (
            "train --config.optim.warmup_fraction=0 --config.optim.warmup_steps=900",
            "config.optim.warmup_steps must be less than config.total_steps",
        ),
        ("train --config.optim.nesterov=true --config.optim.name=adam", "config.optim.nesterov needs config.optim.name=sgd"),
        ("train --config.checkpoint.keep_best=1", "config.checkpoint.keep_best needs"),
        (
            "train --config.data.augment=mixup",
            "holds what happens to one image, got 'mixup', which mixes two; write config.data.mix=mixup:ALPHA",
        ),
        ("train --config=quickstart:resent", "the variant must be one of resnet, cnn, got 'resent'; choose one"),
        ("train --config=quickstrt", "there is no quickstrt; did you mean quickstart?"),
        ("train --config=missing/file.py", "--config must name a configuration file, but there is no missing/file.py"),
        (
            "train --config=raises.py",
            "raises.py must run without an error, but ZeroDivisionError: division by zero; correct it",
        ),
        ("train --config=raises_lines.py", "raises_lines.py must run without an error, but ValueError: one two; correct it"),
        ("train --config=exits.py", "exits.py must run without an error, but SystemExit: 5; correct it"),
        ("train --config=syntax.py", "syntax.py must run without an error, but SyntaxError: "),
        ("train --config=empty.py", "empty.py must define get_config(variant) -> resflax.config.Config"),
        ("train --config=wrong.py", "get_config of wrong.py must return a resflax.config.Config, got dict; correct it"),
        ("train --config=variants.py:c", "variants.py must run without an error, but KeyError: 'c'; correct it"),
        ("train --config=wrong.py:c", "wrong.py must run without an error, but TypeError: "),
        ("train --config=notes.txt", "--config must name a Python file, got notes.txt"),
        ("train --no-such-flag", "unrecognized arguments: --no-such-flag; see python -m resflax.train --help"),
        ("train stray", "unrecognized arguments: stray"),
        ("evaluate", "one of the arguments --workdir --checkpoint is required"),
        ("evaluate --workdir=run --step=last", "argument --step: invalid int value: 'last'"),
        ("predict --workdir=run", "the following arguments are required: PATH"),
        ("predict --workdir=run --top=0 x.png", "--top must be at least 1, got 0"),
        ("summary resnt50", "there is no model 'resnt50'"),
        ("summary cifar_resnet20 --input=32", "--input must read HEIGHTxWIDTHxCHANNELS, as in 32x32x3, got '32'"),
    ],
)
def test_usage_and_configuration_errors_are_told_at_once(arguments, says, light_command, tmp_path):
    for name, text in {
        "raises.py": "1 / 0",
        "raises_lines.py": "raise ValueError('one\\ntwo')",
        "exits.py": "import sys\nsys.exit(5)",
        "syntax.py": "def get_config(:",
        "empty.py": "",
        "wrong.py": "def get_config(): return {}",
        "variants.py": "def get_config(variant='a'): return {'a': 1}[variant]",
        "notes.txt": "",
    }.items():
        (tmp_path / name).write_text(text)
    command, *rest = arguments.split()
    child = light_command(command, *rest)
    assert says in sentence(child, 2)
    assert child.stdout == ""
    assert not (tmp_path / "runs").exists()


def test_the_light_process_would_notice_a_slow_import(light_command):
    child = light_command("summary", "cifar_resnet20")
    assert child.returncode == 1
    assert "was imported" in child.stderr


@pytest.mark.parametrize("name", ["train", "evaluate", "predict", "summary"])
def test_help_is_quick_too(name, light_command):
    child = light_command(name, "--help")
    assert child.returncode == 0, child.stderr
    assert child.stdout.startswith(f"usage: python -m resflax.{name} ")
    assert child.stderr == ""


def test_a_closed_pipe_is_no_error():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        child = subprocess.run(
            [sys.executable, "-m", "resflax.summary"], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=closed,
            stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert (child.returncode, child.stderr) == (0, "")


def test_a_finished_workdir_prints_its_result_again(trained, command):
    workdir, printed = trained
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    child = command("train", f"--workdir={workdir}", *TINY)
    assert child.returncode == 0
    assert child.stdout == printed
    assert json.loads(printed)["steps"] == 4
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()} == before


def test_a_workdir_of_another_configuration_is_refused_by_key(trained, command):
    child = command("train", f"--workdir={trained[0]}", *TINY, "--config.seed=3", "--config.optim.learning_rate=0.2")
    message = sentence(child, 2)
    assert message == (
        f"{trained[0]} belongs to a run with another configuration (config.optim.learning_rate: 0.1 -> 0.2; "
        "config.seed: 0 -> 3); name another --workdir, or remove it"
    )


@pytest.mark.parametrize(("workdir", "reason"), [("file", "File exists"), ("file/below", "Not a directory")])
def test_a_workdir_that_cannot_be_written_is_refused(workdir, reason, command, tmp_path):
    (tmp_path / "file").write_text("in the way")
    message = sentence(command("train", f"--workdir={workdir}", *TINY), 74)
    assert message.startswith("cannot write ")
    assert f"{workdir}: {reason}; check the path" in message
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("workdir", ["empty", "file", "missing"])
@pytest.mark.parametrize("name", ["evaluate", "predict"])
def test_what_is_no_workdir_is_refused(name, workdir, command, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    write_images(tmp_path / "images", 1)
    message = sentence(command(name, f"--workdir={workdir}", *(["images"] if name == "predict" else [])), 74)
    assert f"{workdir} must be the workdir of a run with a checkpoint, but there is none in" in message


def test_a_step_that_was_not_saved_is_refused(trained, command):
    message = sentence(command("evaluate", f"--workdir={trained[0]}", "--step=3"), 74)
    assert message.startswith(f"{trained[0]} has no checkpoint of step 3; there are ")


def test_a_split_that_does_not_exist_is_refused(trained, command):
    message = sentence(command("evaluate", f"--workdir={trained[0]}", "--split=validation"), 2)
    assert message == "data set digits has no split 'validation'; it has train, test, and parts like train[:100]"


@pytest.mark.parametrize("argument", ["empty", "images/*.bmp"])
def test_a_folder_or_pattern_without_images_is_refused(argument, command, tmp_path):
    (tmp_path / "empty").mkdir()
    write_images(tmp_path / "images", 1)
    message = sentence(command("predict", "--workdir=missing", "images", argument), 3)
    assert message == f"{argument} must hold images (.jpg, .jpeg, .png, .webp), but none was found; check the path"


def test_broken_images_are_named_and_the_others_predicted(trained, command, tmp_path):
    write_images(tmp_path / "images", 3)
    (tmp_path / "images" / "1.png").write_bytes(b"<html>404</html>")
    (tmp_path / "images" / "1b.png").mkdir()
    child = command("predict", f"--workdir={trained[0]}", "images", "missing.png", "--top=2")
    assert child.returncode == 3
    first, second = child.stderr.splitlines()
    assert first.startswith("resflax: images/1.png must be a readable JPEG, PNG or WebP image, but: ")
    assert second == "resflax: missing.png must be a file that can be read, but: No such file or directory; check the path"
    assert [line.split()[0] for line in child.stdout.splitlines()] == ["images/0.png", "images/2.png"]

    child = command("predict", f"--workdir={trained[0]}", "images", "--top=2", "--json")
    assert (child.returncode, child.stderr) == (3, "")
    rows = [json.loads(line) for line in child.stdout.splitlines()]
    assert [row["path"] for row in rows] == ["images/0.png", "images/1.png", "images/2.png"]
    assert [sorted(row) for row in rows] == [["path", "predictions"], ["error", "path"], ["path", "predictions"]]
    assert all(len(row["predictions"]) == 2 for row in rows if "predictions" in row)


@pytest.mark.long
def test_a_relative_workdir_serves_all_commands(command, tmp_path):
    child = command("train", *TINY)
    assert child.returncode == 0, child.stderr[-300:]
    workdir = "runs/quickstart-resnet"  # what `train` chooses by itself
    write_images(tmp_path / "images", 1)
    for name, *rest in (("train", *TINY), ("evaluate",), ("predict", "images")):
        child = command(name, f"--workdir={workdir}", *rest)
        assert child.returncode == 0, child.stderr[-300:]


def test_a_refused_run_leaves_its_workdir_to_the_corrected_one(command):
    assert "got 'digts'" in sentence(command("train", "--workdir=run", *TINY, "--config.data.name=digts"), 2)
    child = command("train", "--workdir=run", *TINY)
    assert child.returncode == 0, child.stderr[-300:]
