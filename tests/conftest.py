"""Eight virtual CPU devices, strict JAX, the digits prepared once, nothing from or to the user's own folders."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

SCRATCH = Path(tempfile.gettempdir()) / f"resflax-tests-{os.getuid()}"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TFDS_DATA_DIR"] = str(SCRATCH / "tfds")
os.environ["XDG_CACHE_HOME"] = str(SCRATCH / "cache")
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(SCRATCH / "xla")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config):
    from resflax.cli import avoid_broken_fusion

    avoid_broken_fusion()
    if not hasattr(config, "workerinput"):  # before pytest-xdist starts its workers
        from resflax.data.arrays import load_split

        load_split("digits", "test")


@pytest.fixture
def one_device_environment():
    """The environment of a child process that sees one CPU device, as on a laptop."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("XLA_FLAGS")
    return environment


@pytest.fixture
def command(one_device_environment, tmp_path):
    """Runs `python -m resflax.NAME ARGUMENTS` in an empty folder; returns the completed process."""
    import subprocess

    def run(name, *arguments, **options):
        return subprocess.run(
            [sys.executable, "-m", f"resflax.{name}", *map(str, arguments)],
            cwd=tmp_path,
            env=one_device_environment,
            capture_output=True,
            text=True,
            timeout=300,
            **options,
        )

    return run


@pytest.fixture(scope="session")
def squares_run(tmp_path_factory):
    """The workdir of a network that tells the textures of `tests.squares` apart."""
    from resflax.train import train_and_evaluate
    from tests import squares

    folder = tmp_path_factory.mktemp("squares")
    assert train_and_evaluate(squares.config(folder), str(folder / "run"))["test_accuracy"] > 0.95
    return str(folder / "run")


def use_one_device(patch):
    """Meshes are of the first device alone where no others are asked for."""
    import jax

    from resflax.training import sharding

    make_mesh = sharding.make_mesh
    patch.setattr(sharding, "make_mesh", lambda devices=None: make_mesh(devices or jax.devices()[:1]))


@pytest.fixture
def one_device(monkeypatch):
    """The commands of the test see one device."""
    use_one_device(monkeypatch)


@pytest.fixture(scope="session")
def micro_run(tmp_path_factory):
    """The workdir of a finished run of `tests.micro` on one device, for tests that only read it."""
    from resflax import train
    from resflax.build import record
    from tests import micro

    folder = tmp_path_factory.mktemp("micro")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "draw", lambda *_: None)
        use_one_device(patch)
        train.train_and_evaluate(micro.config(micro.write_npz(folder)), str(folder / "run"))
    return folder / "run"
