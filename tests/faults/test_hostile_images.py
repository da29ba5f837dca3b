"""Images that somebody else made: one call of `predict` over hundreds of bad files, whose good ones must not suffer."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from resflax.data.decode import decode
from resflax.errors import InputError
from tests.conftest import ROOT
from tests.faults.hostile_images import SIZE, good, just_allowed, made_by_hand, mutants
from tests.faults.hostile_weights import weight_file

MEMORY = 512 * 2**20
SECONDS = 60  # one file of any kind; the large ones take two or three on a quiet machine


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "network.safetensors"
    path.write_bytes(weight_file(image_size=[SIZE, SIZE], source_shape=[SIZE, SIZE, 3]))
    return path


def predict(network, folder, *arguments):
    """`(rows by path, lines on stderr, exit code, bytes at most resident)`, through a wrapper that tells of the memory."""
    program = "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode\n"
    program += "print('PEAK', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, file=sys.stderr); sys.exit(code)"
    command = [sys.executable, "-m", "resflax.predict", f"--checkpoint={network}", "--json", *arguments, "."]
    child = subprocess.run(
        [sys.executable, "-c", program, *command],
        cwd=folder,
        env={**{name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    *said, last = child.stderr.splitlines()
    rows = {row["path"]: row for row in map(json.loads, child.stdout.splitlines())}
    return rows, said, child.returncode, int(last.split()[1])


def write(folder, files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        suffix = "" if Path(name).suffix in (".jpg", ".jpeg", ".png", ".webp") else ".jpg"
        (folder / f"{name}{suffix}").write_bytes(content)
    return folder


def check_predictions(network, tmp_path, files):
    """The good files of `predict` among `files` have the rows they have alone; returns rows and the memory beyond that."""
    alone, _, code, least = predict(network, write(tmp_path / "alone", good()))
    assert (code, len(alone)) == (0, 20)
    rows, said, code, most = predict(network, write(write(tmp_path / "all", good()), files))
    assert (code, said) == (3, [])
    assert len(rows) == 20 + len(files)
    assert {path: rows[path] for path in alone} == alone  # probabilities to the last bit
    for path, row in rows.items():
        assert row.keys() in ({"path", "predictions"}, {"path", "error"})
        if "error" in row:
            assert row["error"].startswith(f"{path} must ")
            assert "\n" not in row["error"]
    return rows, most - least


def test_good_files_among_bad_ones(network, tmp_path):
    hand, mutated = made_by_hand(), mutants(300)
    assert len(hand) >= 60
    rows, grown = check_predictions(network, tmp_path, hand | mutated)
    assert sum("error" in row for row in rows.values()) > 250
    assert grown <= MEMORY


def read_alone(folder, files):
    """`{name: (bytes the largest resident set grew by, seconds, what was said)}`, in one process, one file after another."""
    for number, content in enumerate(files.values()):
        (folder / str(number)).write_bytes(content)
    program = """
        import json, resource, sys, time
        from pathlib import Path
        from resflax.data.decode import decode
        from resflax.data.geometry import stretch
        for number in range(int(sys.argv[1])):
            before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
            try:
                said = f"read {stretch(decode(Path(str(number)), 3), 32, 32).size}"
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
            grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
            print(json.dumps([grown, time.perf_counter() - start, said]))
    """
    # A process begins with the largest resident set of the one that started it, so there is a small one in between.
    start = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', *sys.argv[1:]]).returncode)"
    child = subprocess.run(
        [sys.executable, "-c", start, textwrap.dedent(program), str(len(files))],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert child.returncode == 0, child.stderr
    return dict(zip(files, map(json.loads, child.stdout.splitlines()), strict=True))


def test_every_file_alone_is_quick_and_takes_little_memory(tmp_path):
    found = read_alone(tmp_path, made_by_hand())
    for name, (_, seconds, said) in found.items():
        assert said == "read (32, 32)" or said.startswith("InputError: "), name
        assert seconds <= SECONDS, name
    assert sum(grown for grown, _, _ in found.values()) <= MEMORY
    for name, reason in {
        "a bomb of 1 GB.png": "at most 67108864 pixels, got 12000 x 12000",
        "one row.png": "at most 65535 pixels a side, got 67108864 x 1",
        "largest.webp": "at most 67108864 pixels",
        "large.webp": "at most 25165824 pixels as WebP, got 8192 x 8192",
        "largest.jpg": "at most 67108864 pixels",
        "large progressive.jpg": "at most 41943040 pixels as a JPEG in 10 scans, got 8192 x 8192",
        "a hundred thousand scans.jpg": "as a JPEG in 100010 scans, got 256 x 256",
        "many texts.png": "Too much memory used in text chunks",
        "vector.png": "it is none",
    }.items():
        assert reason in found[name][2], name


@pytest.mark.faults
@pytest.mark.parametrize("name", just_allowed())
def test_what_is_just_allowed_is_read_in_bounded_memory(name, tmp_path):
    _, (grown, seconds, said) = read_alone(tmp_path, {"warm.png": good(2)["good 1.png"], name: just_allowed()[name]()}).values()
    assert said == "read (32, 32)"
    assert MEMORY / 8 < grown <= MEMORY + 8 * 2**20  # and what the libraries keep for themselves
    assert seconds <= SECONDS


@pytest.mark.parametrize("large", [True, False])
def test_a_file_of_many_bytes_is_not_opened(large, tmp_path):
    path = tmp_path / "image.webp"
    with path.open("wb") as file:
        file.write(b"RIFF\xff\xff\xff\x7fWEBPVP8L")
        file.truncate(2**34 if large else 1000)  # sparse: it takes no space
    with pytest.raises(InputError, match="at most 134217728 bytes, got 17179869184" if large else "must be a readable"):
        decode(path, 3)


@pytest.mark.faults
def test_thousands_of_mutants(network, tmp_path):
    """4,000 in eight calls, each with its own seed."""
    for seed in range(1, 9):
        folder = tmp_path / str(seed)
        folder.mkdir()
        _, grown = check_predictions(network, folder, mutants(500, seed))
        assert grown <= MEMORY
