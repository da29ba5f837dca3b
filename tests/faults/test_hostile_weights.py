"""Weights that somebody else made: nothing in them runs, and none takes more memory or time than a file of its size.

Every file of `hostile_weights` goes through every command that reads weights, in one process that an audit hook watches.
"""

import json
import os
import pickle
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.faults.hostile_weights import Trap, make_all, weight_file

MEMORY = 64 * 2**20
SECONDS = 20  # most take milliseconds; what is made to take for ever takes longer than any machine is busy
REFUSALS = (2, 65, 74)

# What the command that such a file is meant for says of it.
REASONS = {
    "protocol 2.pkl": ("timm", "it calls posix.system"),
    "protocol 5.pkl": ("timm", "it calls posix.system"),
    "pickle.safetensors": ("predict", "must be a safetensors file"),
    "zip.pt": ("timm", "it calls posix.system"),
    "legacy.pt": ("timm", "it calls os.system"),
    "joblib.pkl": ("timm", "it calls posix.system"),
    "object.npz": ("train", "it has Python objects, which are never unpickled"),
    "structured.npz": ("bit", "it has Python objects, which are never unpickled"),
    "bomb.npz": ("train", "bytes would unpack to 3221225472"),
    "claims.npz": ("train", "has another size than its header says"),
    "claims both.npz": ("bit", "bytes would unpack to 2147483648"),
    "bzip2.npz": ("train", "is nothing that NumPy writes"),
    "bomb.h5": ("keras", "has more numbers than the file"),
    "not written.h5": ("keras", "has more numbers than the file"),
    "zeros.h5": ("keras", "has more numbers than the file"),
    "many names.h5": ("keras", "has more numbers than the file"),
    "external.h5": ("keras", "is kept in another file"),
    "virtual.h5": ("keras", "is kept in another file"),
    "link.h5": ("keras", "must be a .h5"),
    "bomb.keras": ("keras", "is compressed, which Keras never does"),
    "header of 2 to the 63.safetensors": ("predict", "header too large"),
    "unknown type.safetensors": ("timm", "must hold numbers that a network computes with, got F8_E4M3"),
    "compressed.pt": ("timm", "it is compressed, which torch.save never does"),
    "keys of tuples.pt": ("timm", "a key that is neither text nor a number"),
    "a name of tuples.pt": ("timm", "a global without a name"),
    "overlapping members.pt": ("timm", "it is damaged"),
    "large images.safetensors": ("predict", "image_size must be two integers from 1 to 4096"),
    "large width.safetensors": ("predict", "must be those of cifar_resnet8"),
    "a million layers.safetensors": ("predict", "there is no model 'cifar_resnet6000002'"),
    "too few names.safetensors": ("predict", "must give a name for each of 10 classes, got 1 class_names"),
    "a wide crop.safetensors": ("predict", "crop_ratio must be above 0 and at most 1"),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """`{(reader, file name): outcome}`, the outcome of a good file, and the canary."""
    folder = tmp_path_factory.mktemp("weights")
    canary = folder / "canary"
    Image.new("RGB", (8, 8)).save(folder / "image.png")
    files = make_all(folder, canary) | {"good.safetensors": weight_file()}
    (folder / "folder").mkdir()
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    places = {**{name: folder / name for name in (*files, "folder", "loop", "pipe")}, "zero": "/dev/zero"}
    commands = {
        ("predict", "good.safetensors"): ["predict", f"--checkpoint={folder / 'good.safetensors'}", f"{folder}/image.png"]
    }
    for name, place in places.items():
        commands.setdefault(("predict", name), ["predict", f"--checkpoint={place}", f"{folder}/image.png"])
        for source in ("timm", "keras", "bit"):
            output = folder / "out.safetensors"
            commands[source, name] = ["convert", f"--from={source}", "--model=resnet18", str(place), f"--output={output}"]
        if name.endswith(".npz"):
            commands["train", name] = ["train", f"--config.data.name={place}", f"--workdir={folder}/run"]
    child = subprocess.run(
        [sys.executable, "-m", "tests.faults.many_commands"],
        input=json.dumps(list(commands.values())),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "XLA_FLAGS"},
        timeout=400,
    )
    assert child.returncode == 0, child.stderr[-3000:]
    found = dict(zip(commands, map(json.loads, child.stdout.splitlines()), strict=True))
    assert not (folder / "out.safetensors").exists()
    return found, canary


def test_a_good_file_is_read(outcomes):
    found = outcomes[0].pop(("predict", "good.safetensors"))
    assert (found["code"], found["traceback"]) == (0, "")
    assert "class 7" in found["message"]


def test_every_file_is_refused_in_one_sentence(outcomes):
    found = {case: one for case, one in outcomes[0].items() if case != ("predict", "good.safetensors")}
    assert len({name for _, name in found}) > 85
    for case, one in found.items():
        assert not one["traceback"], (case, one["traceback"])
        assert one["code"] in REFUSALS, (case, one)
        assert "\n" not in one["message"]
        assert 20 < len(one["message"]) < 2500, case


def test_nothing_runs(outcomes):
    found, canary = outcomes
    assert not canary.exists()
    for case, one in found.items():
        if case != ("predict", "good.safetensors"):
            assert [seen for seen in one["seen"] if "'uname'" not in seen] == [], case  # h5py asks for the platform


def test_memory_and_time_are_bounded(outcomes):
    for case, one in outcomes[0].items():
        if case != ("predict", "good.safetensors"):
            assert one["grown"] <= MEMORY, (case, one)
            assert one["seconds"] <= SECONDS, (case, one)


@pytest.mark.parametrize("name", REASONS)
def test_the_reason_is_said(name, outcomes):
    reader, reason = REASONS[name]
    assert reason in outcomes[0][reader, name]["message"]


def test_the_trap_and_the_hook_work(tmp_path):
    program = (
        "import pickle, sys; from tests.faults.many_commands import watch; seen = watch()\n"
        "pickle.loads(sys.stdin.buffer.read())\n"
        "try: import torch\nexcept ImportError: pass\nprint(*seen)"
    )
    child = subprocess.run(
        [sys.executable, "-c", program],
        input=pickle.dumps(Trap(tmp_path / "canary")),
        capture_output=True,
        cwd=ROOT,
        timeout=60,
    )
    assert child.returncode == 0, child.stderr
    for event in (b"pickle.find_class ('posix', 'system')", b"os.system", b"import ('torch'"):
        assert event in child.stdout
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("hf:../../etc", 2),
        ("hf:a/../b", 2),
        ("hf:/etc/passwd", 2),
        ("hf:a/b/c", 2),
        ("hf:..", 2),
        ("hf:", 2),
        ("hf:a/b\\..\\c", 2),
        ("hf:a/b@../../x", 75),  # a revision is quoted; without a network nothing is found
    ],
)
def test_names_of_repositories_stay_in_the_cache(name, code, tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    from resflax.errors import ResflaxError
    from resflax.weights.hub import read_hub

    with pytest.raises(ResflaxError) as refused:
        read_hub(name)
    assert refused.value.exit_code == code
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


@pytest.mark.parametrize("config", ["deep", "long", "pipe", "zero", "folder", "text", "list", "infinite"])
def test_a_folder_of_timm_with_a_hostile_configuration(config, tmp_path):
    from resflax.errors import DataError, StorageError
    from resflax.weights.hub import read_timm_folder

    path = tmp_path / "config.json"
    if config == "pipe":
        os.mkfifo(path)
    elif config == "zero":
        path.symlink_to("/dev/zero")
    elif config == "folder":
        path.mkdir()
    elif config == "long":
        with path.open("wb") as file:
            file.truncate(2**40)  # sparse: it takes no space
    else:
        text = {"deep": "[" * 10**6, "text": b"\xff\xfe", "list": "[1]"}
        pretrained = {"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, float("inf"), float("inf")]}}
        content = text.get(config, json.dumps(pretrained))
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((DataError, StorageError)) as refused:
        read_timm_folder(tmp_path)
    assert "config.json" in str(refused.value)
